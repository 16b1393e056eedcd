"""The binary version of CIFAR-10 as a source, and messages for files that cannot be used."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import data_config, write_cifar10_binary

from alexnet_jax import fields
from alexnet_jax.data.epochs import make_epochs
from alexnet_jax.data.pipeline import train_batches
from alexnet_jax.data.sources import cifar10_binary, hold_out, open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from configs import cifar


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    """Return a folder with files of 20 images each."""
    monkeypatch.setattr(cifar10_binary, "IMAGES_PER_FILE", 20)
    write_cifar10_binary(tmp_path / "bin", 20)
    return tmp_path / "bin"


def test_images_are_those_of_the_files_in_order(directory):
    """Planes of red, green and blue become channels; files are read in the order of their numbers.

    Catches: pixels reshaped as (32, 32, 3); rows and columns exchanged; files in another order.
    """
    source = open_source(data_config("cifar10_binary", directory))
    assert source.counts == {"train": 100, "test": 20}
    assert source.class_names[0] == "airplane"
    assert len(source.class_names) == 10
    names = [f"data_batch_{n}.bin" for n in range(1, 6)]
    for split, files in (("train", names), ("test", ["test_batch.bin"])):
        content = b"".join((directory / name).read_bytes() for name in files)
        examples = list(source.read(split, np.arange(source.counts[split])))
        for index, example in enumerate(examples):
            start = 3073 * index
            assert example.label == content[start]
            # Byte 1 + 1024 c + 32 y + x of a record is channel c of pixel (y, x).
            for y, x, c in ((0, 0, 0), (3, 17, 1), (31, 30, 2)):
                byte = content[start + 1 + 1024 * c + 32 * y + x]
                assert np.asarray(example.image)[y, x, c] == byte
    assert source.train_labels is not None
    assert source.train_labels.tolist() == [
        e.label for e in source.read("train", np.arange(source.counts["train"]))
    ]


def test_pack_keeps_the_order(directory, tmp_path):
    """Without held-out images, the pack's training split is the five files in order.

    Catches: an order of the pack that depends on labels or on a permutation; a small image set
    enlarged to data.image_size.
    """
    data = data_config(
        "cifar10_binary", directory, validation_share=0.0, pack_dir=str(tmp_path / "pack")
    )
    source, pack = open_source(data), prepare(data, progress=False)
    assert list(pack.splits) == ["train", "test"]
    for split in ("train", "test"):
        count = source.counts[split]
        records = pack.splits[split].read(np.arange(count))
        for record, example in zip(records, source.read(split, np.arange(count)), strict=True):
            assert record == np.asarray(example.image).tobytes()


def test_held_out_images_are_of_all_classes(directory):
    """Catches: labels not given to `hold_out`, so that classes may be missing."""
    data = data_config("cifar10_binary", directory, validation_share=0.1)
    source = open_source(data)
    assert source.train_labels is not None
    _, indices = hold_out(source, data)["validation"]
    assert sorted({*source.train_labels[indices].tolist()}) == list(range(10))


def test_training_batches_are_crops_of_the_files_in_order(directory, tmp_path):
    """The recipe of 13pct takes all images of four files, then of five, cropped and mirrored.

    Catches: shuffled images; images of masked rows that count; offsets beyond 0 … 8; a crop or a
    mirror image that is the same in every epoch.
    """
    changes = {
        "batch_size": 8,
        "data.dir": str(directory),
        "data.pack_dir": str(tmp_path / "pack"),
        "data.part_images": 20,
        "data.stages": ((1, 80), (2, 100)),
    }
    config = fields.replace(cifar.get_config("13pct"), changes)
    source, pack = open_source(config.data), prepare(config.data, progress=False)
    examples = list(source.read("train", np.arange(100)))
    epochs = make_epochs(config, 100)
    last = epochs.first_step(3)
    assert last == 4 * 3 + 2 * 5 * 3
    batches = train_batches(pack, config, epochs.examples, first_step=0, last_step=last)
    taken: list[int] = []
    crops = []
    for batch in batches:
        assert batch.mask is not None
        assert isinstance(batch.image, np.ndarray)
        for row in np.flatnonzero(batch.mask):
            index = len(taken) if len(taken) < 80 else (len(taken) - 80) % 100
            y, x = batch.offset[row]
            assert 0 <= min(y, x) <= max(y, x) <= 8
            pixels = np.asarray(examples[index].image)[y : y + 24, x : x + 24]
            expected = pixels[:, ::-1] if batch.flip[row] else pixels
            np.testing.assert_array_equal(batch.image[row], expected)
            taken.append(index)
            crops.append((index, int(y), int(x), bool(batch.flip[row])))
    assert len(taken) == 80 + 2 * 100
    assert {offset for _, *offsets, _ in crops for offset in offsets} == {*range(9)}
    assert 100 < sum(flip for *_, flip in crops) < 180
    assert len({*crops}) > 250  # another crop in most epochs


def damage(directory: Path, change: str) -> None:
    """Change one of the files as `change` says."""
    file = directory / "data_batch_3.bin"
    match change:
        case "missing":
            file.unlink()
        case "renamed":
            file.rename(directory / "batch3.bin")
        case "names":
            (directory / "batches.meta.txt").unlink()
        case "few names":
            (directory / "batches.meta.txt").write_text("cat\ndog\n")
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1000])
        case "too long":
            file.write_bytes(file.read_bytes() + b"\0" * 3073)
        case "label":
            content = bytearray(file.read_bytes())
            content[3073 * 7] = 10
            file.write_bytes(content)
        case "twice":
            shutil.copy(directory / "data_batch_1.bin", file)
        case "above":
            for path in list(directory.iterdir()):
                (directory / "cifar-10-batches-bin").mkdir(exist_ok=True)
                path.rename(directory / "cifar-10-batches-bin" / path.name)
        case "python":
            for path in list(directory.glob("*.bin")):
                path.rename(path.with_suffix(""))
        case "nothing":
            shutil.rmtree(directory)
            directory.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"lacks data_batch_3\.bin of .*; restore"),
        ("renamed", r"lacks data_batch_3\.bin of .*; it also has batch3\.bin; restore"),
        ("names", r"lacks batches\.meta\.txt of"),
        ("few names", r"2 different names in 2 lines; expected 10"),
        ("truncated", r"data_batch_3\.bin has 60,460 bytes; expected 61,460, for 20 images"),
        ("too long", r"data_batch_3\.bin has 64,533 bytes; expected 61,460"),
        ("label", r"data_batch_3\.bin has label 10 for image 7; expected 0 to 9"),
        ("twice", r"data_batch_3\.bin has the same images as data_batch_1\.bin"),
        ("above", r"give --config\.data\.dir=.*/cifar-10-batches-bin$"),
        ("python", r"are those of the Python version; unpack cifar-10-binary\.tar\.gz"),
        ("nothing", r"lacks data_batch_1\.bin, .*unpack cifar-10-binary\.tar\.gz"),
    ],
)
def test_files_that_cannot_be_used(directory, change, message):
    """Every mistake is one message with its remedy.

    Catches: a check removed; a traceback; a truncated file read as fewer images.
    """
    damage(directory, change)
    with pytest.raises(InputError, match=message):
        open_source(data_config("cifar10_binary", directory))


def test_changed_files_are_noticed(directory, tmp_path):
    """Catches: `cifar10_binary` omitted from the sources whose files are compared with the pack."""
    data = data_config("cifar10_binary", directory, pack_dir=str(tmp_path / "pack"))
    prepare(data, progress=False)
    write_cifar10_binary(directory, 20, seed=1)
    with pytest.raises(InputError, match="have changed since the pack"):
        prepare(data, progress=False)
