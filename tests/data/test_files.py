"""Atomic writes, file locks, and full disks."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.interruption import Stop

from alexnet_jax.errors import InputError
from alexnet_jax.files import (
    disk_full_as_input_error,
    exclusive_lock,
    replace_when_complete,
    write_atomically,
)


def parts_until_failure() -> Iterator[bytes]:
    yield b"half"
    raise Stop


@pytest.mark.parametrize("content", ["Öl\n", "Öl\n".encode(), iter(["Ö".encode(), b"l\n"])])
def test_whole_files_are_written(tmp_path: Path, content: str | bytes | Iterator[bytes]) -> None:
    """Mutation: the locale's encoding, only the first part written, or a temporary file left."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == "Öl\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failed_write_changes_nothing(tmp_path: Path, old: str | None) -> None:
    """Mutation: the file written in place, replaced in spite of the exception, or the temporary
    file left behind.
    """
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(Stop):
        write_atomically(path, parts_until_failure())
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({"a.txt": old} if old else {})


def test_readers_see_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the file moved into place before its content is flushed to disk, or another file
    flushed; a temporary name with another suffix, by which np.save adds its own.
    """
    path = tmp_path / "a.npy"
    path.write_text("old")
    fsync, flushed = os.fsync, list[str]()

    def record(descriptor: int) -> None:
        assert path.read_text() == "old"
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with replace_when_complete(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npy"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert flushed == [str(temporary)]
    assert path.read_text() == "new"
    assert not temporary.exists()


def test_a_failed_replacement_cleans_up(tmp_path: Path) -> None:
    """Mutation: the temporary file removed on success only."""

    def fail() -> None:
        with replace_when_complete(tmp_path / "a.npy") as temporary:
            temporary.write_text("half")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_excludes_others_and_is_removed(tmp_path: Path) -> None:
    """Mutation: a shared lock, one that waits in silence, or a file left after the end or after
    an exception.
    """
    path = tmp_path / "a.lock"
    with exclusive_lock(path):
        assert path.exists()
        with pytest.raises(BlockingIOError), exclusive_lock(path):
            raise AssertionError("two holders")
        assert path.exists()  # the loser must not remove the holder's file
    assert not path.exists()
    with pytest.raises(Stop), exclusive_lock(path):
        raise Stop
    assert not path.exists()
    with exclusive_lock(path):
        pass


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    """Mutation: `on_wait` not called or called without need; the lock taken before it is free, or
    on the file that the first holder has removed, so that a third process gets one, too.
    """
    path = tmp_path / "a.lock"
    events: list[str] = []
    waiting, held = threading.Event(), threading.Event()

    def second() -> None:
        with exclusive_lock(path, waiting.set):
            events.append("second")
            with path.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.set()

    thread = threading.Thread(target=second)
    with exclusive_lock(path, lambda: events.append("no need to wait")):
        thread.start()
        assert waiting.wait(10)
        assert not held.wait(0.1)
        events.append("first")
    thread.join(10)
    assert held.is_set()
    assert events == ["first", "second"]
    assert not path.exists()


def test_a_removed_lock_file_is_not_removed_again(tmp_path: Path) -> None:
    """Catches: the lock file of the next holder removed by one that has removed its own, after
    which a third process could lock a new file."""
    path = tmp_path / ".lock"
    with exclusive_lock(path):
        path.unlink()
        next_holder = exclusive_lock(path)
        next_holder.__enter__()
    assert path.exists()
    next_holder.__exit__(None, None, None)
    assert not path.exists()


def test_refusing_to_wait_leaves_no_descriptor(tmp_path: Path) -> None:
    """Mutation: a descriptor leaked, or an exception of `on_wait` replaced by another."""
    path = tmp_path / "a.lock"

    def refuse() -> None:
        raise InputError("in use")

    with exclusive_lock(path):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InputError, match="in use"), exclusive_lock(path, refuse):
            pass
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("RESOURCE_EXHAUSTED: writing a chunk [os_error_code='28']"),
    ],
)
def test_full_disks_are_input_errors(error: Exception) -> None:
    """Mutation: the quota or TensorStore's exception left out; the place or the advice lost."""
    message = r"^the disk is full: /some/where; make room$"
    with (
        pytest.raises(InputError, match=message) as caught,
        disk_full_as_input_error(Path("/some/where"), "make room"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("shape"), Stop()])
def test_other_errors_pass_through(error: Exception) -> None:
    """Mutation: every failed write called a full disk."""
    with (
        pytest.raises(type(error)) as caught,
        disk_full_as_input_error(Path("/some/where"), "make room"),
    ):
        raise error
    assert caught.value is error
