"""What predict answers to any number and kind of files, in order, with its exit status."""

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from helpers.in_process import run_here
from helpers.linear_runs import SYNSETS, save_color_run
from PIL import Image

RGB = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model answers SYNSETS[0] to red, [1] to green and [2] to blue."""
    found = tmp_path_factory.mktemp("predict") / "run"
    save_color_run(found)
    return found


def write_images(folder: Path, count: int) -> list[Path]:
    """Write images of alternating colors and return their paths, sorted."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (12, 12), RGB[number % 3]).save(path)
    return paths


def answers(ended: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Return the names of the images with the most probable class of each."""
    lines = map(json.loads, ended.stdout.splitlines())
    return [(line["image"], line["top5"][0]["class"]) for line in lines]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 200])
@pytest.mark.parametrize("bad", [False, True])
def test_any_number_of_images(workdir: Path, tmp_path: Path, count: int, bad: bool) -> None:
    """Catches: an answer beside another image's name, one lost or given twice, where a batch fills
    up; the status of a success though a file was not read."""
    paths = write_images(tmp_path / "images", count)
    expected = [(str(path), SYNSETS[number % 3]) for number, path in enumerate(paths)]
    given = [*paths]
    unreadable = [tmp_path / f"no{number}.png" for number in range(0, count + 1, 16)] if bad else []
    for number, path in enumerate(unreadable):
        path.write_text("no image")
        given.insert(number * 17, path)
    ended = run_here("predict", f"--workdir={workdir}", "--json", *given)
    assert ended.returncode == (2 if bad else 0)
    assert answers(ended) == expected
    reported = [line.partition(": cannot read")[0] for line in ended.stderr.splitlines()]
    assert reported == [str(path) for path in unreadable]


def test_all_unreadable(workdir: Path, tmp_path: Path) -> None:
    """Catches: an empty batch given to the model; status 0 without an answer."""
    (tmp_path / "a.png").write_bytes(b"")
    ended = run_here("predict", f"--workdir={workdir}", tmp_path / "a.png", tmp_path / "none.png")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("cannot read this image") == ended.stderr.count("\n") == 2


def test_folders(workdir: Path, tmp_path: Path) -> None:
    """Catches: a folder that is an unreadable image; its files in the order of the disk, or after
    all others; hidden files; an empty folder passed over in silence."""
    first, second, third = write_images(tmp_path / "b", 3)
    third.rename(tmp_path / "b" / "0.png")
    (tmp_path / "b" / "deep").mkdir()
    second.rename(tmp_path / "b" / "deep" / "x.png")
    (tmp_path / "b" / ".hidden").write_text("no image")
    (tmp_path / "empty").mkdir()
    (single,) = write_images(tmp_path / "a", 1)
    folders = tmp_path / "b", tmp_path / "empty", single
    ended = run_here("predict", f"--workdir={workdir}", "--json", *folders)
    assert ended.returncode == 2
    assert answers(ended) == [
        (str(tmp_path / "b" / "0.png"), SYNSETS[2]),
        (str(first), SYNSETS[0]),
        (str(tmp_path / "b" / "deep" / "x.png"), SYNSETS[1]),
        (str(single), SYNSETS[0]),
    ]
    assert ended.stderr.startswith(f"{tmp_path / 'empty'}: cannot read this image: not a file")
    assert ended.stderr.count("\n") == 1


def test_folders_that_cannot_be_read(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a traceback for a folder without permission to read; the images beside it lost;
    the status of a success, or a second message, for a folder that is given itself."""
    for name in ("images", "private"):
        write_images(tmp_path / name, 1)
    write_images(tmp_path / "images" / "locked", 1)
    scandir = os.scandir

    def scan(folder: str) -> Any:
        if os.path.basename(folder) in ("locked", "private"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    given = tmp_path / "private", tmp_path / "images"
    ended = run_here("predict", f"--workdir={workdir}", "--json", *given)
    assert ended.returncode == 2
    assert answers(ended) == [(str(tmp_path / "images" / "000.png"), SYNSETS[0])]
    assert ended.stderr.splitlines() == [
        f"{folder}: cannot read this folder: Permission denied"
        for folder in (tmp_path / "private", tmp_path / "images" / "locked")
    ]


def test_files_that_are_none(workdir: Path, tmp_path: Path) -> None:
    """Catches: a pipe or a device that is waited for or read for ever."""
    (image,) = write_images(tmp_path / "images", 1)
    os.mkfifo(tmp_path / "pipe.png")
    given = [tmp_path / "pipe.png", "/dev/zero", image]
    ended = run_here("predict", f"--workdir={workdir}", "--json", *given)
    assert ended.returncode == 2
    assert answers(ended) == [(str(image), SYNSETS[0])]
    assert ended.stderr.count("not a file, but a folder, a pipe or a device") == 2


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_names_that_are_not_utf8(workdir: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Catches: a UnicodeEncodeError for a name that the system allows."""
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (12, 12), RGB[0]).save(tmp_path / "red.png")
    (tmp_path / "red.png").rename(tmp_path / name)
    given = [tmp_path / name, tmp_path / f"no-{name}"]
    ended = processes.run("predict", f"--workdir={workdir}", *flags, *given)
    assert ended.returncode == 2
    if flags:
        assert answers(ended) == [(str(tmp_path / name), SYNSETS[0])]
    else:
        assert ended.stdout.splitlines()[0] == f"{tmp_path}/caf\\udce9.png"
    assert f"{tmp_path}/no-caf\\udce9.png: cannot read this image" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_no_images_given(workdir: Path) -> None:
    """Catches: silence and status 0, as if all were well."""
    ended = run_here("predict", f"--workdir={workdir}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no images given; expected files or folders" in ended.stderr


def test_other_class_names(workdir: Path, tmp_path: Path) -> None:
    """Catches: --class_names that is not read; names in another order; a wrong number of them."""
    (image,) = write_images(tmp_path / "images", 1)
    names = tmp_path / "names.txt"
    arguments = (f"--workdir={workdir}", "--json", f"--class_names={names}", image)
    names.write_text("red\ngreen\nblue\nx\ny\nz\n")
    assert answers(run_here("predict", *arguments)) == [(str(image), "red")]
    names.write_text("red\ngreen\n")
    ended = run_here("predict", *arguments)
    assert ended.returncode == 2
    assert "has 2 different names in 2 lines; expected 6, one per class" in ended.stderr
