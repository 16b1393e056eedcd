"""Damage of every file of a pack: one message that names the pack, never a traceback."""

import io
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, files_in, idx_data, write_folder
from helpers.interruption import Stop, stop

from alexnet_jax.config import Config, with_changes
from alexnet_jax.data import images, pack, pack_writer
from alexnet_jax.data.batch import consecutive_examples
from alexnet_jax.data.pipeline import train_batches
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole pack."""
    return prepare(idx_data(tmp_path_factory.mktemp("whole")), progress=False).directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A copy of the pack, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "pack"))


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit_manifest(directory: Path, change: Change) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace_array(directory: Path, name: str, content: bytes) -> None:
    """Replace an array and its checksum, as a program with a defect would write them."""
    (directory / name).write_bytes(content)
    edit_manifest(directory, lambda m: m["arrays"].update({name: zlib.crc32(content)}))


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(array))
    return content.getvalue()


def npy_with_header(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


SHAPE = "'fortran_order': False, 'shape':"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mean_image.npy", npy(np.full((28, 28, 1), np.nan, np.float32)), "not finite"),
        ("mean_image.npy", npy(np.full((28, 28, 1), np.inf, np.float32)), "not finite"),
        ("mean_image.npy", npy(np.zeros((27, 28, 1), np.float32)), r"shape \(27, 28, 1\)"),
        ("mean_image.npy", npy(np.zeros((28, 28, 1))), "type float64"),
        ("covariance.npy", npy([[np.nan]]), "not finite"),
        ("covariance.npy", npy(np.zeros((3, 3))), r"shape \(3, 3\)"),
        ("covariance.npy", npy("text"), "type <U4"),
        ("train.labels.npy", npy(np.full(90, 5, np.int32)), "labels without a class"),
        ("train.labels.npy", npy(np.full(90, -1, np.int32)), "labels without a class"),
        ("train.labels.npy", npy(np.zeros((90, 1), np.int32)), r"shape \(90, 1\)"),
        ("train.sizes.npy", npy(np.full(90, 783, np.int32)), "does not fit the shards"),
        ("train.sizes.npy", npy(np.array([-784, 2352] * 45, np.int32)), "does not fit the shards"),
        ("train.crc32.npy", npy(np.zeros(90, np.int32)), "type int32"),
        ("train.labels.npy", npy_with_header("{'descr': '<i4', "), "missing or unreadable"),
        ("train.labels.npy", npy_with_header("{[}"), "missing or unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': '(1,', {SHAPE} (1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': ('i4',), {SHAPE} (1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{b'descr': 'i4', {SHAPE} (1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': 1, {SHAPE} (1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': '<i4', {SHAPE} (-1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': '|O', {SHAPE} (1,)}}"), "unreadable"),
        ("train.labels.npy", npy_with_header(f"{{'descr': 'q4', {SHAPE} (1,)}}"), "unreadable"),
        (
            "train.labels.npy",
            npy_with_header(f"{{'descr': '<i4', {SHAPE} ({2**62},)}}"),
            "missing or unreadable",
        ),
        ("train.labels.npy", npy_with_header("\x00'''\n\\"), "unreadable"),
        ("train.labels.npy", npy_with_header("(" * 5000), "unreadable"),
        ("train.labels.npy", b"PK\x03\x04" + bytes(30), "unreadable"),
        ("train.labels.npy", b"", "unreadable"),
    ],
)
def test_arrays_that_cannot_be(directory: Path, name: str, content: bytes, message: str) -> None:
    """Catches: training on a mean that is not a number; an exception of NumPy's parser."""
    replace_array(directory, name, content)
    with pytest.raises(InputError, match=rf"pack in .* is damaged: {name} .*{message}"):
        pack.open_pack(directory)


def manifest_field(name: str, value: Any) -> Change:
    return lambda manifest: manifest.update({name: value})


def split_field(name: str, value: Any) -> Change:
    return lambda manifest: manifest["splits"]["train"].update({name: value})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda manifest: manifest.pop("version"), "version"),
        (manifest_field("version", "2"), "version"),
        (manifest_field("class_names", [1, 2, 3, 4, 5]), "class_names"),
        (manifest_field("side", True), "side"),
        (manifest_field("side", -28), "side"),
        (manifest_field("side", 0), "side"),
        (manifest_field("channels", 2), "channels"),
        (manifest_field("encoding", "zip"), "encoding"),
        (manifest_field("splits", {}), "splits"),
        (lambda manifest: manifest["splits"].update({"../train": {}}), "splits"),
        (manifest_field("arrays", None), "arrays"),
        (manifest_field("source_digest", 3), "source_digest"),
        (split_field("shards", {"count": 1}), "shards"),
        (split_field("shards", [7]), "count"),
        (split_field("shards", [{"count": -1, "bytes": 0}]), "count"),
        (split_field("shards", [{"count": 90, "bytes": 70560.0}]), "bytes"),
        (split_field("skipped", None), "skipped"),
    ],
)
def test_manifests_that_cannot_be(directory: Path, change: Change, field: str) -> None:
    """Catches: a KeyError or a TypeError for a manifest with a missing or invalid field."""
    edit_manifest(directory, change)
    with pytest.raises(InputError, match=f"'{field}' in manifest.json is missing or has"):
        pack.open_pack(directory)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"3", b"null", b""])
def test_manifests_that_are_no_objects(directory: Path, content: bytes) -> None:
    """Catches: an exception of the JSON parser."""
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="manifest"):
        pack.open_pack(directory)


def test_a_flipped_byte_of_any_array_is_noticed(directory: Path) -> None:
    """Catches: arrays without a checksum, whose wrong numbers look like others."""
    for path in sorted(directory.glob("*.npy")):
        flip_byte(path, -2)
        with pytest.raises(InputError, match=rf"{path.name} is not as it was written"):
            pack.open_pack(directory)
        flip_byte(path, -2)
    pack.open_pack(directory)


def test_a_flipped_byte_of_a_record_is_noticed(directory: Path) -> None:
    """Catches: records without a checksum; one that is compared only at the first call."""
    flip_byte(directory / "train-00000.records", 784 * 17 + 5)
    split = pack.open_pack(directory).splits["train"]
    split.read(np.arange(17))
    message = r"image 17 of the train split, in train-00000\.records, is not as it was written"
    for index in ([17], [3, 17, 4], [*range(90)]):
        with pytest.raises(InputError, match=message):
            split.read(np.array(index))
    split.read(np.arange(18, 90))


def run_config(data: Any, channels: int) -> Config:
    """Return the sample's config for other images."""
    changes = {"batch_size": 4, "model.channels": channels, "data.crop": 60}
    config = get_config("sample")
    config.data = data
    return with_changes(config, changes)


def test_a_flipped_byte_of_a_jpeg_is_an_input_error(tmp_path: Path) -> None:
    """Catches: TensorFlow's error in place of the message; pixels of a damaged JPEG."""
    write_folder(tmp_path / "data", {"a": 4, "b": 4}, side=70)
    shares = dict(validation_share=0.0, test_share=0.0)
    places = dict(pack_dir=str(tmp_path / "pack"))
    data = data_config("folder", tmp_path / "data", image_size=70, **places, **shares)
    directory = prepare(data, progress=False).directory
    flip_byte(directory / "train-00000.records", -100)
    config = run_config(data, channels=3)
    examples = consecutive_examples(4, 8)
    opened = pack.open_pack(directory)
    batches = train_batches(opened, config, examples, first_step=0, last_step=2)
    with pytest.raises(InputError, match=r"image 7 of the train split, in train-0"):
        list(batches)


# Preparations that were interrupted


def interrupt(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare all shards, but stop before they are merged."""
    with monkeypatch.context() as patch:
        patch.setattr(pack_writer.PackWriter, "finish", stop)
        with pytest.raises(Stop):
            prepare(data, progress=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", b""),
        ("plan.json", b"{"),
        ("plan.json", b"[]"),
        ("plan.json", None),
        ("train-00001.npz", b""),
        ("train-00001.npz", b"PK\x03\x04" + bytes(100)),
        ("train-00001.npz", npy(np.zeros(3))),
        ("train-00001.npz", npy_with_header("{[}")),
        ("train-00001.records", b"half"),
        ("train-00001.records", None),
        ("manifest.json", b"{"),
    ],
)
def test_damage_in_an_unfinished_pack_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None
) -> None:
    """Catches: a traceback at every start until the folder is deleted by hand."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 40)
    whole = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    interrupt(idx_data(tmp_path), monkeypatch)
    path = tmp_path / "pack.partial" / name
    (path.parent / ".train-00001.new.records").write_bytes(b"half")  # of a process that was killed
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    made = prepare(idx_data(tmp_path), progress=False)
    assert files_in(made.directory) == files_in(whole.directory)


def test_only_the_damaged_shard_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: all shards made again for the damage of one."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 40)
    interrupt(idx_data(tmp_path), monkeypatch)
    (tmp_path / "pack.partial" / "train-00001.npz").write_bytes(b"damaged")
    load, made = images.load, []

    def counted(*arguments: Any, **options: Any) -> np.ndarray:
        made.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(images, "load", counted)
    prepare(idx_data(tmp_path), progress=False)
    assert len(made) == 40


def test_other_files_in_an_unfinished_pack_are_kept(tmp_path: Path) -> None:
    """Catches: a folder of the user's, by chance called PACK.partial, deleted with its files."""
    photo = tmp_path / "pack.partial" / "photo.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"dear")
    with pytest.raises(InputError, match=r"pack\.partial is not the folder of a pack alone"):
        prepare(idx_data(tmp_path), progress=False)
    assert photo.read_bytes() == b"dear"
