"""Packs of images scaled by their shorter side: pixels, statistics, configs and damage."""

import dataclasses
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.batches import read_stored
from helpers.image_sets import files_in, idx_data, random_pixels
from helpers.image_shapes import SHAPES, shapes_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.config import validated
from alexnet_jax.data import images, pack, pack_writer
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pack_checks import check_jpeg_sides
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import main, pack_dir, prepare
from configs import googlenet, resnet, vgg
from configs.alexnet import get_config


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


def test_records_are_whole_images(prepared_shapes: tuple[DataConfig, Pack]) -> None:
    """Catches: shapes in another order than records, or width before height; squares stored."""
    data, made = prepared_shapes
    found = []
    for name, split in made.splits.items():
        for index in range(split.count):
            pixels = read_stored(made, name, index)
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
        made = prepare(shapes_config(tmp_path, 20, validation_share=0.2), progress=False)
    count = made.splits["train"].count
    pixels = np.concatenate([read_stored(made, "train", i).reshape(-1, 3) for i in range(count)])
    mean = np.broadcast_to(pixels.mean(axis=0), (20, 20, 3))
    np.testing.assert_allclose(made.mean_image, mean, rtol=1e-6)
    np.testing.assert_allclose(made.covariance, np.cov(pixels.T, bias=True), rtol=1e-9)


def test_an_interrupted_preparation_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the shapes of finished shards lost when the rest is made by another process."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 5)
    whole = prepare(shapes_config(tmp_path, 20), progress=False)
    other = shapes_config(tmp_path, 20, pack_dir=str(tmp_path / "other"))
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


def test_images_that_are_too_long_for_jpeg(tmp_path: Path) -> None:
    """Catches: an image of 16:1 that ends the preparation with libjpeg's error, "broken data
    stream", without its name; a limit on squares, on small images or on raw pixels, too."""
    with pytest.raises(OSError, match="broken data stream"):  # or there is no such limit
        images.to_jpeg(np.zeros((1, images.JPEG_MAX_SIDE + 1, 1), np.uint8), 95, "4:4:4")
    images.to_jpeg(np.zeros((1, images.JPEG_MAX_SIDE, 1), np.uint8), 95, "4:4:4")
    message = r"image_size=4094 .*resize=shorter_side, .* 65504 pixels .* 65500; .* 4093 or less"
    data = shapes_config(tmp_path, 4094)
    with pytest.raises(InputError, match=message):
        prepare(data, progress=False)
    assert not (tmp_path / "pack4094.partial").exists()
    check_jpeg_sides(data, 4093)
    check_jpeg_sides(dataclasses.replace(data, resize="crop"), 4094)
    small = idx_data(tmp_path, image_size=4094, resize="shorter_side", mean="channel")
    assert prepare(small, progress=False).side == 28


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
    directory = prepare(shapes_config(tmp_path, 20), progress=False).directory
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


def test_prepare_prints_the_sides(
    prepared_shapes: tuple[DataConfig, Pack], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Catches: a summary that calls whole images squares."""
    data, made = prepared_shapes
    config = get_config("sample")
    config.data, config.model.channels = data, 3
    monkeypatch.setattr("alexnet_jax.command.validated_config", lambda: config)
    main([])
    assert f"2 classes, {made.side}×{16 * made.side} or less×3" in capsys.readouterr().out
