"""Packs whose images have changed since, and runs that were trained on other images."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, files_in, random_pixels, write_folder, write_idx_set
from helpers.interruption import Stop, stop
from PIL import Image

from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import freshness, manifest, pack_writer
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.files import exclusive_lock
from alexnet_jax.prepare import pack_dir, prepare

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes; packs go to a cache of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "data", {"cat": 4, "dog": 4}, side=8)
    return tmp_path / "data"


def config(folder: Path, **changes: Any) -> DataConfig:
    """Return the config of images that keep their 8 pixels, with none held out."""
    first = dict(image_size=8, validation_share=0.0, test_share=0.0)
    return data_config("folder", folder, **(first | changes))


def labels(data: DataConfig, **options: Any) -> list[int]:
    """Prepare, and return the labels of the training images."""
    labels_N: np.ndarray = prepare(data, progress=False, **options).splits["train"].labels
    return labels_N.tolist()


def add_class(folder: Path) -> None:
    write_folder(folder, {"owl": 2}, side=8)


def add_image(folder: Path) -> None:
    write_folder(folder, {"dog": 5}, side=8)


def remove_image(folder: Path) -> None:
    (folder / "cat" / "2.png").unlink()


def remove_class(folder: Path) -> None:
    write_folder(folder, {"bird": 3}, side=8)
    shutil.rmtree(folder / "cat")


def replace_image(folder: Path) -> None:
    (folder / "cat" / "2.png").write_bytes(b"x" * 17)


CHANGES = [
    (add_class, "classes added: owl; train images: 10 instead of 8", [0] * 4 + [1] * 4 + [2] * 2),
    (add_image, "train images: 9 instead of 8", [0] * 4 + [1] * 5),
    (remove_image, "train images: 7 instead of 8", [0] * 3 + [1] * 4),
    (
        remove_class,
        "classes added: bird; classes removed: cat; train images: 7 instead of 8",
        [0] * 3 + [1] * 4,
    ),
    (replace_image, "names, sizes or permissions of images differ", [0] * 3 + [1] * 4),
]


@pytest.mark.parametrize(("change", "message", "expected"), CHANGES)
def test_changed_images_are_prepared_again(
    folder: Path, capsys: Output, change: Any, message: str, expected: list[int]
) -> None:
    """Catches: the pack of earlier images used, with its counts printed as if they were these."""
    data = config(folder, max_bad_share=0.2)
    assert labels(data) == [0] * 4 + [1] * 4
    assert labels(data) == [0] * 4 + [1] * 4
    assert capsys.readouterr().err == ""
    change(folder)
    assert labels(data) == expected
    assert f"prepare: the images in {folder} have changed" in (text := capsys.readouterr().err)
    assert f"{message}. Preparing them again" in text
    assert labels(data) == expected
    assert capsys.readouterr().err == ""
    assert [path.name for path in pack_dir(data).parent.iterdir()] == [pack_dir(data).name]


def replace_by_same_size(folder: Path, seed: int) -> None:
    """Write uncompressed images, all of one size in bytes."""
    for name in ("cat", "dog"):
        pixels = random_pixels(8, 8, 3, seed=seed)
        Image.fromarray(pixels).save(folder / name / "0.bmp")


def test_images_of_the_same_size_are_compared(folder: Path, capsys: Output) -> None:
    """Catches: a replaced image of as many bytes unnoticed; a pack that is made again because
    files were copied; contents that are read again at every start."""
    replace_by_same_size(folder, 1)
    data = config(folder)
    before = prepare(data, progress=False).mean_image
    capsys.readouterr()
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))
    np.testing.assert_array_equal(prepare(data, progress=False).mean_image, before)
    assert "other times of change" in capsys.readouterr().err
    prepare(data, progress=False)
    assert capsys.readouterr().err == ""
    replace_by_same_size(folder, 2)
    assert (prepare(data, progress=False).mean_image != before).any()
    assert "the contents of files differ. Preparing them again" in capsys.readouterr().err


def test_a_pack_of_the_users_own_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    """Catches: a pack in data.pack_dir deleted or used, although its images have changed."""
    data = config(folder, pack_dir=str(tmp_path / "pack"))
    labels(data)
    before = files_in(tmp_path / "pack")
    add_class(folder)
    message = r"have changed since the pack in .*pack was made .*: classes added: owl.*Delete"
    with pytest.raises(InputError, match=message):
        prepare(data, progress=False)
    assert files_in(tmp_path / "pack") == before
    assert labels(config(Path(), dir="", pack_dir=str(tmp_path / "pack"))) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("split", ["", "train"])
def test_a_pack_inside_its_own_source(folder: Path, tmp_path: Path, split: str) -> None:
    """Catches: the pack taken for a class, or for a split, at the second start."""
    write_folder(tmp_path / "source" / split, {"cat": 2, "dog": 2}, side=8)
    data = config(tmp_path / "source", pack_dir=str(tmp_path / "source" / "pack"))
    assert labels(data) == labels(data) == [0, 0, 1, 1]
    for name in ("pack.partial", "pack.replaced"):
        shutil.copytree(tmp_path / "source" / "pack", tmp_path / "source" / name)
    (tmp_path / "source" / "pack.partial" / "plan.json").write_text("{}")
    assert labels(data) == [0, 0, 1, 1]


def test_changed_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """Catches: only folders compared; a label changed among equal images unnoticed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_idx_set(tmp_path / "data", train=20, test=5)
    data = data_config("idx", tmp_path / "data", validation_share=0.0)
    before = labels(data)
    path = tmp_path / "data" / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[8] = (content[8] + 1) % 5
    path.write_bytes(content)
    assert labels(data)[1:] == before[1:]
    assert labels(data) != before
    assert "have changed" in capsys.readouterr().err


def test_without_its_source_a_pack_is_used_with_a_line(folder: Path, capsys: Output) -> None:
    """Catches: a pack that cannot be used after its images were deleted, or is without a word."""
    data = config(folder)
    labels(data)
    shutil.rmtree(folder)
    assert labels(data) == [0] * 4 + [1] * 4
    expected = f"prepare: {folder} does not exist; using the pack that was made from it\n"
    assert capsys.readouterr().err == expected
    folder.mkdir()  # as where a disk is not mounted
    with pytest.raises(InputError, match="no class folders, but 0 files"):
        prepare(data, progress=False)


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_interrupted_replacement(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, calls: int
) -> None:
    """Catches: a pack that is deleted before the one that replaces it is complete."""
    data = config(folder)
    labels(data)
    add_class(folder)
    made, rename, unlink = [0], Path.rename, Path.unlink

    def count() -> None:
        made[0] += 1
        if made[0] > calls:
            raise Stop

    def interrupted_rename(path: Path, target: Path) -> Path:
        count()
        return rename(path, target)

    def interrupted_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".npy" and not path.parent.name.endswith(".partial"):
            count()  # a file of the pack that is replaced
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "rename", interrupted_rename)
    monkeypatch.setattr(Path, "unlink", interrupted_unlink)
    with pytest.raises(Stop):
        prepare(data, progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    left = list(pack_dir(data).parent.rglob("manifest.json"))
    assert left, "neither the old nor the new pack is left"
    assert labels(data) == [0] * 4 + [1] * 4 + [2] * 2
    assert [path.name for path in pack_dir(data).parent.iterdir()] == [pack_dir(data).name]


def test_unfinished_packs_of_changed_images_start_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Catches: shards of two versions of a folder mixed, or a preparation that cannot go on; an
    unnamed pack of earlier images that takes the name."""
    data = config(folder)
    for method in ("finish", "seal"):
        target: Any = pack_writer.PackWriter if method == "finish" else pack_writer
        with monkeypatch.context() as patch:
            patch.setattr(target, method, stop)
            with pytest.raises(Stop):
                prepare(data, progress=False)
        add_class(folder)
        assert labels(data) == [0] * 4 + [1] * 4 + [2] * 2
        shutil.rmtree(pack_dir(data))
        shutil.rmtree(folder / "owl")
    assert "starting the unfinished pack anew: " in capsys.readouterr().err


def test_an_open_pack_is_read_to_the_end(folder: Path) -> None:
    """Catches: shards opened when they are read, which another process has replaced by then."""
    data = config(folder)
    opened = prepare(data, progress=False).splits["train"]
    add_class(folder)
    prepare(data, progress=False)
    first = np.asarray(Image.open(folder / "cat" / "0.png"))
    assert opened.read(np.arange(8))[0] == first.tobytes()


def test_two_threads_replace_a_pack_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a pack made twice, or taken away from the process that has just made it."""
    data = config(folder)
    labels(data)
    add_class(folder)
    both_compared = threading.Barrier(2)
    is_current, make, made, results = freshness.is_current, prepare_module._make, [0], []

    def compare(*arguments: Any) -> bool:
        result = is_current(*arguments)
        if arguments[-1] is prepare_module._print:  # before the lock
            both_compared.wait(timeout=30)
        return result

    def counted_make(*arguments: Any) -> None:
        made[0] += 1
        make(*arguments)

    monkeypatch.setattr(freshness, "is_current", compare)
    monkeypatch.setattr(prepare_module, "_make", counted_make)
    threads = [threading.Thread(target=lambda: results.append(labels(data))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [[0] * 4 + [1] * 4 + [2] * 2] * 2
    assert made == [1]


def test_a_run_keeps_its_images(folder: Path, capsys: Output) -> None:
    """Catches: hours of preparing other images for a run that must refuse them, and the loss of
    the pack that it needs; a moved folder refused."""
    data = config(folder)
    digest = prepare(data, progress=False).source_digest
    before = files_in(pack_dir(data))
    add_class(folder)
    message = r"not those on which the run was trained: classes added: owl; .*\. Restore them"
    with pytest.raises(InputError, match=message):
        prepare(data, progress=False, source_digest=digest)
    assert files_in(pack_dir(data)) == before
    shutil.rmtree(folder / "owl")
    folder.rename(folder.with_name("moved"))
    labels(config(folder.with_name("moved")), source_digest=digest)
    labels(data, source_digest=digest)  # the images are gone, their pack is not
    with pytest.raises(InputError, match="not those on which the run was trained"):
        labels(data, source_digest="another")


def test_manifest_of_a_read_only_pack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: an error because the new times of change cannot be recorded."""
    data = config(folder)
    labels(data)
    recorded = json.loads((pack_dir(data) / "manifest.json").read_text())["source_stamp"]
    os.utime(folder / "cat" / "0.png", (1, 1))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(freshness, "write_atomically", refuse)
    assert labels(data) == [0] * 4 + [1] * 4
    assert json.loads((pack_dir(data) / "manifest.json").read_text())["source_stamp"] == recorded


def touch(folder: Path, seconds: int) -> None:
    for path in folder.rglob("*.png"):
        os.utime(path, (seconds, seconds))


def test_a_pack_that_is_replaced_while_its_files_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the manifest of the earlier pack written into the one that another process has
    made meanwhile, which counts as damaged then."""
    data = config(folder)
    labels(data)
    touch(folder, 1)
    differ = freshness._contents_differ

    def differ_and_replace(*arguments: Any) -> bool:
        result = differ(*arguments)
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        add_class(folder)
        labels(data)  # the other process
        return result

    monkeypatch.setattr(freshness, "_contents_differ", differ_and_replace)
    assert labels(data) == [0] * 4 + [1] * 4 + [2] * 2
    assert labels(data) == [0] * 4 + [1] * 4 + [2] * 2


def test_times_are_recorded_under_the_lock(folder: Path) -> None:
    """Catches: two processes that write one temporary file; a start that waits, for a note of
    times alone, until another process has prepared the pack."""
    data = config(folder)
    labels(data)
    path = pack_dir(data) / "manifest.json"
    before = path.read_text()
    touch(folder, 1)
    with exclusive_lock(manifest.lock_file(pack_dir(data))):
        assert labels(data) == [0] * 4 + [1] * 4
    assert path.read_text() == before
    labels(data)
    assert path.read_text() != before
    assert [path.name for path in pack_dir(data).parent.iterdir()] == [pack_dir(data).name]


def test_changed_names_of_idx_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Catches: a pack used with the names of classes before classes.txt was edited; a run that
    continues with other names; names without images refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_idx_set(tmp_path / "data")
    data = data_config("idx", tmp_path / "data", image_size=28)
    for names, message in (
        ("abcde", "classes added: a, b, c, d, e; classes removed: 0, 1, 2, 3, 4."),
        ("abcdef", "classes added: f."),
        ("bacdef", "the classes are in another order."),
    ):
        before = prepare(data, progress=False).source_digest
        assert capsys.readouterr().err == ""
        (tmp_path / "data" / "classes.txt").write_text("\n".join(names) + "\n")
        with pytest.raises(InputError, match="not those on which the run was trained"):
            prepare(data, progress=False, source_digest=before)
        assert prepare(data, progress=False).class_names == tuple(names)
        assert message in capsys.readouterr().err
