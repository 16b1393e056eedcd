"""Packs of images scaled by their shorter side: pixels, statistics, draws, batches and damage."""

import dataclasses
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, files_in, idx_data, random_pixels, smooth_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.config import Config, validated
from alexnet_jax.data import images, pack, pack_writer
from alexnet_jax.data.augmentation import Augmentation, Draws
from alexnet_jax.data.batch import center_crops, consecutive_examples
from alexnet_jax.data.crops import central_square
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import main, pack_dir, prepare
from configs import googlenet, resnet, vgg
from configs.alexnet import get_config

CROP, BATCH = 16, 8
# Heights and widths of source images: taller, wider, square, tiny, and over 16 times as wide.
SHAPES = ((60, 30), (33, 100), (50, 50), (3, 5), (1, 1), (2, 70), (61, 40), (40, 61))


def expected_length(longer: int, shorter: int, side: int) -> int:
    """Return the longer side of a scaled image, rounded, half up."""
    quotient, rest = divmod(longer * side, shorter)
    return quotient + (2 * rest >= shorter)


def keep_middle(pixels: np.ndarray) -> np.ndarray:
    """Return the central part of an image that is over 16 times as long as wide."""
    longest = 16 * min(pixels.shape[:2])
    for axis in (0, 1):
        if (extra := pixels.shape[axis] - longest) > 0:
            pixels = np.take(pixels, np.arange(longest) + extra // 2, axis)
    return pixels


@given(height=st.integers(1, 70), width=st.integers(1, 70), side=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_the_whole_image_is_scaled(height: int, width: int, side: int) -> None:
    """Catches: the longer side scaled to `side`, cut off or rounded down; rows and columns
    exchanged; an image of one pixel; a side of 0 pixels."""
    pixels = random_pixels(height, width, 3, seed=height)
    loaded = images.load(pixels, side=side, channels=3, resize="shorter_side")
    middle = keep_middle(pixels)
    rows, columns = middle.shape[:2]
    shorter = min(rows, columns)
    shape = tuple(expected_length(length, shorter, side) for length in (rows, columns))
    assert loaded.shape == (*shape, 3)
    assert min(shape) == side
    if middle.shape == pixels.shape:
        size = shape[1], shape[0]
        scaled = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(loaded, np.asarray(scaled))
    kept = images.load(pixels, side=None, channels=3, resize="shorter_side")
    np.testing.assert_array_equal(kept, middle)


def test_a_long_image_is_cut_to_its_middle() -> None:
    """Catches: the left end kept; memory that grows with the ratio of the sides: this image would
    have 1.6 million rows."""
    pixels = np.zeros((20_000, 1, 3), np.uint8)
    pixels[9_992:10_008] = random_pixels(16, 1, 3)
    loaded = images.load(pixels, side=80, channels=3, resize="shorter_side")
    assert loaded.shape == (16 * 80, 80, 3)
    assert loaded[:40].any()
    assert loaded[-40:].any()


def write_shapes(folder: Path, pixels_of: Callable[..., np.ndarray], rounds: int) -> None:
    """Write `rounds` images of each of `SHAPES` in two classes."""
    for index in range(rounds * len(SHAPES)):
        (folder / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        pixels = pixels_of(*SHAPES[index % len(SHAPES)], index)
        Image.fromarray(pixels).save(folder / f"class{index % 2}" / f"{index:03d}.png")


def make_data(path: Path, side: int, **changes: Any) -> DataConfig:
    """Return the config of images of many shapes below `path`, written once."""
    if not (path / "images").exists():
        write_shapes(path / "images", lambda h, w, seed: smooth_pixels(h, w, seed=seed), rounds=4)
    first = dict(image_size=side, crop=CROP, resize="shorter_side", mean="channel", lighting="none")
    return data_config(
        "folder", path / "images", **(first | dict(pack_dir=str(path / f"pack{side}")) | changes)
    )


@pytest.fixture(scope="module", params=[20, 72], ids=["raw", "jpeg"])
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, Pack]:
    """Images of many shapes, prepared as raw pixels or as JPEG."""
    data = make_data(tmp_path_factory.mktemp("shapes"), request.param)
    made = prepare(data, progress=False)
    assert made.encoding == ("raw" if request.param == 20 else "jpeg")
    return data, made


def stored(made: Pack, split: str, index: int) -> np.ndarray:
    """Return the pixels of a prepared image."""
    (record,) = made.splits[split].read(np.array([index]))
    if made.encoding == "raw":
        return np.frombuffer(record, np.uint8).reshape(*made.splits[split].shapes[index], 3)
    with Image.open(io.BytesIO(record)) as image:
        return np.asarray(image)


def test_records_are_whole_images(prepared: tuple[DataConfig, Pack]) -> None:
    """Catches: shapes in another order than records, or width before height; squares stored."""
    data, made = prepared
    found = []
    for name, split in made.splits.items():
        for index in range(split.count):
            pixels = stored(made, name, index)
            assert pixels.shape[:2] == tuple(split.shapes[index])
            found.append(pixels.shape[:2])
    side = data.image_size
    expected = []
    for height, width in SHAPES:
        shorter = min(height, width)
        sides = (min(length, 16 * shorter) for length in (height, width))
        expected += 4 * [tuple(expected_length(length, shorter, side) for length in sides)]
    assert sorted(found) == sorted(expected)
    assert made.side == side


def test_statistics_are_of_all_training_pixels(tmp_path: Path) -> None:
    """Catches: the mean of the central squares; of the images' means; held-out images in it; a sum
    lost between shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_writer, "SHARD_IMAGES", 5)
        made = prepare(make_data(tmp_path, 20, validation_share=0.2), progress=False)
    count = made.splits["train"].count
    pixels = np.concatenate([stored(made, "train", i).reshape(-1, 3) for i in range(count)])
    mean = np.broadcast_to(pixels.mean(axis=0), (20, 20, 3))
    np.testing.assert_allclose(made.mean_image, mean, rtol=1e-6)
    np.testing.assert_allclose(made.covariance, np.cov(pixels.T, bias=True), rtol=1e-9)


def test_an_interrupted_preparation_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the shapes of finished shards lost when the rest is made by another process."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 5)
    whole = prepare(make_data(tmp_path, 20), progress=False)
    other = make_data(tmp_path, 20, pack_dir=str(tmp_path / "other"))
    write = pack_writer.PackWriter.write_shard
    written: list[Any] = []

    def stop_after_two(writer: pack_writer.PackWriter, *arguments: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        write(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pack_writer.PackWriter, "write_shard", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            prepare(other, progress=False)
    made = prepare(other, progress=False)
    first, second = (files_in(directory) for directory in (whole.directory, made.directory))
    assert {"train.shapes.npy", "validation.shapes.npy", "test.shapes.npy"} <= first.keys()
    del first["manifest.json"], second["manifest.json"]  # they name their folders
    assert first == second


def test_square_packs_have_no_shapes(tmp_path: Path) -> None:
    """Catches: another pack for squares than before, which would be prepared again; a pack of
    squares used for whole images."""
    made = prepare(idx_data(tmp_path), progress=False)
    assert not list(made.directory.glob("*shapes*"))
    assert made.splits["train"].shapes.tolist() == [[28, 28]] * 90
    data = idx_data(tmp_path, pack_dir="")
    whole = dataclasses.replace(data, resize="shorter_side")
    assert pack_dir(data) != pack_dir(whole)
    with pytest.raises(InputError, match=r"config\.data\.resize is 'shorter_side', there it is"):
        prepare(dataclasses.replace(whole, pack_dir=str(made.directory)), progress=False)


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
    shuffle; height and width exchanged; a draw that depends on other images or on the batch."""
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
    prepared: tuple[DataConfig, Pack], way: dict[str, Any]
) -> None:
    """Catches: a record read with another image's shape; a window cut at exchanged places."""
    data, made = prepared
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
            pixels = stored(made, "train", int(drawn.index[row]))
            margin = (np.array(pixels.shape[:2]) - made.side) // 2
            beyond += (drawn.offset[row] < margin).any()
            expected = cut(pixels, drawn.offset[row], drawn.window[row], bool(drawn.flip[row]))
            difference = np.abs(np.asarray(batch.image)[row].astype(int) - expected).max()
            assert difference <= (0 if made.encoding == "raw" else 1)
    assert beyond > 3


def test_predictions_crop_like_evaluation(prepared: tuple[DataConfig, Pack]) -> None:
    """Catches: the center of a prediction a pixel beside that of an evaluation."""
    data, made = prepared
    config = Config(batch_size=BATCH, data=data, model=SequentialConfig(channels=3))
    count = made.splits["train"].count
    batches = list(evaluation_batches(made, "train", config))
    evaluated = np.concatenate([np.asarray(batch.image)[:, 0] for batch in batches])
    for index in range(count):
        pixels = central_square(stored(made, "train", index))
        assert pixels.shape == (made.side, made.side, 3)
        predicted = center_crops(pixels[None], CROP, 3)
        np.testing.assert_array_equal(evaluated[index], np.asarray(predicted.image)[0])


# Configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mean="image"), "data.mean=image is a mean for each pixel"),
        (dict(mean="center"), "data.mean=center is a mean for each pixel"),
        (dict(mean="channel", padding=2), "data.padding=2 surrounds square images"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    """Catches: a mean image, or padding, at a place that images of other shapes do not have."""
    config = get_config("sample")
    for name, value in {"resize": "shorter_side", **changes}.items():
        setattr(config.data, name, value)
    with pytest.raises(InputError, match=message):
        validated(config)


@pytest.mark.parametrize("module", [vgg, googlenet, resnet])
def test_recipes_keep_whole_images_but_small_ones(module: Any) -> None:
    """Catches: central squares in recipes whose papers crop the whole image; other packs for the
    sample and CIFAR-10."""
    for variant, expected in (
        *(("", "shorter_side"), ("imagenette", "shorter_side")),
        *(("sample", "crop"), ("cifar10", "crop"), ("fashion_mnist", "crop")),
    ):
        assert module.get_config(variant).data.resize == expected, variant


# Damage


def replace_shapes(directory: Path, shapes: np.ndarray) -> None:
    """Replace the shapes of the training images, and their checksum."""
    file = io.BytesIO()
    np.save(file, shapes)
    (directory / "train.shapes.npy").write_bytes(file.getvalue())
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["arrays"]["train.shapes.npy"] = zlib.crc32(file.getvalue())
    path.write_text(json.dumps(manifest))


def test_shapes_that_cannot_be(tmp_path: Path) -> None:
    """Catches: pixels read in rows of another length; a file of shapes that nobody compares."""
    directory = prepare(make_data(tmp_path, 20), progress=False).directory
    file = directory / "train.shapes.npy"
    shapes, content = np.load(file), file.read_bytes()
    exchanged = shapes.copy()
    wide = int(np.flatnonzero(shapes[:, 0] != shapes[:, 1])[0])
    exchanged[wide] += (exchanged[wide] > 20).astype(np.int32)
    long = shapes.copy()
    long[0] = 20, 321
    for changed, message in (
        (exchanged, "train.sizes.npy does not fit the shapes of the images"),
        (long, "shapes other than 20 pixels on the shorter side and at most 320"),
        (
            np.where(shapes == 20, 19, shapes),
            "shapes other than 20 pixels on the shorter side and at most 320",
        ),
        (shapes[1:], "train.shapes.npy is too short|has shape"),
        (shapes.astype(np.int64), "type int64"),
    ):
        replace_shapes(directory, changed)
        with pytest.raises(InputError, match=message):
            pack.open_pack(directory)
    replace_shapes(directory, shapes)
    file.write_bytes(content[:-2] + b"\x01" + content[-1:])
    with pytest.raises(InputError, match=r"train\.shapes\.npy"):
        pack.open_pack(directory)
    file.unlink()
    with pytest.raises(InputError, match=r"train\.shapes\.npy is missing"):
        pack.open_pack(directory)


def test_a_damaged_record_is_noticed(prepared: tuple[DataConfig, Pack], tmp_path: Path) -> None:
    """Catches: TensorFlow's or NumPy's error in place of the message."""
    data, made = prepared
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


def test_prepare_prints_the_sides(
    prepared: tuple[DataConfig, Pack], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Catches: a summary that calls whole images squares."""
    data, made = prepared
    config = get_config("sample")
    config.data, config.model.channels = data, 3
    monkeypatch.setattr("alexnet_jax.command.validated_config", lambda: config)
    main([])
    assert f"2 classes, {made.side}×{16 * made.side} or less×3" in capsys.readouterr().out
