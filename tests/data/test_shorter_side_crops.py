"""Crops of images scaled by their shorter side: their draws, and batches of them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.batches import read_stored
from helpers.image_sets import idx_data
from helpers.image_shapes import CROP
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.config import Config
from alexnet_jax.data import pack
from alexnet_jax.data.augmentation import Augmentation, Draws
from alexnet_jax.data.batch import center_crops, consecutive_examples
from alexnet_jax.data.crops import central_square
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import prepare

BATCH = 8


def test_square_images_are_the_same_either_way(tmp_path: Path) -> None:
    """Catches: other draws, or other crops, of square images in a pack that keeps shapes."""
    data = idx_data(tmp_path, mean="channel", lighting="source2012")
    whole = dataclasses.replace(data, resize="shorter_side", pack_dir=str(tmp_path / "whole"))
    squares, rectangles = prepare(data, progress=False), prepare(whole, progress=False)
    config = Config(batch_size=BATCH, data=data, model=SequentialConfig(channels=1))
    examples = consecutive_examples(BATCH, 90)
    np.testing.assert_allclose(rectangles.covariance, squares.covariance, rtol=1e-12)
    rectangles.covariance = squares.covariance
    for left, right in zip(
        train_batches(squares, config, examples, first_step=0, last_step=3),
        train_batches(rectangles, config, examples, first_step=0, last_step=3),
        strict=True,
    ):
        for field in ("image", "offset", "flip", "label", "shift"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


# Draws

shapes_of_images = st.lists(
    st.tuples(st.booleans(), st.integers(0, 60)), min_size=1, max_size=12
).map(lambda pairs: np.array([(20, 20 + n)[:: -1 if t else 1] for t, n in pairs], np.int32))

ways = st.sampled_from(
    [
        dict(),
        dict(crop_positions="five"),
        dict(crop_positions="center"),
        dict(scale_jitter=(CROP, 40)),
        dict(crop_area=(0.08, 1.0)),
        dict(crop_area=(0.9, 1.0), crop_aspect=(0.2, 5.0)),
        dict(crop_area=(0.08, 1.0), crop_positions="five"),
        dict(crop_area=(0.9, 1.0), crop_aspect=(0.2, 5.0), crop_positions="center"),
        dict(crop_chunk=3),
    ]
)


def draw(shapes: np.ndarray, seed: int, numbers: np.ndarray, **data: Any) -> Draws:
    """Return the draws of examples numbered through the epochs."""
    augmentation = Augmentation(
        seed=seed, shapes=shapes, data=DataConfig(crop=CROP, **data), lighting=np.zeros((3, 3))
    )
    return augmentation.draw(*np.divmod(numbers, len(shapes)))


@given(shapes=shapes_of_images, seed=st.integers(0, 99), way=ways, data=st.data())
@settings(max_examples=150, deadline=None)
def test_windows_are_inside_of_their_image(
    shapes: np.ndarray, seed: int, way: dict[str, Any], data: st.DataObject
) -> None:
    """Catches: the shape of another image, or of the one at the example's position before the
    shuffle; height and width exchanged; a draw that depends on other images or on the batch; a
    window longer than the central square whose place in it is outside of the image."""
    numbers = np.arange(3 * len(shapes))
    draws = draw(shapes, seed, numbers, **way)
    assert draws.offset.dtype == draws.window.dtype == np.int32
    assert (draws.offset >= 0).all()
    assert (draws.window >= 1).all()
    assert (draws.offset + draws.window <= shapes[draws.index]).all()
    some = np.sort(data.draw(st.permutations(numbers.tolist()))[: 1 + len(numbers) // 2])
    others = shapes.copy()
    absent = np.setdiff1d(np.arange(len(shapes)), draws.index[some])
    others[absent] = 20
    part = draw(others, seed, some, **way)
    for field in ("index", "offset", "window", "flip"):
        np.testing.assert_array_equal(getattr(part, field), getattr(draws, field)[some])


def test_offsets_are_uniform_over_the_whole_image() -> None:
    """Catches: crops of the central square only; an end that is never reached."""
    shapes = np.tile(np.array([[20, 50]], np.int32), (40_000, 1))
    draws = draw(shapes, 0, np.arange(40_000))
    for axis, room in ((0, 4), (1, 34)):
        offsets, counts = np.unique(draws.offset[:, axis], return_counts=True)
        assert offsets.tolist() == [*range(room + 1)]
        assert np.abs(counts / 40_000 - 1 / (room + 1)).max() < 0.006


def test_areas_are_shares_of_the_whole_image() -> None:
    """Catches: a share of the central square's area; an aspect ratio relative to the image's."""
    shapes = np.tile(np.array([[400, 1000]], np.int32), (40_000, 1))
    draws = draw(shapes, 0, np.arange(40_000), crop_area=(0.08, 0.3), crop_aspect=(0.8, 1.25))
    height, width = draws.window.T.astype(float)
    shares = np.quantile(height * width / 400_000, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(shares, [0.08, 0.135, 0.19, 0.245, 0.3], atol=0.005)
    assert np.abs(np.log(width / height)).max() < np.log(1.25) + 0.02


def test_center_and_five_positions_are_of_the_central_square() -> None:
    """Catches: positions of section 4.1, whose images are square, at the ends of a long one."""
    shapes = np.tile(np.array([[20, 51]], np.int32), (200, 1))
    center = draw(shapes, 0, np.arange(200), crop_positions="center")
    assert np.unique(center.offset, axis=0).tolist() == [[2, 17]]
    five = draw(shapes, 0, np.arange(200), crop_positions="five")
    expected = [[0, 15], [0, 19], [2, 17], [4, 15], [4, 19]]
    assert np.unique(five.offset, axis=0).tolist() == expected


# Batches


def cut(pixels: np.ndarray, offset: Any, window: Any, flip: bool) -> np.ndarray:
    """Return a window of an image, scaled by Pillow to the crop and then mirrored."""
    (top, left), (height, width) = offset, window
    part = Image.fromarray(pixels[top : top + height, left : left + width])
    scaled = np.asarray(part.resize((CROP, CROP), Image.Resampling.BICUBIC))
    return scaled[:, ::-1] if flip else scaled


@pytest.mark.parametrize("way", [dict(), dict(scale_jitter=(16, 24)), dict(crop_area=(0.1, 1.0))])
def test_training_crops_are_windows_of_whole_images(
    prepared_shapes: tuple[DataConfig, Pack], way: dict[str, Any]
) -> None:
    """Catches: a record read with another image's shape; a window cut at exchanged places."""
    data, made = prepared_shapes
    data = dataclasses.replace(data, **way)
    split = made.splits["train"]
    config = Config(batch_size=BATCH, data=data, model=SequentialConfig(channels=3))
    examples = consecutive_examples(BATCH, split.count)
    beyond = 0  # crops that no central square holds
    for step, batch in enumerate(train_batches(made, config, examples, first_step=0, last_step=3)):
        numbers = BATCH * step + np.arange(BATCH)
        drawn = draw(split.shapes, config.seed, numbers, **way)
        np.testing.assert_array_equal(batch.label, split.labels[drawn.index])
        for row in range(BATCH):
            pixels = read_stored(made, "train", int(drawn.index[row]))
            margin = (np.array(pixels.shape[:2]) - made.side) // 2
            beyond += (drawn.offset[row] < margin).any()
            expected = cut(pixels, drawn.offset[row], drawn.window[row], bool(drawn.flip[row]))
            difference = np.abs(np.asarray(batch.image)[row].astype(int) - expected).max()
            assert difference <= (0 if made.encoding == "raw" else 1)
    assert beyond > 3


def test_predictions_crop_like_evaluation(prepared_shapes: tuple[DataConfig, Pack]) -> None:
    """Catches: the center of a prediction a pixel beside that of an evaluation."""
    data, made = prepared_shapes
    config = Config(batch_size=BATCH, data=data, model=SequentialConfig(channels=3))
    count = made.splits["train"].count
    batches = list(evaluation_batches(made, "train", config))
    evaluated = np.concatenate([np.asarray(batch.image)[:, 0] for batch in batches])
    for index in range(count):
        pixels = central_square(read_stored(made, "train", index))
        assert pixels.shape == (made.side, made.side, 3)
        predicted = center_crops(pixels[None], CROP, 3)
        np.testing.assert_array_equal(evaluated[index], np.asarray(predicted.image)[0])


def test_a_damaged_record_is_noticed(
    prepared_shapes: tuple[DataConfig, Pack], tmp_path: Path
) -> None:
    """Catches: TensorFlow's or NumPy's error in place of the message."""
    data, made = prepared_shapes
    copy = prepare(dataclasses.replace(data, pack_dir=str(tmp_path / "pack")), progress=False)
    records = copy.directory / "train-00000.records"
    content = bytearray(records.read_bytes())
    content[-100] ^= 1
    records.write_bytes(content)
    config = Config(batch_size=BATCH, data=data, model=SequentialConfig(channels=3))
    opened = pack.open_pack(copy.directory)
    count = made.splits["train"].count
    with pytest.raises(InputError, match=rf"image {count - 1} of the train split"):
        list(evaluation_batches(opened, "train", config))
