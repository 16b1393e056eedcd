"""Keep on running after stderr is lost."""

import errno
import io
import os
from typing import Any, TextIO


class _LosableFile(io.FileIO):
    """A file whose writes go to /dev/null once nobody can read it any more."""

    def write(self, data: Any) -> int:
        """Write bytes; return their number.

        Raises:
            OSError: the write fails for another reason.
        """
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that is gone
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return super().write(data)


def replace_if_lost(stream: TextIO) -> TextIO:
    """Return a stream on the file of `stream`, which /dev/null replaces once it is lost.

    This happens to stderr if its pipe is closed, as with `… 2>&1 | tee log`, where Ctrl-C also ends
    tee, or if its terminal is gone. A stream without a file, as in tests, is returned as it is.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    file = io.BufferedWriter(_LosableFile(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
