"""Crops of images at random and other scales, against Pillow's windows of the same images."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, smooth_pixels
from PIL import Image

from alexnet_jax.config import Config
from alexnet_jax.data import images
from alexnet_jax.data.augmentation import Augmentation
from alexnet_jax.data.batch import consecutive_examples
from alexnet_jax.data.crops import make_views
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import prepare

CROP = 24


@pytest.fixture(scope="module", params=[48, 96], ids=["raw", "jpeg"])
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, Pack]:
    """Smooth images, prepared with 48 pixels as raw pixels or with 96 as JPEG."""
    path = tmp_path_factory.mktemp("images")
    for index in range(24):
        folder = path / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_pixels(100, 120, seed=index)).save(folder / f"{index:02d}.png")
    changes: dict[str, Any] = dict(image_size=request.param, crop=CROP, lighting="none")
    data = data_config("folder", path / "images", pack_dir=str(path / "pack"), **changes)
    data.mean, data.scale_jitter = "channel", (CROP, 2 * CROP)
    pack = prepare(data, progress=False)
    assert pack.encoding == ("raw" if request.param == 48 else "jpeg")
    return data, pack


def run_config(data: DataConfig) -> Config:
    """Return a config of which the pipeline reads the batch size, data and channels."""
    return Config(batch_size=8, data=data, model=SequentialConfig(channels=3))


def stored(pack: Pack, split: str, index: int) -> np.ndarray:
    """Return the pixels of a prepared image."""
    (record,) = pack.splits[split].read(np.array([index]))
    if pack.encoding == "jpeg":
        return images.load(record, side=None, channels=3)
    return np.frombuffer(record, np.uint8).reshape(pack.side, pack.side, 3)


def scaled_window(
    pixels: np.ndarray, offset: np.ndarray, window: int, size: int, flip: bool
) -> np.ndarray:
    """Return a window, scaled by Pillow and then mirrored."""
    top, left = offset
    cut = Image.fromarray(pixels[top : top + window, left : left + window])
    scaled = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC))
    return scaled[:, ::-1] if flip else scaled


def assert_close(pack: Pack, found: np.ndarray, expected: np.ndarray) -> None:
    """Assert equality; TensorFlow, which scales JPEGs, may round otherwise than Pillow."""
    difference = np.abs(found.astype(int) - expected.astype(int)).max()
    assert difference <= (1 if pack.encoding == "jpeg" else 0)


def test_training_crops_are_scaled_windows(prepared: tuple[DataConfig, Pack]) -> None:
    """Catches: a window of another image's scale; crops scaled without antialiasing, mirrored
    before they are cut, or cut at an offset of the scaled image."""
    data, pack = prepared
    split, config = pack.splits["train"], run_config(data)
    augmentation = Augmentation(
        seed=config.seed, shapes=split.shapes, data=data, lighting=np.zeros((3, 3))
    )  # fmt: skip
    examples = consecutive_examples(8, split.count)
    sides = set()
    batch: Any
    for step, batch in enumerate(train_batches(pack, config, examples, first_step=0, last_step=3)):
        drawn = augmentation.draw(*np.divmod(8 * step + np.arange(8), split.count))
        assert batch.image.shape == (8, CROP, CROP, 3)
        for row in range(8):
            window = int(drawn.window[row, 0])
            sides.add(window)
            pixels = stored(pack, "train", int(drawn.index[row]))
            flip = bool(drawn.flip[row])
            expected = scaled_window(pixels, drawn.offset[row], window, CROP, flip)
            assert_close(pack, np.asarray(batch.image[row]), expected)
    assert len(sides) > 5


def test_crops_of_random_aspect(prepared: tuple[DataConfig, Pack]) -> None:
    """Catches: height and width swapped when a window is cut, or not scaled to a square."""
    data, pack = prepared
    data = dataclasses.replace(data, scale_jitter=(), crop_area=(0.08, 1.0))
    split, config = pack.splits["train"], run_config(data)
    lighting = np.zeros((3, 3))
    augmentation = Augmentation(seed=config.seed, shapes=split.shapes, data=data, lighting=lighting)
    examples = consecutive_examples(8, split.count)
    batch: Any
    (batch,) = train_batches(pack, config, examples, first_step=0, last_step=1)
    drawn = augmentation.draw(np.zeros(8, int), np.arange(8))
    assert (drawn.window[:, 0] != drawn.window[:, 1]).any()
    for row in range(8):
        (top, left), (height, width) = drawn.offset[row], drawn.window[row]
        pixels = stored(pack, "train", int(drawn.index[row]))
        cut = Image.fromarray(pixels[top : top + height, left : left + width])
        expected = np.asarray(cut.resize((CROP, CROP), Image.Resampling.BICUBIC))
        expected = expected[:, ::-1] if drawn.flip[row] else expected
        assert_close(pack, np.asarray(batch.image[row]), expected)


@pytest.mark.parametrize(
    ("views", "scale", "count", "size"),
    [
        ("center", None, 1, CROP),  # 36, the mean of the scales in training
        ("ten", 48, 10, CROP),
        ("grid", 40, 50, CROP),
        ("dense", 32, 2, 32),
        ("dense", None, 2, 36),
    ],
)
def test_evaluation_crops_are_scaled_windows(
    prepared: tuple[DataConfig, Pack], views: str, scale: int | None, count: int, size: int
) -> None:
    """Catches: views of the prepared image's scale in place of that asked for."""
    data, pack = prepared
    found = make_views(views, pack.splits["test"].shapes[:1], CROP, scale or 36)
    batch: Any = next(evaluation_batches(pack, "test", run_config(data), views=views, scale=scale))
    assert batch.image.shape == (8, count, size, size, 3)
    for view in range(count):
        flip = bool(found.flip[view])
        (window, _), offset = found.window[0, view].tolist(), found.offset[0, view]
        expected = scaled_window(stored(pack, "test", 1), offset, window, size, flip)
        assert_close(pack, np.asarray(batch.image[1, view]), expected)


def test_positions_of_the_grid() -> None:
    """Catches: a grid that does not reach the edges, or whose steps differ by over a pixel; a
    scaled crop whose window is not rounded to the nearest. By hand: 24 of 40 pixels are 28.8 of 48.
    """
    square = np.array([[48, 48]], np.int32)
    grid = make_views("grid", square, 24, 40)
    assert ((grid.window == 29).all(), grid.size.tolist()) == (True, [24, 24])
    assert grid.offset[0, :6].tolist() == [[0, 0], [0, 5], [0, 10], [0, 14], [0, 19], [5, 0]]
    np.testing.assert_array_equal(grid.offset[:, :25], grid.offset[:, 25:])
    np.testing.assert_array_equal(grid.flip, np.arange(50) >= 25)
    dense = make_views("dense", square, 24, 40)
    assert (dense.window == 48).all()
    assert (dense.size.tolist(), dense.offset.tolist()) == ([40, 40], [[[0, 0], [0, 0]]])
    with pytest.raises(InputError, match=r"scaled to 23 pixels are smaller than data\.crop=24"):
        make_views("center", square, 24, 23)
