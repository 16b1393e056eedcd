"""Dense evaluation, grids of crops and their average, at several scales."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.image_sets import smooth_pixels, write_idx_set
from helpers.torch_reference import make_one_column, random_params, small_config
from PIL import Image

from alexnet_jax import evaluate, sharding
from alexnet_jax.config import Config, sequential_model, validated, with_changes
from alexnet_jax.data import images
from alexnet_jax.data.batch import Batch, center_crops
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU
from alexnet_jax.predict import predict, print_predictions
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel

SIDE, CROP, CLASSES = 28, 16, 5


def dense_config(directory: Path | None = None) -> Config:
    """Return the config of a model without padding, for crops of 16 pixels at a stride of 4.

    Without padding, a dense result at a position is that of the crop there, to the last bit but
    for the order of sums.
    """
    config = small_config()
    make_one_column(config)
    config.data.crop, config.data.mean, config.batch_size = CROP, "channel", 10
    config.data.scale = 1 / 64  # no probability rounds to 0
    ops: dict[str, Op] = dict(
        conv1=Conv(6, kernel=3), relu1=ReLU(), pool1=MaxPool(window=2, ceil_mode=False),  # 14, 7
        conv2=Conv(6, kernel=2), relu2=ReLU(), pool2=MaxPool(window=2, ceil_mode=False),  # 6, 3
        fc6=Dense(8), relu6=ReLU(),
        fc7=Dense(8), relu7=ReLU(),
        fc8=Dense(0),
    )  # fmt: skip
    sequential_model(config).ops = ops
    config.model.num_classes = CLASSES
    if directory is not None:
        config.data.name, config.data.dir = "idx", str(directory)
    return validated(config)


def trained(config: Config, seed: int = 0) -> TrainedModel:
    """Return a model with random parameters, as if it had been trained."""
    params = jax.tree.map(jnp.float32, random_params(config, seed))
    mean = np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE, 1)).astype(np.float32)
    return TrainedModel(config, 1, {"params": params}, mean, tuple(map(str, range(CLASSES))))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of images of 28 pixels; the last batch of the test split is not full."""
    directory = tmp_path_factory.mktemp("data")
    write_idx_set(directory, train=20, test=17)
    return directory


def crop_logits(model: TrainedModel, whole: Any, offset: tuple[int, int]) -> Any:
    """Return the logits of crops (n, 16, 16, 1) uint8 at an offset, one by one."""
    top, left = offset
    crops = np.asarray(whole, np.float32)[:, top : top + CROP, left : left + CROP]
    mean = np.asarray(mean_of(model.mean_image, model.config.data, 1))
    inputs = jnp.asarray((crops - mean) * model.config.data.scale)
    outputs, _ = registry.apply_model(registry.make_model(model.config), model.variables, inputs)
    return outputs.logits


def test_dense_is_the_model_at_every_position(data: Path) -> None:
    """Catches: fully-connected layers whose units are flattened in another order than pixels; a
    stride other than the product of the strides; logits averaged after the softmax.

    28 pixels hold 4 × 4 crops of 16 pixels at a stride of 4.
    """
    config = dense_config(data)
    model, pack = trained(config), prepare(config.data, progress=False)
    mesh = sharding.make_data_mesh(1)
    batch: Any = next(evaluation_batches(pack, "test", config, views="dense"))
    assert batch.image.shape == (10, 2, SIDE, SIDE, 1)
    np.testing.assert_array_equal(batch.image[:, 1], batch.image[:, 0, :, ::-1])
    found = model.make_dense_predict_fn(mesh)(batch.view(0))
    positions = [(4 * y, 4 * x) for y in range(4) for x in range(4)]
    logits = [crop_logits(model, batch.image[:, 0], position) for position in positions]
    expected = jax.nn.log_softmax(jnp.stack(logits).mean(0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", ["image", "center", "channel"])
def test_dense_is_the_model_on_a_crop(mean: str) -> None:
    """Catches: a difference where the image is no larger than the crop; a mean at a wrong place."""
    config = with_changes(dense_config(), {"data.mean": mean})
    model = trained(config)
    model = TrainedModel(config, 1, model.variables, model.mean_image[:CROP, :CROP], ())
    rng, mesh = np.random.default_rng(0), sharding.make_data_mesh(1)
    batch = center_crops(rng.integers(0, 256, (4, CROP, CROP, 1), np.uint8), CROP, 1)
    dense, plain = (
        make(mesh)(batch) for make in (model.make_dense_predict_fn, model.make_predict_fn)
    )
    np.testing.assert_allclose(dense, plain, rtol=1e-5, atol=1e-5)


def test_scaled_images_are_not_padded() -> None:
    """Catches: the padding of training cut out of scaled images, whose pixels are not those of
    prepared ones."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (4, SIDE, SIDE, 1), np.uint8)
    offset = np.full((4, 2), 3, np.int32)  # as for windows of 22 of 28 pixels
    results: list[jax.Array] = []
    for padding in (0, 4):
        config = with_changes(dense_config(), {"data.crop": SIDE, "data.padding": padding})
        batch = Batch(crops, offset, np.zeros(4, bool))
        model = trained(config)
        results.append(model.make_predict_fn(sharding.make_mesh(config.parallel))(batch))
    np.testing.assert_array_equal(results[0], results[1])


def test_errors_of_dense_and_grid_and_both(data: Path) -> None:
    """Catches: probabilities averaged over all views at once, in which 2 dense ones weigh less
    than 50; logarithms averaged; a scale left out; images of the last batch lost."""
    config = dense_config(data)
    model, pack = trained(config), prepare(config.data, progress=False)
    mesh, scales = sharding.make_data_mesh(1), (SIDE, 20)
    labels = pack.splits["test"].labels
    means: dict[str, list[np.ndarray]] = {"dense": [], "grid": []}
    for views, parts in means.items():
        make = model.make_dense_predict_fn if views == "dense" else model.make_predict_fn
        predict = make(mesh)
        for scale in scales:
            found = []
            for batch in evaluation_batches(pack, "test", config, views=views, scale=scale):
                count = batch.offset.shape[1]
                assert count == {"dense": 2, "grid": 50}[views]
                logs = [np.asarray(predict(batch.view(view))) for view in range(count)]
                found.append(np.exp(np.asarray(logs)).mean(0)[np.asarray(batch.mask)])
            parts.append(np.concatenate(found))
    for views, parts in (*means.items(), ("dense_grid", means["dense"] + means["grid"])):
        probabilities = np.mean(parts, axis=0)
        split, (result,) = evaluate.evaluate([model], "test", views, mesh, scales=scales)
        assert (split, result["count"]) == ("test", 17)
        expected = -np.log(probabilities[np.arange(17), labels]).mean()
        assert result["loss"] == pytest.approx(expected, rel=1e-5)
        assert result["top1_error"] == pytest.approx((probabilities.argmax(1) != labels).mean())


def test_several_models_are_averaged(data: Path) -> None:
    """Catches: the average of models taken over the passes of one of them."""
    config = dense_config(data)
    models = [trained(config, seed) for seed in (0, 1)]
    mesh = sharding.make_data_mesh(1)
    _, results = evaluate.evaluate(models, "test", "dense", mesh, scales=(SIDE, 20))
    alone = [evaluate.evaluate([m], "test", "dense", mesh, scales=(SIDE, 20))[1][0] for m in models]
    assert [r["loss"] for r in results[:2]] == pytest.approx([r["loss"] for r in alone])
    assert results[2]["loss"] < max(r["loss"] for r in alone)


@pytest.mark.parametrize(
    ("mean", "columns", "scales", "message"),
    [
        ("image", 1, (20,), "data.mean=image"),
        ("channel", 1, (12,), "images scaled to 12 pixels are smaller than data.crop=16"),
        ("channel", 2, (), "split into 2 columns"),
    ],
)
def test_refused(
    data: Path, mean: str, columns: int, scales: tuple[int, ...], message: str
) -> None:
    """Catches: a mean image subtracted from a scaled one; a traceback."""
    config = with_changes(dense_config(data), {"data.mean": mean})
    if columns == 2:
        config = with_changes(config, {"model.num_columns": 2})
    model = trained(config)
    with pytest.raises(InputError, match=message):
        evaluate.evaluate([model], "test", "dense", sharding.make_data_mesh(1), scales=scales)


@pytest.mark.parametrize("words", [["256", "big"], ["0"], ["-3"], ["1e3"]])
def test_scales_are_numbers(words: list[str]) -> None:
    """Catches: a traceback of int()."""
    with pytest.raises(InputError, match="is no length in pixels"):
        evaluate.parse_scales(words)
    assert evaluate.parse_scales(["256", "384"]) == [256, 384]
    assert evaluate.parse_scales([]) == []


def test_predictions_use_the_scale_of_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: files of a model with scale jitter that are scaled to the prepared images' size, so
    that objects in its crops are larger than those in training."""
    config = with_changes(dense_config(), {"data.scale_jitter": (16, 24)})
    model, path = trained(config), tmp_path / "image.png"
    Image.fromarray(smooth_pixels(40, 40, seed=0)).save(path)
    assert print_predictions(model, [str(path)], as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)["top5"]
    at_20 = images.load(path, side=20, channels=1)
    ((_, expected),) = predict(model, [("image", at_20)])
    assert [(top["class"], top["probability"]) for top in printed] == expected
    ((_, other),) = predict(model, [("image", images.load(path, side=SIDE, channels=1))])
    assert other != expected


def test_models_of_different_scales_are_not_averaged(data: Path) -> None:
    """Catches: a model trained with scale jitter that sees images of the other's scale."""
    config = dense_config(data)
    models = [trained(c) for c in (config, with_changes(config, {"data.scale_jitter": (16, 24)}))]
    with pytest.raises(InputError, match=r"models whose data\.scale_jitter differ"):
        evaluate.evaluate(models, "test", "center", sharding.make_data_mesh(1))
