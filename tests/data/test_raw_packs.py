"""Packs of raw pixels at any size (data.encoding=raw), beside JPEG packs of the same images."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, files_in, smooth_pixels
from PIL import Image

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.data import images, pack_writer
from alexnet_jax.data.batch import consecutive_examples
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import pack_dir, prepare

COUNT = 12


def write_photos(folder: Path, height: int = 90, width: int = 110) -> None:
    for number in range(COUNT):
        path = folder / f"class{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_pixels(height, width, seed=number)).save(path)


def photos_config(folder: Path, pack: str, **changes: Any) -> DataConfig:
    """The config of photos, larger than what is stored raw in any case; none is held out."""
    first = dict(image_size=80, crop=64, validation_share=0.0, test_share=0.0, lighting="none")
    places = dict(pack_dir=str(folder.with_name(pack)))
    return data_config("folder", folder, **(first | places | changes))


def decode_into_folder(pack: Pack, folder: Path) -> None:
    """Write the images of a JPEG pack as they are decoded, so that they are listed in order."""
    split = pack.splits["train"]
    for number, record in enumerate(split.read(np.arange(split.count))):
        path = folder / pack.class_names[split.labels[number]] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = images.load(record, side=None, channels=3, resize="shorter_side")
        Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("resize", ["crop", "shorter_side"])
def test_batches_are_those_of_the_decoded_pack(tmp_path: Path, resize: str) -> None:
    """A raw pack of what a JPEG pack contains has the same batches, bit for bit.

    Catches: images scaled or cropped a second time, rows and columns of windows exchanged, a
    decoder that is not the one of preparation, records in another order.
    """
    write_photos(tmp_path / "photos")
    changes = dict(resize=resize, mean="channel")
    jpeg_data = photos_config(tmp_path / "photos", "jpeg", **changes)
    jpeg = prepare(jpeg_data, progress=False)
    decode_into_folder(jpeg, tmp_path / "decoded")
    raw_data = photos_config(tmp_path / "decoded", "raw", encoding="raw", **changes)
    raw = prepare(raw_data, progress=False)
    assert (jpeg.encoding, raw.encoding) == ("jpeg", "raw")
    batches = {}
    for pack, data in ((jpeg, jpeg_data), (raw, raw_data)):
        config = Config(batch_size=5, data=data, model=SequentialConfig(channels=3))
        examples = consecutive_examples(5, COUNT)
        batches[pack.encoding] = [
            *train_batches(pack, config, examples, first_step=0, last_step=6),
            *(
                b
                for v in ("center", "ten", "grid")
                for b in evaluation_batches(pack, "train", config, views=v, by_shape=True)
            ),
        ]
    assert len(batches["raw"]) > 6
    for found, expected in zip(batches["raw"], batches["jpeg"], strict=True):
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.label, expected.label)
        np.testing.assert_array_equal(found.offset, expected.offset)


def test_a_raw_pack_has_the_pixels_of_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an interruption. Catches: JPEGs decoded and stored, and a pack that says JPEG."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 5)
    write_photos(tmp_path / "photos")
    data = photos_config(tmp_path / "photos", "raw", encoding="raw")
    with monkeypatch.context() as patch:
        finished = pack_writer.PackWriter.finished

        def interrupted(self: Any, split: str, number: int) -> list[str] | None:
            if number == 2:
                raise KeyboardInterrupt
            return finished(self, split, number)

        patch.setattr(pack_writer.PackWriter, "finished", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(data, progress=False)
    made = prepare(data, progress=False)
    split, paths = made.splits["train"], sorted((tmp_path / "photos").rglob("*.png"))
    expected = [images.load(path, side=80, channels=3).tobytes() for path in paths]
    assert split.read(np.arange(COUNT)) == expected
    other = prepare(fields.replace(data, {"pack_dir": str(tmp_path / "other")}), progress=False)
    assert files_in(made.directory) == files_in(other.directory)


def test_an_unfinished_pack_of_a_version_without_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: finished shards that are made again; an unfinished pack that is refused."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 5)
    write_photos(tmp_path / "photos")
    data = photos_config(tmp_path / "photos", "pack")
    with monkeypatch.context() as patch:
        patch.setattr(pack_writer.PackWriter, "finish", lambda _: None)
        with pytest.raises(InputError):
            prepare(data, progress=False)  # all shards, and no manifest
    path = tmp_path / "pack.partial" / "plan.json"
    plan = json.loads(path.read_text())
    del plan["settings"]["encoding"]
    path.write_text(json.dumps(plan))
    written: list[int] = []
    monkeypatch.setattr(pack_writer.PackWriter, "write_shard", lambda *a: written.append(a[2]))
    assert prepare(data, progress=False).splits["train"].count == COUNT
    assert written == []


def test_the_encoding_of_a_pack_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: JPEGs where pixels are asked for, the other way round, and a pack of a version
    without the field that has to be made again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_photos(tmp_path / "photos")
    auto, raw = (photos_config(tmp_path / "photos", "pack", encoding=e) for e in ("auto", "raw"))
    made = prepare(auto, progress=False)
    message = r"encoding is 'raw', there it is 'auto'.*another --config\.data\.pack_dir"
    with pytest.raises(InputError, match=message):
        prepare(raw, progress=False)
    path = made.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["encoding"]
    path.write_text(json.dumps(manifest))
    assert prepare(auto, progress=False).encoding == "jpeg"
    with pytest.raises(InputError, match=message):
        prepare(raw, progress=False)
    shutil.rmtree(made.directory)
    prepare(raw, progress=False)
    with pytest.raises(InputError, match=r"encoding is 'auto', there it is 'raw'"):
        prepare(auto, progress=False)
    in_cache = [fields.replace(data, {"pack_dir": ""}) for data in (auto, raw)]
    assert pack_dir(in_cache[0]) != pack_dir(in_cache[1])


def test_room_for_the_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: hours of preparation until the disk is full, space that finished shards take
    counted twice, and a refusal of JPEGs, whose size is not known; a plan that is written before
    the room is known, and refuses the JPEGs that the message advises."""
    write_photos(tmp_path / "photos")
    needed = COUNT * 80 * 80 * 3
    data = photos_config(tmp_path / "photos", "raw", encoding="raw")

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    leave(needed - 1)
    message = r"^the pixels of the images take 0\.0 GB, and .* for 0\.0 GB; .*encoding=auto$"
    with pytest.raises(InputError, match=message):
        prepare(data, progress=False)
    assert prepare(fields.replace(data, {"encoding": "auto"}), progress=False).encoding == "jpeg"
    (tmp_path / "raw").rename(tmp_path / "jpeg")
    (tmp_path / "raw.partial").mkdir()
    (tmp_path / "raw.partial" / "train-00000.records").write_bytes(b"0")
    prepare(data, progress=False)
    assert "prepare: the pixels of the images take 0.0 GB\n" in capsys.readouterr().err
    leave(0)
    prepare(photos_config(tmp_path / "photos", "jpeg"), progress=False)
