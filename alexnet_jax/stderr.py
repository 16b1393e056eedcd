"""Keep on running after stderr is lost."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lost_stderr_replaced() -> Iterator[None]:
    """Replace stderr by /dev/null if a write to it fails because nobody can read it any more.

    This happens if its pipe is closed, as with `… 2>&1 | tee log`, where Ctrl-C also ends tee, or
    if its terminal is gone. Later writes, also those outside the context, then succeed. Other
    errors are raised. Only write to stderr within the context.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that is gone
            raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
