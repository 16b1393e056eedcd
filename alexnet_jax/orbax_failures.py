"""End failed reads and saves of orbax in one error, without its threads' tracebacks."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

JOIN_SECONDS = 60  # that a thread of orbax may take to end after another has failed


class _FinishingEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose `close` waits for its remaining tasks first."""

    def close(self) -> None:
        """Wait for the remaining tasks, whatever becomes of them, and close."""
        if not self.is_closed() and not self.is_running() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _FinishingPolicy(asyncio.DefaultEventLoopPolicy):
    """The default policy with `_FinishingEventLoop`."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a new loop."""
        return _FinishingEventLoop()


def finish_event_loops() -> None:
    """Have new event loops of this process finish their tasks before they close.

    When one of several concurrent reads or writes fails, orbax (0.12) closes its event loop while
    the others are in progress. Each of them would then print "RuntimeError: Event loop is closed"
    from a thread of TensorStore.
    """
    if not isinstance(asyncio.get_event_loop_policy(), _FinishingPolicy):
        asyncio.set_event_loop_policy(_FinishingPolicy())


@contextmanager
def hide_logged_errors() -> Iterator[None]:
    """Within the context, hide the errors that orbax logs for each of its threads.

    The error that orbax raises describes the failure.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not ("/orbax/" in record.pathname and record.levelno >= logging.ERROR)

    logger = logging.getLogger("absl")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)  # of this context only, since each defines its own function


def join_threads() -> None:
    """Wait for the threads of orbax, which after the failure of one leaves the others running.

    They would print tracebacks if the program ended before them.
    """
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread, JOIN_SECONDS)
