"""Damaged checkpoints: an earlier one is restored, or the damage is reported."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from resource import RLIMIT_NOFILE

import numpy as np
import pytest
from helpers.limits import limited
from helpers.saved_checkpoints import (
    STEPS,
    is_same,
    make_content,
    make_reader,
    read_newest,
    save_content,
)

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError


def truncate(path: Path) -> None:
    """Cut a file to half its length."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(content: bytes, place: int) -> bytes:
    """Change one bit, which turns a digit or a letter into another one, so that text stays text."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def wrong_after(workdir: Path, file: Path, damaged: bytes | None, output: Callable[[], str]) -> str:
    """Return what is wrong with the answer to a damaged newest checkpoint; "" if nothing.

    The file is restored afterwards; None for `damaged` removes it.
    """
    sound = file.read_bytes()
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    output()
    found = read_newest(workdir)
    told = f"step_{STEPS[-1]} is damaged" in output()
    file.write_bytes(sound)
    assert found is not None
    step, tree = found
    if not is_same(tree, make_content(step)):
        return f"{file}: other values than were saved at step {step}"
    if step != STEPS[-1] and not told:
        return f"{file}: fell back to step {step} without a word"
    return ""


@pytest.mark.parametrize("kind", ["truncated", "flipped", "removed"])
def test_damage_to_any_file_is_harmless_or_reported(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """Catches: no checksums; checksums of some items only; an exception let through; silence."""
    folder = workdir_copy / "checkpoints" / f"step_{STEPS[-1]}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    wrong = []
    for file in files:
        sound = file.read_bytes()
        flipped = flip(sound, int(np.random.default_rng(len(sound)).integers(len(sound))))
        damaged = {"truncated": sound[: len(sound) // 2], "flipped": flipped, "removed": None}
        wrong.append(wrong_after(workdir_copy, file, damaged[kind], lambda: capfd.readouterr().err))
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_a_changed_letter_of_config_or_names_is_reported(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: checksums of the arrays alone, without the JSON object beside them."""
    file = workdir_copy / "checkpoints" / f"step_{STEPS[-1]}" / "metadata" / "metadata"
    sound = file.read_bytes()
    places = (sound.index(part) for part in (b"3", b"24", b"image", b"ant", b"20", b"opt_state"))
    wrong = [
        wrong_after(workdir_copy, file, flip(sound, place), lambda: capfd.readouterr().err)
        for place in places
    ]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("item", ["variables", "train_state", "mean"])
def test_sound_files_of_another_step_are_damage(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str], item: str
) -> None:
    """Catches: files that can be read taken for the right ones; checksums that skip an item."""
    old, new = (workdir_copy / "checkpoints" / f"step_{step}" / item for step in STEPS)
    shutil.rmtree(new)
    shutil.copytree(old, new)
    found = read_newest(workdir_copy)
    assert found is not None
    assert found[0] == STEPS[0]
    assert f"step_{STEPS[1]} is damaged" in capfd.readouterr().err


def test_all_damaged_is_an_input_error(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: starting anew over checkpoints that cannot be read; naming only one of them."""
    for step in STEPS:
        for path in (workdir_copy / "checkpoints" / f"step_{step}" / "variables").rglob("*"):
            if path.is_file():
                truncate(path)
    with pytest.raises(InputError, match="move that folder away"):
        read_newest(workdir_copy)
    output = capfd.readouterr().err
    assert [f"step_{step} is damaged" in output for step in STEPS] == [True, True]


def test_damaged_ones_are_set_aside_and_their_steps_saved_anew(workdir_copy: Path) -> None:
    """Catches: a save that is skipped because its step is there; a second damage overwriting."""
    for expected in (["damaged_step_20"], ["damaged_step_20", "damaged_step_20.1"]):
        truncate(next((workdir_copy / "checkpoints" / "step_20" / "variables" / "d").iterdir()))
        checkpoints = Checkpoints(workdir_copy, keep=3)
        found = checkpoints.newest(make_reader(checkpoints))
        assert found is not None
        assert found[0] == 10
        checkpoints.set_aside_after(10)
        assert checkpoints.steps() == [10]
        save_content(checkpoints, 20)
        checkpoints.close()
        aside = sorted(path.name for path in (workdir_copy / "checkpoints").glob("damaged*"))
        assert aside == expected
        found = read_newest(workdir_copy)
        assert found is not None
        assert found[0] == 20
        assert is_same(found[1], make_content(20))


@pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, OSError])
def test_a_bug_of_the_caller_is_not_damage(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    """Catches: an exception of the caller's own taken for damage, so that a sound checkpoint is
    passed over and renamed."""
    before = sorted(path.name for path in (workdir_copy / "checkpoints").iterdir())
    checkpoints = Checkpoints(workdir_copy, keep=3)
    raised = kind("a bug")

    def read(step: int) -> None:
        checkpoints.metadata(step)
        raise raised

    with pytest.raises(kind) as caught:
        checkpoints.newest(read)
    checkpoints.close()
    assert caught.value is raised
    assert sorted(path.name for path in (workdir_copy / "checkpoints").iterdir()) == before
    assert "damaged" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (MemoryError("too little"), MemoryError, "too little"),
        (PermissionError(13, "Permission denied"), InputError, "step_20 cannot be read .*denied"),
        (ValueError("PERMISSION_DENIED: x"), InputError, "step_20 cannot be read .*DENIED"),
        (OSError(errno.ESTALE, "Stale"), InputError, "step_20 cannot be read .*Stale.*; try again"),
        (ValueError("x [os_error_code='24']"), InputError, "step_20 cannot be read .*; try again"),
        (ImportError("no zstandard"), InputError, "step_20 cannot be read .*zstand.*; install"),
    ],
    ids=["memory", "rights", "rights in TensorStore", "system", "TensorStore", "package"],
)
def test_a_machine_that_fails_is_not_damage(
    workdir_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    expected: type[Exception],
    message: str,
) -> None:
    """Catches: sound files passed over because of too little memory, of missing rights or packages,
    or of a failing system; a traceback where the user has to change the rights or to try again."""

    def fail(*_: object, **__: object) -> None:
        raise raised

    checkpoints = Checkpoints(workdir_copy)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._reader, "restore", fail)
        with pytest.raises(expected, match=message):
            checkpoints.newest(make_reader(checkpoints))
    checkpoints.close()


def test_a_failing_system_is_a_message_before_a_file_is_read(
    workdir_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a traceback, or damage, where the system refuses to tell whether files exist."""
    stat = os.stat

    def fail(path: str, *arguments: object, **keywords: object) -> os.stat_result:
        if f"step_{STEPS[-1]}" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(InputError, match=r"step_20 cannot be read .*Permission denied.*; allow"):
        read_newest(workdir_copy)


@pytest.mark.parametrize("more", [0, 1, 2, 4, 8, 16, 32])
def test_too_many_open_files_are_not_damage(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str], more: int
) -> None:
    """Catches: an older checkpoint restored, and the newest one renamed, since orbax or TensorStore
    could not open files of it."""
    checkpoints = Checkpoints(workdir_copy)
    found, message = None, ""
    try:
        with limited(RLIMIT_NOFILE, more):
            found = checkpoints.newest(make_reader(checkpoints))
    except InputError as error:
        message = str(error)
    checkpoints.close()
    assert "Too many open files" in message or (found is not None and found[0] == STEPS[-1])
    assert "damaged" not in capfd.readouterr().err


@pytest.mark.parametrize("item", ["variables", "mean/d", "metadata/metadata"])
def test_a_file_for_a_folder_is_damage(
    workdir_copy: Path, capfd: pytest.CaptureFixture[str], item: str
) -> None:
    """Catches: "try again" for files that will never be read."""
    path = workdir_copy / "checkpoints" / f"step_{STEPS[-1]}" / item
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    found = read_newest(workdir_copy)
    assert found is not None
    assert found[0] == STEPS[0]
    assert f"step_{STEPS[-1]} is damaged" in capfd.readouterr().err
