"""Ten steps of training, ours and PyTorch's, from the same weights on the same images."""

import gzip
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.torch_reference import (
    TorchReference,
    make_one_column,
    random_params,
    small_config,
    torch_weights,
    train_in_torch,
)

from alexnet_jax import sharding
from alexnet_jax.config import Config, sequential_model
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.sources import SAMPLE_DIRECTORY
from alexnet_jax.inputs import mean_of
from alexnet_jax.models.ops import Conv, Dense, Dropout
from alexnet_jax.train_step import make_state, make_train_step
from configs import vgg, zfnet

STEPS, IMAGES = 10, 40  # two epochs of five batches


def sample() -> tuple[np.ndarray, np.ndarray]:
    """The first images and labels of the embedded data, straight from their IDX files."""
    with gzip.open(SAMPLE_DIRECTORY / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + IMAGES * 28 * 28)[16:], np.uint8)
    with gzip.open(SAMPLE_DIRECTORY / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + IMAGES)[8:], np.uint8)
    return pixels.reshape(IMAGES, 28, 28, 1), labels.astype(np.int32)


def draws(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    """What chance decides for a batch, with large shifts of light."""
    return {
        "index": np.arange(8 * step, 8 * step + 8) % IMAGES,
        "offset": rng.integers(0, 5, (8, 2)).astype(np.int32),
        "flip": rng.integers(0, 2, 8).astype(bool),
        "shift": rng.normal(0, 10, (8, 1)).astype(np.float32),
        "gain": rng.uniform(0.8, 1, 8).astype(np.float32),
    }


def our_batch(drawn: dict[str, np.ndarray], pixels: np.ndarray, labels: np.ndarray) -> Batch:
    """Crops of bytes: the mean and the light are for the step to apply."""
    crops = []
    for index, (top, left), flip in zip(
        drawn["index"], drawn["offset"], drawn["flip"], strict=True
    ):
        crop = pixels[index, top : top + 24, left : left + 24]
        crops.append(crop[:, ::-1] if flip else crop)
    return Batch(
        image=np.stack(crops),
        label=labels[drawn["index"]],
        offset=drawn["offset"],
        flip=drawn["flip"],
        shift=drawn["shift"],
        gain=drawn["gain"],
        example=np.arange(8, dtype=np.uint32),
        mask=np.ones(8, bool),
    )


def torch_images(drawn: dict[str, np.ndarray], pixels: np.ndarray, scale: float) -> torch.Tensor:
    """The mean is subtracted from whole images first, as the paper says; then crop and flip.

    The config's scale applies to the light, too.
    """
    centered = pixels.astype(np.float64) - pixels.astype(np.float64).mean(0)
    images = []
    for row, index in enumerate(drawn["index"]):
        top, left = drawn["offset"][row]
        image = torch.tensor(centered[index]).permute(2, 0, 1)[:, top : top + 24, left : left + 24]
        image = image.flip(-1) if drawn["flip"][row] else image
        images.append(drawn["gain"][row] * (image + float(drawn["shift"][row, 0])))
    return scale * torch.stack(images).float()


def our_training(
    config: Config, params: Any, batches: list[Batch], pixels: np.ndarray
) -> tuple[dict[str, Any], list[float], list[float]]:
    """Final parameters, losses and rates."""
    mesh = sharding.make_mesh(config.parallel)
    step = make_train_step(config, mesh, IMAGES)
    state = make_state(config, {"params": params})
    mean = jnp.asarray(mean_of(pixels.astype(np.float32).mean(0), config.data, 1))
    places = sharding.batch_sharding(config, mesh)
    losses, rates = [], []
    for batch in batches:
        state, metrics = step(state, mean, sharding.shard_batch(batch, places))
        losses.append(float(metrics.sums.loss) / float(metrics.sums.count))
        rates.append(float(metrics.learning_rate))
    assert int(state.step) == STEPS
    return state.params, losses, rates


# Initial values with which no rounding decides between two maxima, or on which side of 0 a ReLU is.
@pytest.mark.parametrize(("columns", "seed"), [(1, 2), (2, 0)])
def test_ten_steps(columns: int, seed: int) -> None:
    """Catches anything that one step hides: momentum, decay, rate drops, means and light.

    Both compute in float32 and add up in another order: 6e-8 of each sum, and more after some
    steps. Seen were 2e-7 of a loss, and 3e-6 of what training moved a parameter.
    """
    config = small_config()
    if columns == 1:
        make_one_column(config)
    check_ten_steps(config, seed)


def check_ten_steps(config: Config, seed: int) -> TorchReference:
    """Train ten steps on both sides without dropout, and compare losses and parameters.

    Returns:
        PyTorch's model after the last step.
    """
    config.learning_rate = 0.01
    config.schedule.drop_epochs = (2,)
    for op in sequential_model(config).ops.values():
        if isinstance(op, Dropout):
            op.rate = 0.0
    pixels, labels = sample()
    rng = np.random.default_rng(0)
    drawn = [draws(rng, step) for step in range(STEPS)]
    model = sequential_model(config)
    start = jax.tree.map(np.float32, random_params(config, seed))
    reference = TorchReference(model, start)

    params, losses, rates = our_training(
        config,
        jax.tree.map(jnp.asarray, start),
        [our_batch(d, pixels, labels) for d in drawn],
        pixels,
    )
    expected_rates = [0.01] * 5 + [0.001] * 5
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-6)
    batches = [
        (torch_images(d, pixels, config.data.scale), torch.tensor(labels[d["index"]]).long())
        for d in drawn
    ]

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(reference(images), labels)

    weights = list(reference.parameters())
    expected = train_in_torch(weights, loss, batches, expected_rates, config.optimizer)

    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert max(losses) - min(losses) > 0.1  # something was learned, or unlearned
    before, after = torch_weights(model, start), torch_weights(model, params)
    for name, weight in reference.weights.items():
        moved = np.abs(after[name] - before[name]).max()
        assert moved > 1e-4
        np.testing.assert_allclose(after[name], weight.detach(), rtol=1.2e-7, atol=1e-5 * moved)
    return reference


def test_ten_steps_of_vgg() -> None:
    """Catches: a gradient of 1×1 or 3×3 kernels, or of pooling without overlap, that is wrong."""
    config = small_config()
    config.data.scale = 1 / 64  # without normalization larger inputs make the losses jump
    model = sequential_model(config)
    model.num_columns = 1
    model.ops = sequential_model(vgg.get_config("sample,C")).ops
    narrow(config)
    check_ten_steps(config, seed=1)


def test_ten_steps_of_zfnet() -> None:
    """Catches: filters limited before the update in place of after it, in the gradient, in the
    momentum buffer or in fully-connected layers; normalization after pooling with a wrong gradient.
    """
    config = small_config()
    model, of_zfnet = sequential_model(config), zfnet.get_config("sample")
    config.optimizer = of_zfnet.optimizer
    model.num_columns = 1
    model.ops = sequential_model(of_zfnet).ops
    narrow(config)
    reference = check_ten_steps(config, seed=0)
    limited = [
        (weight.square().mean((1, 2, 3)).sqrt() > 0.0999).float().mean().item()
        for name, weight in reference.weights.items()
        if name.startswith("conv") and name.endswith("weight")
    ]
    assert any(0 < share < 1 for share in limited)  # some filters are at the limit, some below


def narrow(config: Config) -> None:
    """Leave eight channels or units in each hidden layer."""
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense) and op.features:
            op.features = 8
