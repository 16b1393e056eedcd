"""Bounded, order-preserving thread-pool map, and the chunks of work for it."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def chunked(values: Iterable[A], size: int) -> Iterator[list[A]]:
    """Yield the values in lists of `size`, the last of which may be shorter."""
    remaining = iter(values)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def ordered_map(
    function: Callable[[A], R], arguments: Iterable[A], *, workers: int, max_pending: int
) -> Generator[R, None, None]:
    """Yield `function(argument)` for each argument, in order, computed by a pool of threads.

    Threads help if `function` releases Python's global interpreter lock, as Pillow and most of
    NumPy do. Closing the generator waits for running calls and cancels queued ones.

    Args:
        function: function to call in the threads.
        arguments: arguments, which are consumed in the calling thread.
        workers: number of threads.
        max_pending: largest number of calls that are queued, running, or finished but not yet
            yielded.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) == max_pending:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
