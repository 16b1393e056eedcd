"""Work that threads do ahead of who needs it, in order and with a limit."""

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def ordered(
    function: Callable[[A], R], arguments: Iterable[A], *, workers: int, ahead: int
) -> Generator[R, None, None]:
    """Like map in so many threads, but never more than `ahead` calls in memory.

    Threads help where the work is done outside Python's lock, as Pillow's and most of NumPy's is.
    Closing the generator waits for the calls that run; no other one begins.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    running: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for argument in arguments:
            running.append(pool.submit(function, argument))
            if len(running) == ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
