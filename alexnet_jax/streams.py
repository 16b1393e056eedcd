"""Keep lost readers and full disks from ending commands with a traceback."""

import errno
import io
import os
from typing import Any

from alexnet_jax.errors import InputError


class _File(io.FileIO):
    """A file that was opened elsewhere, and is left open."""

    def __init__(self, number: int) -> None:
        """Initialize with the number of the open file."""
        super().__init__(number, "w", closefd=False)

    def discard(self) -> None:
        """Let /dev/null take the place of the file, for this program and those that it starts."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


class _Messages(_File):
    """The file of messages: their loss ends no command."""

    def write(self, data: Any) -> int:
        """Write bytes, or discard them if nobody can read them any more; return their number.

        Raises:
            OSError: the write fails for another reason.
        """
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that is gone
                raise
        self.discard()
        return super().write(data)


class _Output(_File):
    """The file of a command's output, which ends the command if it cannot be written."""

    def write(self, data: Any) -> int:
        """Write bytes and return their number; after an exception, discard what follows.

        Raises:
            BrokenPipeError: the reader has closed the pipe, as in `… | head`.
            InputError: the write fails for another reason.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            self.discard()
            raise
        except OSError as error:
            self.discard()
            raise InputError(
                f"the output cannot be written: {error.strerror}; make room, or send stdout "
                "elsewhere"
            ) from None


def open_messages(stderr: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the file of `stderr` that discards text once nobody can read it.

    With `… 2>&1 | tee log`, Ctrl-C also ends tee; and a terminal may be closed.
    """
    file = io.BufferedWriter(_Messages(stderr.fileno()))
    return io.TextIOWrapper(file, stderr.encoding, stderr.errors, line_buffering=True)


def open_output(stdout: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the file of `stdout` that raises InputError if it cannot be written.

    It escapes what the encoding lacks, such as the names of files that are not UTF-8.
    """
    file = io.BufferedWriter(_Output(stdout.fileno()))
    lines = stdout.line_buffering or stdout.write_through  # the latter by python -u
    return io.TextIOWrapper(file, stdout.encoding, "backslashreplace", line_buffering=lines)
