"""Limits of the system, under which opening and writing files fails."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(kind: int, more: int) -> Iterator[None]:
    """Within the context, limit what this process may do.

    Args:
        kind: RLIMIT_FSIZE for the size of files that are written, or RLIMIT_NOFILE for the number
            of open files.
        more: the size in bytes, or the number of files in addition to those that are open.
    """
    descriptor = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(descriptor)
    soft, hard = resource.getrlimit(kind)
    limit = more + (descriptor if kind == resource.RLIMIT_NOFILE else 0)
    resource.setrlimit(kind, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
