"""Folders of images as they are unpacked, copied and left by operating systems."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, write_folder, write_idx
from PIL import Image

from alexnet_jax.data.sources import Source, hold_out, open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare

TWO = {"cat": 2, "dog": 2}


def write_nested(directory: Path, *folders: str, counts: Mapping[str, int] = TWO) -> None:
    """Write class folders below each of the folders."""
    for folder in folders:
        write_folder(directory / folder, counts, side=8)


def open_folder(directory: Path) -> Source:
    return open_source(data_config("folder", directory))


def names_of(source: Source, split: str = "train") -> list[str]:
    return [one.name for one in source.read(split, np.arange(source.counts[split]))]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("training_set", "val_set", "test_set"),
        ("Training", "Valid", "Testing"),
        ("TRAIN", "dev", "TEST"),
        ("train_images", "val-images", "test images"),
        ("images_train", "images_val", "images_test"),
        ("trainset", "valset", "testset"),
        ("seg_train/seg_train", "val/val", "seg_test/seg_test"),
    ],
)
def test_usual_names_of_splits(tmp_path: Path, train: str, validation: str, test: str) -> None:
    """Catches: training_set/ and test_set/ taken for the two classes; a split left unused."""
    write_nested(tmp_path, train, validation)
    write_nested(tmp_path, test, counts={"cat": 1, "dog": 0})
    source = open_folder(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.counts == {"train": 4, "validation": 4, "test": 1}
    assert names_of(source, "test") == [f"{test}/cat/0.png"]
    splits = hold_out(source, data_config("folder", tmp_path))
    assert [split for split, _ in splits.values()] == ["train", "validation", "test"]


def test_images_to_predict_are_left_out_with_a_line(tmp_path: Path) -> None:
    """Catches: Kaggle's seg_pred/, which has no labels, refused or taken for a class."""
    write_nested(tmp_path, "seg_train/seg_train", "seg_test/seg_test", "seg_pred")
    source = open_folder(tmp_path)
    assert source.counts == {"train": 4, "test": 4}
    assert source.notes == (
        f"{tmp_path / 'seg_pred'} is ignored: images to predict have no labels",
    )


def test_classes_may_have_names_of_splits(tmp_path: Path) -> None:
    """Catches: any folder called train, test or dev taken for a split."""
    write_folder(tmp_path, {"bus": 1, "dev": 1, "test": 1, "train": 1})
    assert open_folder(tmp_path).class_names == ("bus", "dev", "test", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "training_set"), r"2 folders for the train split: train, training_set"),
        (("train", "val", "Validation"), r"2 folders for the validation split: Validation, val"),
        (("test", "val"), r"has the folders test, val, but none for training"),
        (("train", "more"), r"there is also more; rename or move it"),
        (("Images",), r"one class only, Images; it holds the folders cat, dog\. .*dir=.*Images"),
        (("Images/Images",), r"one class only, Images; it holds the folders Images\."),
    ],
)
def test_ambiguous_folders_are_refused(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    """Catches: one of two folders chosen silently; one class, whose error is 0 %."""
    write_nested(tmp_path, *folders)
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path)


def test_flat_folders_are_described(tmp_path: Path) -> None:
    """Catches: images without labels taken for a class called "test", or no word of them."""
    write_nested(tmp_path, "train")
    write_folder(tmp_path, {"test1": 0, "test": 3})
    (tmp_path / "test1").rmdir()
    message = r"test holds 3 files and no class folders, .*labels of the test images are unknown"
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path)
    write_folder(tmp_path / "flat", {"train": 5, "test": 3})
    with pytest.raises(InputError, match=r"test holds 3 files and no class folders"):
        open_folder(tmp_path / "flat")
    with pytest.raises(InputError, match=r"train has no class folders, but 5 files"):
        open_folder(tmp_path / "flat" / "train")


def test_one_class_is_refused_for_every_source(tmp_path: Path) -> None:
    """Catches: training on one class, with a loss and an error of 0."""
    write_folder(tmp_path, {"cat": 3})
    with pytest.raises(InputError, match="one class only, cat; expected are two or more"):
        open_folder(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 4, 4)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(InputError, match=r"name=idx are of one class only, 0"):
        open_source(data_config("idx", tmp_path))


def test_class_folders_that_hold_only_folders_are_mentioned(tmp_path: Path) -> None:
    """Catches: no word where two folders of class folders are taken for the two classes."""
    write_nested(tmp_path, "archive1", "archive2")
    (note,) = open_folder(tmp_path).notes
    assert "archive1, archive2" in note
    assert "one level too high" in note
    write_folder(tmp_path / "usual", {"a/images": 1, "b/images": 1})
    assert open_folder(tmp_path / "usual").notes == ()


LEFT_BEHIND = ("Thumbs.db", "thumbs.DB", "desktop.ini", ".DS_Store", "._0.png", "ehthumbs.db")


def test_what_systems_leave_is_ignored(tmp_path: Path) -> None:
    """Catches: Thumbs.db counted as an unreadable image; __MACOSX as a class of its own."""
    write_folder(tmp_path, TWO)
    expected = names_of(open_folder(tmp_path))
    write_folder(tmp_path, {"__MACOSX/cat": 2, "@eaDir": 2, "cat/__MACOSX": 1, ".git": 1})
    for name in LEFT_BEHIND:
        (tmp_path / "cat" / name).write_bytes(b"x")
    source = open_folder(tmp_path)
    assert names_of(source) == expected
    assert source.notes == ()


def test_empty_class_folders_are_named_and_dropped(tmp_path: Path) -> None:
    """Catches: an output of the model for a class without images, or labels with a gap."""
    write_folder(tmp_path, {"bird": 0, "cat": 2, "crow/nested": 0, "dog": 2})
    source = open_folder(tmp_path)
    assert source.class_names == ("cat", "dog")
    labels = [one.label for one in source.read("train", np.arange(4))]
    assert labels == [0, 0, 1, 1]
    assert source.notes == (
        "class folders without images, which do not become classes: bird, crow",
    )
    assert source.train_labels is not None
    assert source.train_labels.tolist() == labels


def test_pipes_and_sockets_are_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a preparation that waits forever for the writer of a pipe."""
    write_folder(tmp_path / "data", TWO, side=8)
    monkeypatch.chdir(tmp_path / "data")  # the path of a socket is short
    os.mkfifo("cat/pipe.png")
    Path("dog/link.png").symlink_to(tmp_path / "data" / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("dog/socket.png")
        Path("dog/null.png").symlink_to("/dev/null")
        changes = dict(image_size=8, validation_share=0.0, test_share=0.0)
        data = data_config("folder", tmp_path / "data", pack_dir=str(tmp_path / "p"), **changes)
        assert prepare(data, progress=False).splits["train"].count == 4
    lines = capsys.readouterr().err.splitlines()
    for name in ("cat/pipe.png", "dog/link.png", "dog/socket.png", "dog/null.png"):
        path = tmp_path / "data" / name
        assert f"prepare: {path} is a pipe, a socket or a device; ignored" in lines


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """Catches: images behind a link left out; an endless list; one class that holds all others."""
    write_folder(tmp_path / "elsewhere", {"cat": 2, "more": 1})
    write_folder(tmp_path / "data", {"dog": 1, "owl": 1})
    links = {"cat": tmp_path / "elsewhere" / "cat", "dog/more": tmp_path / "elsewhere" / "more"}
    circles = {"dog/itself": Path("."), "dog/all": tmp_path / "data", "all": tmp_path / "data"}
    for name, target in (links | circles).items():
        (tmp_path / "data" / name).symlink_to(target)
    (tmp_path / "data" / "owl" / "round.png").symlink_to("round.png")
    source = open_folder(tmp_path / "data")
    assert source.class_names == ("cat", "dog", "owl")
    assert names_of(source) == [
        *("cat/0.png", "cat/1.png", "dog/0.png", "dog/more/0.png", "owl/0.png", "owl/round.png")
    ]
    assert sum("link to a folder around it" in note for note in source.notes) == 3


def test_files_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a traceback for a file or a folder without permission, or a folder left out."""
    write_folder(tmp_path / "data", {"cat": 5, "dog": 5}, side=8)
    opened, scanned = Path.open, os.scandir
    image_opened = Image.open

    def refuse(path: object) -> None:
        if str(path).endswith("cat/0.png"):
            raise PermissionError(13, "Permission denied", str(path))

    def open_path(path: Path, *arguments: Any, **options: Any) -> object:
        refuse(path)
        return opened(path, *arguments, **options)

    def open_image(path: Any, **options: Any) -> object:
        refuse(path)
        return image_opened(path, **options)

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(Image, "open", open_image)
    changes = dict(image_size=8, max_bad_share=0.2, validation_share=0.0, test_share=0.0)
    data = data_config("folder", tmp_path / "data", pack_dir=str(tmp_path / "pack"), **changes)
    prepare(data, progress=False)
    assert "cannot read cat/0.png (PermissionError" in capsys.readouterr().err

    def scan(path: Any) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=r"cannot read the images .*Permission denied.*dog"):
        prepare(data, progress=False)


def test_files_that_may_be_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: an image missing for good after `chmod +r`, which changes neither size nor time; a
    file that only its owner may read listed as unreadable, or as another than before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "data", {"cat": 5, "dog": 5}, side=8)
    first = open_folder(tmp_path / "data")
    (tmp_path / "data" / "dog" / "0.png").chmod(0o600)
    assert open_folder(tmp_path / "data").stamp == first.stamp
    image = tmp_path / "data" / "cat" / "0.png"
    image.chmod(0)
    opened, image_opened = Path.open, Image.open

    def check(path: Path) -> Path:  # root may read all files
        if path == image and not image.stat().st_mode & 0o400:
            raise PermissionError(13, "Permission denied", str(path))
        return path

    monkeypatch.setattr(os, "access", lambda path, _: os.stat(path).st_mode & 0o400 != 0)
    monkeypatch.setattr(Path, "open", lambda path, *a, **b: opened(check(path), *a, **b))
    monkeypatch.setattr(Image, "open", lambda path, **b: image_opened(check(path), **b))
    changes = dict(image_size=8, max_bad_share=0.2, validation_share=0.0, test_share=0.0)
    data = data_config("folder", tmp_path / "data", **changes)
    for _ in range(2):
        assert prepare(data, progress=False).splits["train"].count == 9
    assert "have changed" not in capsys.readouterr().err
    image.chmod(0o644)
    made = prepare(data, progress=False)
    assert (made.splits["train"].count, made.source_digest) == (10, first.digest)
    assert "names, sizes or permissions of images differ. Preparing" in capsys.readouterr().err


def test_accents_that_are_composed_in_two_ways(tmp_path: Path) -> None:
    """Catches: two names that look the same called different, without the reason; the reason given
    for any unknown class."""
    write_folder(tmp_path / "train", {"caf\u00e9": 1, "dog": 1})
    write_folder(tmp_path / "test", {"cafe\u0301": 1, "dog": 1, "owl": 1})
    message = r"folders cafe\u0301, owl, .*are caf\u00e9, dog\. cafe\u0301 differ from .* rename"
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path)
    (tmp_path / "test" / "cafe\u0301").rename(tmp_path / "test" / "caf\u00e9")
    with pytest.raises(InputError, match=r"are caf\u00e9, dog$"):
        open_folder(tmp_path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Catches: a UnicodeEncodeError wherever a name is printed or stored."""
    write_folder(tmp_path / "data", {"cat": 4, "dog": 4}, side=8)
    strange = os.fsdecode(b"photo\xff.png")
    (tmp_path / "data" / "cat" / strange).write_bytes(b"no image")
    script = (
        "import sys; from helpers.image_sets import data_config; "
        "from alexnet_jax.prepare import prepare; "
        "prepare(data_config('folder', sys.argv[1], pack_dir=sys.argv[2], image_size=8, "
        "max_bad_share=0.5, validation_share=0.0, test_share=0.0))"
    )
    tests = Path(__file__).parents[1]
    arguments = [str(tmp_path / "data"), str(tmp_path / "pack")]
    made = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    assert r"cannot read cat/photo\udcff.png" in made.stderr
    (tmp_path / "data" / os.fsdecode(b"b\xe9b\xe9")).mkdir()
    with pytest.raises(InputError, match=r"class folder b'b\\xe9b\\xe9' .* not UTF-8; rename"):
        open_folder(tmp_path / "data")
