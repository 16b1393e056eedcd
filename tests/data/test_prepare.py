"""Preparation: pixels, statistics, interruption, and the errors it reports."""

import errno
import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.image_sets import (
    data_config,
    files_in,
    idx_data,
    random_pixels,
    smooth_pixels,
    write_folder,
    write_idx_set,
)
from PIL import EpsImagePlugin, Image, JpegImagePlugin

from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import images, pack, pack_writer
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pack_dir, prepare


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 16 images in chunks of 4."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 16)
    monkeypatch.setattr(prepare_module, "_CHUNK", 4)


# One image


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (41, 60), (40, 40)])
def test_central_square(height, width):
    """Mutation: the corner taken, rows and columns exchanged, a squashed image."""
    pixels = random_pixels(height, width, 3)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    expected = pixels[top : top + side, left : left + side]
    np.testing.assert_array_equal(images.load(pixels, side=None, channels=3), expected)
    content = encoded(Image.fromarray(pixels))
    np.testing.assert_array_equal(images.load(content, side=None, channels=3), expected)


@pytest.mark.parametrize(
    ("height", "width"), [(500, 333), (375, 500), (20, 30), (31, 1000), (1000, 31)]
)
def test_short_side_is_scaled(height, width):
    """Mutation: the long side scaled to `side`, or both (a squashed image)."""
    # Brightness is the distance from the left edge, in parts of the height.
    ramp = np.linspace(-0.5 * width / height, 0.5 * width / height, width)
    pixels = np.clip(128 + 200 * ramp, 0, 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels[None, :, None], (height, width, 3)).copy()
    square = images.load(pixels, side=64, channels=3)
    assert square.shape == (64, 64, 3)
    span = min(1.0, width / height)
    expected = np.clip(128 + 200 * np.linspace(-span / 2, span / 2, 64), 0, 255)
    np.testing.assert_allclose(square[32, 4:-4, 0], expected[4:-4], atol=5)


@pytest.mark.parametrize(("height", "width"), [(500, 333), (90, 400)])
def test_squash_keeps_all_of_an_image(height, width):
    """Mutation: the sides cut off before scaling, or the aspect kept."""
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
    square = images.load(pixels, side=64, channels=3, resize="squash")
    assert square.shape == (64, 64, 3)
    np.testing.assert_allclose(square[32, 2:-2, 0], np.linspace(0, 255, 64)[2:-2], atol=5)


def test_a_very_long_image_costs_no_memory():
    """Mutation: the whole image scaled before the square is cut out: here 10 GB."""
    ramp = np.broadcast_to(
        np.linspace(0, 255, 60_000).astype(np.uint8)[None, :, None], (4, 60_000, 3)
    )
    square = images.load(np.ascontiguousarray(ramp), side=256, channels=3)
    assert np.abs(square.astype(int) - 127).max() <= 1


def test_scaling_does_not_alias():
    """Mutation: a filter of fixed support: stripes of one pixel would survive as moiré."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[:, ::2] = 255
    square = images.load(pixels, side=100, channels=3)
    assert np.abs(square[5:-5, 5:-5].astype(int) - 127).max() < 12


def test_a_large_jpeg_is_reduced_without_loss():
    """Mutation: a draft below the size wanted, which blurs."""
    pixels = random_pixels(64, 64, 3).repeat(5, axis=0).repeat(5, axis=1)
    content = encoded(Image.fromarray(pixels), "JPEG", quality=98, subsampling=0)
    drafted = images.load(content, side=64, channels=3).astype(int)
    assert np.abs(drafted - images.load(pixels, side=64, channels=3)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    """Mutation: EXIF ignored, so that camera images lie on their side."""
    upright = random_pixels(6, 9, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2)[:, :],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2)[:, :],
    }[orientation]
    if orientation == 6:  # shown after a quarter turn clockwise
        stored = np.rot90(upright, 1)
    if orientation == 8:
        stored = np.rot90(upright, -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    expected = images.load(upright, side=None, channels=3)
    np.testing.assert_array_equal(images.load(content, side=None, channels=3), expected)


def test_modes_become_rgb():
    """Mutation: palette indices as gray, black behind transparency, wrapped 16-bit values."""
    pixels = random_pixels(8, 8, 3)
    gray = random_pixels(8, 8)
    alpha = random_pixels(8, 8, seed=1)
    rgba = np.dstack([pixels, alpha])
    share = alpha[:, :, None] / 255
    on_white = pixels * share + 255 * (1 - share)
    palette = Image.fromarray(gray).convert("P")
    cut_out = encoded(palette, transparency=int(gray[0, 0]))
    deep = gray.astype(np.uint16) * 257
    three_gray = np.dstack([gray] * 3)
    for content, expected, tolerance in (
        (encoded(Image.fromarray(rgba)), on_white, 1),
        (encoded(Image.fromarray(gray)), three_gray, 0),
        (encoded(Image.fromarray(deep)), three_gray, 0),
        (encoded(palette), three_gray, 0),
        (cut_out, np.where((gray == gray[0, 0])[:, :, None], 255, three_gray), 0),
        (encoded(Image.fromarray(gray > 127)), np.where(gray > 127, 255, 0)[:, :, None], 0),
    ):
        loaded = images.load(content, side=None, channels=3).astype(int)
        assert np.abs(loaded - expected).max() <= tolerance
    # Gray from color: the usual luminance, as Pillow has it.
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    loaded = images.load(encoded(Image.fromarray(pixels)), side=None, channels=1)
    assert np.abs(loaded[:, :, 0] - luminance).max() <= 1


def test_cmyk_is_not_inverted():
    """Mutation: Adobe's inverted CMYK taken literally: a negative."""
    pixels = smooth_pixels(32, 32)
    content = encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    loaded = images.load(content, side=None, channels=3).astype(int)
    assert np.abs(loaded - pixels).mean() < 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Just text in a file called README.txt",
        encoded(Image.fromarray(random_pixels(64, 64, 3)), "JPEG")[:700],
        encoded(Image.fromarray(random_pixels(64, 64, 3)))[:900],
        encoded(Image.fromarray(random_pixels(64, 64, 3)), "AVIF").replace(b"iloc", b"free"),
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    ],
)
def test_unreadable_content(content):
    """Mutation: half an image with gray below taken as whole, or an unexpected exception."""
    with pytest.raises(images.UnreadableImageError):
        images.load(content, side=None, channels=3)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
0 0 10 10 rectfill
showpage
"""


def test_postscript_starts_no_interpreter(tmp_path, monkeypatch):
    """Mutation: Pillow left to choose the format, so that it runs Ghostscript on a photo.jpg."""

    def start(*_, **__):
        raise AssertionError("an external program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "photo.jpg"
    path.write_bytes(POSTSCRIPT)
    for content in (path, POSTSCRIPT):
        with pytest.raises(images.UnreadableImageError, match="none of the formats JPEG, PNG"):
            images.load(content, side=None, channels=3)


def test_common_formats_are_read():
    """Mutation: a format lost from the list, or one that Pillow does not know (a KeyError)."""
    pixels = smooth_pixels(32, 32)
    image = Image.fromarray(pixels)
    contents = {kind: encoded(image, kind) for kind in images.FORMATS}
    contents["MPO"] = encoded(image, "MPO", save_all=True, append_images=[image])
    for kind, content in contents.items():
        loaded = images.load(content, side=None, channels=3)
        assert loaded.shape == (32, 32, 3), kind
        tolerance = 8 if kind != "GIF" else 40  # a palette
        assert np.abs(loaded.astype(int) - pixels).mean() < tolerance, kind
    usual = {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX"}
    assert usual <= set(images.FORMATS)
    assert not {"EPS", "PDF", "WMF"} & set(images.FORMATS)


# The pack and its statistics


def test_statistics_are_those_of_the_training_split(tmp_path, small_shards):
    """Mutation: held-out images in the mean, sums of one shard lost, covariance of [0, 1] pixels
    or about zero instead of the mean.
    """
    write_folder(tmp_path / "folder", {"a": 20, "b": 25}, side=12)
    changes = dict(pack_dir=str(tmp_path / "pack"), image_size=12, validation_share=0.2)
    data = data_config("folder", tmp_path / "folder", **changes)
    made = prepare(data, progress=False)
    split = made.splits["train"]
    pixels = np.frombuffer(b"".join(split.read(np.arange(split.count))), np.uint8)
    pixels = pixels.reshape(split.count, 12, 12, 3).astype(np.float64)
    np.testing.assert_allclose(made.mean_image, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(
        made.covariance, np.cov(pixels.reshape(-1, 3).T, bias=True), rtol=1e-9
    )
    assert made.mean_image.dtype == np.float32


def test_small_images_keep_their_size_and_large_ones_become_jpeg(tmp_path):
    """Mutation: 28 pixels blown up to 256; a JPEG of other quality or with halved chroma."""
    made = prepare(idx_data(tmp_path), progress=False)
    assert (made.side, made.channels, made.encoding) == (28, 1, "raw")
    assert {n: s.count for n, s in made.splits.items()} == dict(train=90, validation=10, test=20)

    write_folder(tmp_path / "folder", {"a": 4, "b": 1}, side=50)
    changes = dict(image_size=80, jpeg_quality=90, validation_share=0.0, test_share=0.0)
    data = data_config("folder", tmp_path / "folder", pack_dir=str(tmp_path / "large"), **changes)
    made = prepare(data, progress=False)
    assert (made.side, made.channels, made.encoding) == (80, 3, "jpeg")
    (record,) = made.splits["train"].read(np.array([2]))
    source = images.load(tmp_path / "folder" / "a" / "2.png", side=80, channels=3)
    assert record == images.to_jpeg(source, 90, "4:4:4")
    with Image.open(io.BytesIO(record)) as image:
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
    manifest = json.loads((made.directory / "manifest.json").read_text())
    assert manifest["settings"]["jpeg_quality"] == 90
    assert manifest["settings"]["jpeg_subsampling"] == "4:4:4"


def test_fixed_shape_sources_are_reduced_too(tmp_path):
    """Mutation: the size of an IDX set kept although it is above image_size."""
    assert prepare(idx_data(tmp_path, image_size=20), progress=False).side == 20


def test_workers_do_not_change_the_pack(tmp_path, small_shards):
    """Mutation: chunks written in the order in which they are done."""
    packs = [
        prepare(idx_data(tmp_path, pack_dir=str(tmp_path / f"pack{workers}")), workers=workers)
        for workers in (1, 3)
    ]
    assert files_in(packs[0].directory) == files_in(packs[1].directory)


def test_read_is_by_index_across_shards(tmp_path, small_shards):
    """Mutation: an index taken within its shard; offsets of the first shard used for all."""
    made = prepare(idx_data(tmp_path, validation_share=0.0), progress=False)
    assert len(list(made.directory.glob("train-*.records"))) == 7
    pixels, labels = write_idx_set(tmp_path / "again", train=100, test=20)["train"]
    order = np.random.default_rng(0).permutation(100)
    assert made.splits["train"].read(order) == [pixels[i].tobytes() for i in order]
    np.testing.assert_array_equal(made.splits["train"].labels, labels)


def test_descriptors_are_closed_with_the_split(tmp_path, small_shards):
    """Mutation: shards left open by every pack that is opened, until a process has no more."""
    directory = prepare(idx_data(tmp_path), progress=False).directory

    def open_shards():
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return sum(link.startswith(str(directory / "train-")) for link in links)

    opened = pack.open_pack(directory)
    opened.splits["train"].read(np.arange(90))
    assert open_shards() == 6
    opened.splits["train"].read(np.arange(90))
    assert open_shards() == 6
    del opened
    gc.collect()
    assert open_shards() == 0


# Interruption


class Stop(Exception):
    pass


@pytest.mark.parametrize("calls", [0, 17, 50, 95, 119])
def test_interrupted_and_resumed_is_the_same(tmp_path, monkeypatch, small_shards, calls):
    """Mutation: sums or skipped images of finished shards lost; a half-written shard kept."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    load, made = images.load, list[int]()

    def failing(*arguments, **options):
        if len(made) == calls:
            raise Stop
        made.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(images, "load", failing)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False, workers=1)
    assert not (tmp_path / "pack").exists()
    with pytest.raises(InputError, match="is unfinished; run the same command"):
        pack.open_pack(tmp_path / "pack")
    made.clear()
    calls = 10_000
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)
    assert {p.name for p in tmp_path.iterdir()} == {"idx", "whole", "pack"}


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch, small_shards):
    """Mutation: resuming that starts over."""
    load, made = images.load, list[int]()

    def failing(*arguments, **options):
        made.append(1)
        if len(made) == 60:
            raise Stop
        return load(*arguments, **options)

    monkeypatch.setattr(images, "load", failing)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False, workers=1)
    made.append(1)
    before = len(made)
    prepare(idx_data(tmp_path), progress=False)
    assert len(made) - before == 120 - 48  # three shards of 16 had been finished


def test_killed_in_the_last_steps(tmp_path, monkeypatch):
    """Mutation: a pack whose manifest is written, but which has not its name yet, made again or
    mistaken for an unfinished one.
    """
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    monkeypatch.setattr(pack_writer, "seal", lambda _: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    (tmp_path / "pack.partial" / "train-00000.npz").unlink()
    assert files_in(prepare(idx_data(tmp_path)).directory) == files_in(expected_pack.directory)


SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import images, pack_writer
pack_writer.SHARD_IMAGES, prepare_module._CHUNK = 16, 4
load = images.load
def slow(*arguments, **options):
    import time
    time.sleep({delay})
    return load(*arguments, **options)
images.load = slow
from helpers.image_sets import idx_data
prepare_module.prepare(idx_data(Path({path!r})))
"""


def start(tmp_path, delay):
    script = SCRIPT.format(
        root=str(ROOT), tests=str(ROOT / "tests"), delay=delay, path=str(tmp_path)
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_is_the_same(tmp_path, small_shards, how):
    """Mutation: files that are renamed before they are written; Ctrl-C that waits for the rest."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    process = start(tmp_path, 0.02)
    wait_for(tmp_path / "pack.partial" / "train-00002.npz", process)
    process.send_signal(how)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert not (tmp_path / "pack").exists()
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)


def test_two_at_once(tmp_path, small_shards):
    """Mutation: no lock: both write the same files, and the second finds its folder renamed."""
    idx_data(tmp_path)
    first = start(tmp_path, 0.05)
    wait_for(tmp_path / "pack.partial" / "train-00000.npz", first)
    second = start(tmp_path, 0.01)
    assert first.wait(timeout=60) == 0, first.communicate()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert "waiting for another process" in errors
    first.communicate()
    made = pack.open_pack(tmp_path / "pack")
    assert {n: s.count for n, s in made.splits.items()} == dict(train=90, validation=10, test=20)
    assert {p.name for p in tmp_path.iterdir()} == {"idx", "pack"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"disk is full: .*pack\.partial; the finished shards"),
        (errno.EDQUOT, r"disk is full: .*pack\.partial; the finished shards"),
        (
            errno.EIO,
            r"cannot write .*pack\.partial: Input/output error; set --config\.data\.pack_dir",
        ),
    ],
)
def test_failing_disk(tmp_path, monkeypatch, small_shards, code, message):
    """Mutation: a traceback, or a half-written shard that the next try takes for a whole one."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(1)
        if len(calls) == 8:
            raise OSError(code, os.strerror(code))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=message):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 16)
    partial = tmp_path / "pack.partial"
    assert (partial / "train-00002.npz").exists()
    assert not list(partial.glob("*.new*"))
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)


# Bad images


def spoil(folder):
    write_folder(folder, {"a": 20, "b": 20}, side=8)
    (folder / "a" / "3.png").write_bytes(b"not an image")
    (folder / "b" / "README.txt").write_text("about b")
    (folder / "b" / "gone.png").symlink_to(folder / "nowhere")


def test_bad_images_are_named_and_skipped(tmp_path, capfd, small_shards):
    """Mutation: labels that no longer fit their images after a gap; a silent skip."""
    spoil(tmp_path / "folder")
    changes = dict(image_size=8, validation_share=0.0, test_share=0.0, max_bad_share=0.1)
    data = data_config("folder", tmp_path / "folder", pack_dir=str(tmp_path / "pack"), **changes)
    made = prepare(data, progress=False)
    split = made.splits["train"]
    assert split.labels.tolist() == [0] * 19 + [1] * 20
    names = [f"a/{i}.png" for i in sorted(map(str, range(20))) if i != "3"]
    names += [f"b/{i}.png" for i in sorted(map(str, range(20)))]
    for name, record in zip(names, split.read(np.arange(39)), strict=True):
        pixels = images.load(tmp_path / "folder" / name, side=8, channels=3)
        assert record == pixels.tobytes(), name
    errors = capfd.readouterr().err
    manifest = json.loads((tmp_path / "pack" / "manifest.json").read_text())
    for name in ("a/3.png", "b/README.txt", "b/gone.png"):
        assert f"train: cannot read {name}" in errors
        assert any(one.startswith(name) for one in manifest["splits"]["train"]["skipped"])
    assert "3 of 42 images could not be read" in errors


def corrupt_exif_folder(directory):
    """Two classes of images whose EXIF data makes Pillow warn."""
    pixels = random_pixels(8, 8, 3)
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03\x00"
    for name in ("a", "b"):
        (directory / name).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(pixels).save(directory / name / f"{index}.jpg", exif=exif)


def test_corrupt_metadata_is_not_worth_a_warning(tmp_path):
    """Mutation: a line of Pillow's for each of a million images; the user's own filters of
    warnings changed by a call of the library."""
    corrupt_exif_folder(tmp_path / "folder")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):  # or the files test nothing
        images.load(tmp_path / "folder" / "a" / "0.jpg", side=8, channels=3)
    made = run_command(
        "--config=configs/alexnet.py:sample",
        "--config.data.name=folder",
        f"--config.data.dir={tmp_path / 'folder'}",
        f"--config.data.pack_dir={tmp_path / 'pack'}",
        "--config.data.image_size=8",
        "--config.data.test_share=0.2",
        "--config.data.validation_share=0.2",
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr.splitlines() == ["prepare: 10 of 10 images"]
    before = list(warnings.filters)
    prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "other")), progress=False)
    assert warnings.filters == before


def test_too_many_bad_images(tmp_path, small_shards):
    """Mutation: the share taken of all splits, or of one shard, or not checked on resuming."""
    spoil(tmp_path / "folder")
    changes = dict(image_size=8, validation_share=0.0, test_share=0.0, max_bad_share=0.05)
    data = data_config("folder", tmp_path / "folder", pack_dir=str(tmp_path / "pack"), **changes)
    message = r"(?s)3 of the 42 images of the train split cannot be read.*max_bad_share=0\.05.*a/3"
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            prepare(data, progress=False)
    data.max_bad_share = 0.1
    assert prepare(data, progress=False).splits["train"].count == 39


# Packs that are not what they should be


def test_other_settings_in_the_same_folder(tmp_path):
    """Mutation: a pack of other settings used silently."""
    prepare(idx_data(tmp_path), progress=False)
    message = r"other settings: config\.data\.split_seed is 1, there it is 0"
    with pytest.raises(InputError, match=message):
        prepare(idx_data(tmp_path, split_seed=1), progress=False)
    with pytest.raises(InputError, match=r"config\.data\.dir is"):
        prepare(data_config("idx", tmp_path, pack_dir=str(tmp_path / "pack")), progress=False)
    # What does not shape the pack may differ, and the source may be gone.
    prepare(idx_data(tmp_path, crop=20, max_bad_share=0.5), progress=False)
    prepare(data_config("idx", "", pack_dir=str(tmp_path / "pack")), progress=False)


def test_unfinished_pack_of_another_source(tmp_path, monkeypatch):
    """Mutation: shards of two versions of a source mixed."""
    monkeypatch.setattr(pack_writer.PackWriter, "finish", lambda _: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"unfinished pack .* \(settings\.split_seed\)"):
        prepare(idx_data(tmp_path, split_seed=3), progress=False)
    write_idx_set(tmp_path / "idx", train=100, test=20, seed=5)
    with pytest.raises(
        InputError, match=r"unfinished pack .* changed since \(source_digest, source_stamp\)"
    ):
        prepare(idx_data(tmp_path), progress=False)


def damage(directory, how):
    if how == "shard":
        path = directory / "train-00000.records"
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "lost":
        (directory / "test-00000.records").unlink()
    elif how == "labels":
        np.save(directory / "train.labels.npy", np.zeros(89, np.int32))
    elif how == "sizes":
        path = directory / "train.sizes.npy"
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "json":
        (directory / "manifest.json").write_text("{")
    elif how == "foreign":
        (directory / "manifest.json").write_text('{"name": "an app"}')
    elif how == "version":
        path = directory / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    elif how == "field":
        path = directory / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": {"train": {}}}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shard", r"train-00000\.records has 70559 bytes instead of 70560"),
        ("lost", r"test-00000\.records is missing"),
        ("labels", r"too short"),
        ("sizes", r"train\.sizes\.npy is missing or unreadable"),
        ("json", r"manifest\.json is not JSON"),
        ("foreign", r"is not a pack's manifest"),
        ("version", r"format version 99"),
        ("field", r"is missing or has the wrong type"),
    ],
)
def test_damaged_packs(tmp_path, how, message):
    """Mutation: a check removed, so that training starts and fails hours later."""
    directory = prepare(idx_data(tmp_path), progress=False).directory
    damage(directory, how)
    with pytest.raises(InputError, match=message):
        pack.open_pack(directory)


def test_an_interrupt_while_a_pack_is_opened(tmp_path, monkeypatch):
    """Catches: reading the arrays with np.fromfile, which answers an interrupt with a TypeError."""
    monkeypatch.delattr(np, "fromfile")
    directory = prepare(idx_data(tmp_path), progress=False).directory
    assert pack.open_pack(directory).mean_image.dtype == np.float32


def test_folders_that_are_no_packs(tmp_path):
    """Mutation: hours of preparation, and then a rename that fails."""
    with pytest.raises(InputError, match="there is no pack"):
        pack.open_pack(tmp_path / "none")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    for path in ("photos", "photos/me.jpg"):
        with pytest.raises(InputError, match="neither a pack nor an empty folder"):
            prepare(idx_data(tmp_path, pack_dir=str(tmp_path / path)), progress=False)
    message = r"^cannot write .*me\.jpg/pack\.partial: File exists; set --config\.data\.pack_dir"
    with pytest.raises(InputError, match=message):
        prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "photos/me.jpg/pack")), progress=False)
    (tmp_path / "empty").mkdir()
    prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "empty")), progress=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("resize", "fit"),
        ("jpeg_quality", 101),
        ("jpeg_subsampling", "420"),
        ("max_bad_share", 2.0),
    ],
)
def test_fields_out_of_range(field, value):
    """Mutation: Pillow's or NumPy's error for a setting of the user's."""
    made = run_command("--config=configs/alexnet.py:sample", f"--config.data.{field}={value}")
    assert made.returncode == 2, made.stderr
    assert made.stderr.startswith(f"alexnet_jax.prepare: data.{field}={value}; expected ")
    assert "Traceback" not in made.stderr
    assert made.stderr.count("\n") == 1


def test_pack_dir(tmp_path, monkeypatch):
    """Mutation: two configs with one cache folder; a field that does not matter in its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    plain = pack_dir(data_config("sample"))
    assert plain.parent == tmp_path / "alexnet_jax"
    assert plain.name.startswith("sample-")
    assert pack_dir(data_config("sample", crop=20, lighting="paper")) == plain
    tfds = data_config("cifar10")
    assert pack_dir(data_config("cifar10", "~/tensorflow_datasets")) == pack_dir(tfds)
    others = [
        data_config("sample", image_size=20),
        data_config("sample", resize="squash"),
        data_config("sample", split_seed=1),
        data_config("sample", validation_share=0.2),
        data_config("idx", "/a"),
        data_config("idx", "/b"),
        data_config("coco/2017"),
    ]
    assert len({pack_dir(other) for other in [data_config("sample"), *others]}) == 8
    assert all(pack_dir(other).parent == tmp_path / "alexnet_jax" for other in others)
    assert pack_dir(data_config("sample", pack_dir="/x/y")) == Path("/x/y")


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "alexnet_jax.prepare", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command(tmp_path):
    """Mutation: a progress bar in a file, results on stderr, a traceback for a user's mistake."""
    config = ["--config=configs/alexnet.py:sample", f"--config.data.pack_dir={tmp_path / 'pack'}"]
    made = run_command(*config)
    assert made.returncode == 0, made.stderr
    assert "9000 train, 1000 validation, 2000 test images, 10 classes, 28×28×1, raw" in made.stdout
    assert made.stderr.splitlines() == ["prepare: 12000 of 12000 images"]
    wrong = run_command(*config, "--config.data.validation_share=0.2")
    assert wrong.returncode == 2
    assert "validation_share is 0.2, there it is 0.1" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_preparing_loads_neither_jax_nor_tensorflow():
    """Mutation: an import at the top that makes every command wait for seconds."""
    code = (
        "import sys, alexnet_jax.prepare, alexnet_jax.data.sources.tfds; "
        "heavy = {'jax', 'tensorflow', 'tensorflow_datasets'} & {*sys.modules}; "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
