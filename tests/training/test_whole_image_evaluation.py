"""Evaluation on whole images of many shapes, against the model applied to one image at a time."""

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.image_sets import smooth_pixels
from helpers.torch_reference import make_one_column, random_params, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax import evaluate, sharding
from alexnet_jax.config import sequential_model, validated, with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, index_of_batches
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel

SIDE, CROP = 20, 16
SHAPES = ((20, 27), (27, 20), (20, 20))  # of source images


def chain() -> dict[str, Op]:
    """Return ops without padding whose dense positions are crops at a stride of 4 pixels."""
    return dict(
        conv1=Conv(6, kernel=3), relu1=ReLU(), pool1=MaxPool(window=2, ceil_mode=False),
        conv2=Conv(6, kernel=2), relu2=ReLU(), pool2=MaxPool(window=2, ceil_mode=False),
        fc6=Dense(8), relu6=ReLU(),
        fc8=Dense(0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a test split of images of three shapes in two classes."""
    path = tmp_path_factory.mktemp("shapes")
    for split, rounds in (("train", 1), ("test", 3)):
        for index in range(rounds * len(SHAPES)):
            folder = path / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = smooth_pixels(*SHAPES[index % len(SHAPES)], seed=index)
            Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return path


def make_trained(data: Path, family: str) -> tuple[TrainedModel, Pack]:
    """Return a model with random parameters, as if it had been trained, and its images."""
    config = small_config()
    make_one_column(config)
    config.batch_size = 10  # 2 for these views
    for name, value in (
        *(("name", "folder"), ("dir", str(data)), ("resize", "shorter_side"), ("mean", "channel")),
        *(("image_size", SIDE), ("crop", CROP), ("scale", 1 / 64), ("validation_share", 0.0)),
    ):
        setattr(config.data, name, value)
    if family == "resnet":
        config.model = ResNetConfig(channels=3, stem="small", width=2, stage_sizes=(1,))
    else:
        sequential_model(config).ops = chain()
        sequential_model(config).channels = 3
    config.model.num_classes = 2
    config = validated(config)
    pack = prepare(config.data, progress=False)
    if family == "resnet":
        variables = registry.init_variables(config)
    else:
        variables = {"params": jax.tree.map(jnp.float32, random_params(config, 0))}
    return TrainedModel(config, 1, variables, pack.mean_image, pack.class_names), pack


def scaled_image(pack: Pack, index: int, scale: int) -> np.ndarray:
    """Return a whole test image, scaled by Pillow."""
    (record,) = pack.splits["test"].read(np.array([index]))
    pixels = np.frombuffer(record, np.uint8).reshape(*pack.splits["test"].shapes[index], 3)
    height, width = (int(length * scale / SIDE + 0.5) for length in pixels.shape[:2])
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def mean_logits(model: TrainedModel, views: list[np.ndarray]) -> np.ndarray:
    """Return the mean logits of each array of views, (n, height, width, 3) uint8.

    The model is applied once to all views of one size, to compile it once.
    """
    config = model.config
    mean = mean_of(model.mean_image, config.data, 3)
    apply = jax.jit(partial(registry.apply_model, registry.make_model(config), model.variables))
    found: dict[int, np.ndarray] = {}
    for size in {array.shape[1:] for array in views}:
        numbers = [n for n, array in enumerate(views) if array.shape[1:] == size]
        joined = np.concatenate([views[n] for n in numbers]).astype(np.float32)
        inputs = jnp.asarray((joined - mean) * config.data.scale)
        outputs, _ = apply(inputs)
        ends = np.cumsum([len(views[n]) for n in numbers])[:-1]
        parts = np.split(np.asarray(outputs.logits), ends)
        found |= {n: part.mean(0) for n, part in zip(numbers, parts, strict=True)}
    return np.array([found[n] for n in range(len(views))])


def expected_probabilities(
    model: TrainedModel, family: str, pack: Pack, scales: tuple[int, ...]
) -> np.ndarray:
    """Return the probabilities of test images: of each place, mirrored or not, and at each scale.

    The model for crops is applied to every crop at a stride of 4 pixels; a residual network, which
    averages over places itself, to the whole image.
    """
    views = []
    count = pack.splits["test"].count
    for index, scale, flip in product(range(count), scales, (False, True)):
        image = scaled_image(pack, index, scale)
        image = image[:, ::-1] if flip else image
        views.append(crops_of(image) if family == "chain" else image[None])
    logits = mean_logits(model, views).reshape(count, 2 * len(scales), 2)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = (powers / powers.sum(-1, keepdims=True)).mean(1)
    return probabilities


def crops_of(image: np.ndarray) -> np.ndarray:
    """Return all crops of an image at a stride of 4 pixels that the ops of `chain` reach."""
    rows, columns = (((length - 2) // 2 - 1) // 2 - 2 for length in image.shape[:2])
    places = np.ndindex(rows, columns)
    return np.stack([image[4 * y : 4 * y + CROP, 4 * x : 4 * x + CROP] for y, x in places])


def probabilities_of_crops(model: TrainedModel, pack: Pack, views: str, scale: int) -> np.ndarray:
    """Return the probabilities of test images, averaged over the crops of a view pass."""
    batches = evaluation_batches(pack, "test", model.config, views=views, scale=scale)
    crops = np.concatenate([np.asarray(batch.image) for batch in batches])
    crops = crops[: pack.splits["test"].count]
    logits = mean_logits(model, [*crops.reshape(-1, 1, CROP, CROP, 3)])
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    means: np.ndarray = probabilities.reshape(*crops.shape[:2], -1).mean(1)
    return means


@pytest.mark.parametrize(
    ("family", "scales"),
    [
        ("chain", (SIDE, 26)),
        ("resnet", (SIDE,)),
        pytest.param("resnet", (16, 20, 27), marks=pytest.mark.slow),
    ],
)
def test_dense_is_every_place_of_the_whole_image(
    data: Path, family: str, scales: tuple[int, ...]
) -> None:
    """Catches: images padded or cut to the shape of others in their batch; a label of the order
    before images were grouped by shape; images counted twice where a group fills no batch; height
    and width scaled by different factors; a scale left out."""
    model, pack = make_trained(data, family)
    labels = pack.splits["test"].labels
    probabilities = expected_probabilities(model, family, pack, scales)
    mesh = sharding.make_data_mesh(1)
    _, (result,) = evaluate.evaluate([model], "test", "dense", mesh, pack=pack, scales=scales)
    assert result["count"] == len(labels) == 9
    expected = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["top1_error"] == pytest.approx((probabilities.argmax(1) != labels).mean())


def test_dense_and_grid_are_of_the_same_images(data: Path) -> None:
    """Catches: probabilities of one image averaged with the grid's of another, since only dense
    views need images of one shape in a batch."""
    model, pack = make_trained(data, "chain")
    mesh, labels = sharding.make_data_mesh(1), pack.splits["test"].labels
    dense = expected_probabilities(model, "chain", pack, (SIDE,))
    grid = probabilities_of_crops(model, pack, "grid", SIDE)
    _, (result,) = evaluate.evaluate([model], "test", "dense_grid", mesh, pack=pack)
    both = (dense + grid) / 2
    expected = -np.log(both[np.arange(len(labels)), labels]).mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-5)


def test_144_views_are_of_four_scales(data: Path) -> None:
    """Catches: a scale left out or weighted by its crops; the scales of crops of 224 pixels; a
    mean for each pixel, which scaled images do not have; scales given in vain."""
    model, pack = make_trained(data, "chain")
    mesh, labels = sharding.make_data_mesh(1), pack.splits["test"].labels
    parts = [probabilities_of_crops(model, pack, "squares", scale) for scale in (18, 21, 23, 25)]
    _, (result,) = evaluate.evaluate([model], "test", "144", mesh, pack=pack)
    expected = -np.log(np.mean(parts, axis=0)[np.arange(len(labels)), labels]).mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["count"] == len(labels)
    with pytest.raises(InputError, match="views=144 has scales of its own; expected no --scales"):
        evaluate.evaluate([model], "test", "144", mesh, pack=pack, scales=(18,))
    square = {"data.mean": "image", "data.resize": "crop"}
    per_pixel = dataclasses.replace(model, config=with_changes(model.config, square))
    with pytest.raises(InputError, match=r"images scaled to 18, 21, 23, 25 pixels do not have"):
        evaluate.evaluate([per_pixel], "test", "144", mesh, pack=pack)


class Shapes:
    """A split of which only the shapes of images are known."""

    def __init__(self, shapes: np.ndarray) -> None:
        """See the class."""
        self.shapes, self.count = shapes, len(shapes)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=40),
    size=st.integers(1, 9),
    by_shape=st.booleans(),
    step=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_batches_are_a_partition(
    pairs: list[tuple[int, int]], size: int, by_shape: bool, step: int
) -> None:
    """Catches: images lost or doubled at the end of a group; shapes mixed; the order changed where
    it need not be."""
    split: Any = Shapes(np.array(pairs, np.int32).reshape(-1, 2))
    index = np.arange(0, split.count, step)
    found = index_of_batches(split, size, index, by_shape=by_shape)
    assert sorted(np.concatenate([*found, index[:0]]).tolist()) == index.tolist()
    assert all(1 <= len(batch) <= size for batch in found)
    for batch in found:
        assert (np.diff(batch) > 0).all()
        if by_shape:
            assert (split.shapes[batch] == split.shapes[batch[0]]).all()
    if not by_shape:
        assert np.concatenate([*found, index[:0]]).tolist() == index.tolist()
        assert len(found) == -(-len(index) // size)
    smaller = sum(len(batch) < size for batch in found)
    assert smaller <= (len({tuple(pair) for pair in pairs}) if by_shape else 1)


def test_processes_agree_on_batches_by_shape(data: Path) -> None:
    """Catches: images grouped among those of one process only, so that their batches differ."""
    model, pack = make_trained(data, "chain")
    config = model.config
    whole = list(evaluation_batches(pack, "test", config, views="dense"))
    parts = [
        list(evaluation_batches(pack, "test", config, views="dense", rows=rows))
        for rows in np.arange(10).reshape(2, 5)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        joined: Any = jax.tree.map(lambda *a: np.concatenate(a), *(part[step] for part in parts))
        jax.tree.map(np.testing.assert_array_equal, joined, batch)
