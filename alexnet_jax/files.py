"""Atomic writes, append-only logs, locks, JSON and NumPy's files, and failing disks."""

import errno
import fcntl
import io
import json
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import InputError

MAKE_ROOM = "make room, and run the same command again"  # advice for a full disk

_FULL = (errno.ENOSPC, errno.EDQUOT)
# TensorStore's text for an error of the system, in earlier and in later versions.
_TENSORSTORE_ERRNO = re.compile(r"\[OS error (\d+): |\bos_error_code='(\d+)'")

# Exceptions of np.load for damaged content. It parses headers as Python source.
_DAMAGED_ARRAY = (
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,  # an encrypted archive
    OSError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class DamagedArrayError(Exception):
    """The content is not that of a .npy or .npz file."""


@contextmanager
def replace_when_complete(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success, flush the file to disk and rename it to `path`.

    On an exception the temporary file is removed, and `path` keeps its previous content. The
    temporary path has the suffix of `path`, since some libraries depend on it.
    """
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write a file, text as UTF-8, so that `path` never contains only a part of it."""
    if isinstance(content, str):
        content = content.encode()
    with replace_when_complete(path) as temporary, temporary.open("wb") as file:
        for part in (content,) if isinstance(content, bytes) else content:
            file.write(part)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    content = path.read_bytes()
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unused_path(path: Path) -> Path:
    """Return a path that does not exist, with a number before the suffix if necessary."""
    found, number = path, 0
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return found


class AppendOnlyFile:
    """A file to which records are appended, each of them as a whole.

    Every record is flushed to disk. If one cannot be written, as on a full disk, the part of it
    that was written is removed again. Nothing is buffered, so that `close` cannot fail.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, which is created if necessary."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, record: bytes) -> None:
        """Append a record.

        Raises:
            OSError: the record cannot be written; the file is as before.
        """
        size = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(record):
                written += os.write(self._descriptor, record[written:])
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an advisory lock on a file, which is created if necessary and removed at the end.

    The caller may remove the file earlier, with its folder.

    Args:
        path: the lock file.
        on_wait: called once if another process holds the lock, before waiting for it; it may
            raise instead.

    Raises:
        OSError: the file cannot be created.
        BlockingIOError: another process holds the lock, and `on_wait` is None.
    """
    descriptor = _lock(path, on_wait)
    while descriptor is None:  # the previous holder removed the file while this process waited
        descriptor = _lock(path, None if on_wait is None else _wait_silently)
    try:
        yield
    finally:
        if os.fstat(descriptor).st_nlink:  # else a file there is another's
            path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process, this one or another, holds the lock on a file.

    The lock is taken for an instant to find out. A process that wants it at that instant is
    refused, which can only happen if its last holder was killed, since the file is removed
    otherwise.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is no such file, or it cannot be read
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _wait_silently() -> None:
    """Do nothing, since `on_wait` has been called already."""


def _lock(path: Path, on_wait: Callable[[], None] | None) -> int | None:
    """Return the descriptor of the locked file; None if the file has been removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                raise
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextmanager
def disk_full_as_input_error(path: Path, advice: str) -> Iterator[None]:
    """Turn the error of a full disk, from the system or from TensorStore, into an InputError.

    Args:
        path: the file or folder that is written.
        advice: the end of the message "the disk is full: PATH; …", with what to do.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if find_errno(error) not in _FULL:
            raise
        raise InputError(f"the disk is full: {path}; {advice}") from error


@contextmanager
def write_errors_as_input_errors(
    path: Path, advice: str, *, otherwise: str = "check the disk and the permission to write there"
) -> Iterator[None]:
    """Turn all errors of the system while writing, also those of TensorStore, into InputErrors.

    Args:
        path: the file or folder that is written.
        advice: what to do if the disk is full; see `disk_full_as_input_error`.
        otherwise: what to do about other errors, the end of "cannot write PATH: ERROR; …".
    """
    try:
        with disk_full_as_input_error(path, advice):
            yield
    except (OSError, ValueError) as error:
        if (number := find_errno(error)) is None:
            raise
        raise InputError(f"cannot write {path}: {os.strerror(number)}; {otherwise}") from error


def find_errno(error: Exception) -> int | None:
    """Return an exception's errno; None without one. TensorStore has it in a ValueError's text."""
    if isinstance(error, OSError):
        return error.errno
    found = _TENSORSTORE_ERRNO.search(str(error)) if isinstance(error, ValueError) else None
    return int(found[1] or found[2]) if found else None


def parse_array(content: bytes) -> np.ndarray:
    """Return the array in the content of a .npy file.

    The content is in memory, since np.fromfile turns a KeyboardInterrupt into a TypeError.

    Raises:
        DamagedArrayError: the content is not that of such a file.
    """
    try:
        array = np.load(io.BytesIO(content))
    except _DAMAGED_ARRAY as error:
        raise DamagedArrayError(str(error)) from error
    if not isinstance(array, np.ndarray):
        raise DamagedArrayError("an archive of arrays")
    return array


def parse_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays in the content of a .npz file by name.

    Raises:
        DamagedArrayError: the content is not that of such a file.
    """
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return dict(arrays)
    except _DAMAGED_ARRAY as error:
        raise DamagedArrayError(str(error)) from error
