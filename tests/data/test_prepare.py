"""Preparation: the pack, its statistics, and the errors it reports."""

import gc
import io
import json
import os
import subprocess
import sys
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
    write_folder,
    write_idx_set,
)
from PIL import Image, JpegImagePlugin

from alexnet_jax.data import images, pack
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pack_dir, prepare

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
