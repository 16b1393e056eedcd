"""Keep on running after stderr is lost."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lost_stderr_replaced() -> Iterator[None]:
    """Replace stderr by /dev/null if a write to it fails because nobody can read it any more.

    Its pipe is closed, as with `… 2>&1 | tee log` after Ctrl-C, of which tee dies too; or its
    terminal is gone. Later writes, also those outside the context, then succeed. Other errors are
    raised. Only write to stderr within the context.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # the latter is that of a terminal
            raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
