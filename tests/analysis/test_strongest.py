"""The strongest activations over a split, against sorting all of them."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.image_sets import write_idx_set

from alexnet_jax.analysis.strongest import make_strongest_fn
from alexnet_jax.config import with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.model_data import open_data
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel
from configs.alexnet import get_config

OPS: dict[str, Op] = dict(
    conv1=Conv(4, kernel=5, stride=4), relu1=ReLU(), pool1=MaxPool(), fc2=Dense(6), relu2=ReLU(),
    fc3=Dense(0),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Return a model with initial parameters, and a set of noise."""
    directory = tmp_path_factory.mktemp("idx")
    write_idx_set(directory, train=60, test=20)
    config = with_changes(
        get_config("sample"),
        {
            "data.name": "idx",
            "data.dir": str(directory),
            "batch_size": 8,
            "model.num_classes": 5,
            "model.ops": OPS,
        },
    )
    pack = prepare(config.data, progress=False)
    return TrainedModel(
        config, 1, registry.init_variables(config), pack.mean_image, tuple(pack.class_names)
    )


def all_activations(model: TrainedModel, split: str) -> dict[str, np.ndarray]:
    pack = prepare(model.config.data, progress=False)
    chosen = pack.splits[split]
    pixels = np.frombuffer(b"".join(chosen.read(np.arange(chosen.count))), np.uint8)
    crops = pixels.reshape(-1, 28, 28, 1)[:, 1:27, 1:27]
    inputs = model.normalize_crops(crops)
    module = registry.make_model(model.config)
    found = registry.compute_activations(module, model.variables, inputs)
    return {name: np.asarray(value).reshape(len(crops), -1, value.shape[-1])
            for name, value in found.items()}  # fmt: skip


@pytest.mark.parametrize("index", [None, np.array([1, 4, 5, 17])], ids=["all", "some"])
def test_by_brute_force(model: TrainedModel, index: np.ndarray | None) -> None:
    """Catches padding that counts as an image, an image that counts twice, positions of another
    channel, images numbered within their batch, and another order of equals.

    Activations of 0 are equal in many images and at many positions.
    """
    activations = all_activations(model, "test")
    images = range(20) if index is None else index.tolist()
    ops = ["relu1", "relu2"]
    find = make_strongest_fn(model, open_data(model), "test", ops, 9, index=index)
    found = find(model.variables)
    for op in ops:
        channels = activations[op].shape[-1]
        assert found[op].values.shape == (channels, min(9, len(images)))
        for channel in range(channels):
            best = []
            for image in images:
                values = activations[op][image, :, channel]
                _, pixel = min((-value, pixel) for pixel, value in enumerate(values))
                best.append((-values[pixel], image, pixel * channels + channel))
            best = sorted(best)[:9]
            assert found[op].images[channel].tolist() == [image for _, image, _ in best]
            assert found[op].positions[channel].tolist() == [position for _, _, position in best]
            np.testing.assert_allclose(
                found[op].values[channel], [-value for value, _, _ in best], rtol=1e-5
            )


def test_of_equals_the_earlier_image_and_the_first_place(model: TrainedModel) -> None:
    """Catches equals in any order: kernels of zero make all activations equal."""
    params = dict(model.params)
    params["conv1"] = {name: jnp.zeros_like(array) for name, array in params["conv1"].items()}
    find = make_strongest_fn(model, open_data(model), "test", ["conv1"], 9)
    found = find({"params": params})["conv1"]
    channels = len(found.values)
    assert found.images.tolist() == [list(range(9))] * channels
    assert found.positions.tolist() == [[channel] * 9 for channel in range(channels)]


def test_variables_of_another_checkpoint(model: TrainedModel) -> None:
    """Catches a function that keeps the variables with which it was made or first called."""
    find = make_strongest_fn(model, open_data(model), "test", ["conv1"], 2)
    params = dict(model.params)
    params["conv1"] = {name: -array for name, array in params["conv1"].items()}
    first, second = find(model.variables)["conv1"], find({"params": params})["conv1"]
    assert not np.array_equal(first.images, second.images)


def test_what_does_not_exist(model: TrainedModel) -> None:
    """Catches a KeyError for an op or a split that the model does not have."""
    with pytest.raises(InputError, match="no op relu9; expected some of conv1, relu1, pool1, fc2"):
        make_strongest_fn(model, open_data(model), "test", ["relu1", "relu9"])
    with pytest.raises(InputError, match="--split=tset"):
        make_strongest_fn(model, open_data(model), "tset", ["relu1"])
