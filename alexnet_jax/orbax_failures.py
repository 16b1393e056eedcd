"""Have a read or a save of orbax that fails end in one error, without the output of its threads."""

import asyncio
import logging
import threading

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


def silence_threads() -> None:
    """Keep the threads of orbax and TensorStore from printing tracebacks beside orbax's error.

    When one of several concurrent reads or writes fails, orbax (0.12) closes its event loop while
    the others are in progress. Each of them would then print "RuntimeError: Event loop is closed"
    from a thread of TensorStore. New event loops of this process finish their tasks instead before
    they close. Orbax also logs an error for each of the others.
    """
    if not isinstance(asyncio.get_event_loop_policy(), _FinishingPolicy):
        asyncio.set_event_loop_policy(_FinishingPolicy())
    logging.getLogger("absl").addFilter(_is_not_repeated)  # a second time has no effect


def _is_not_repeated(record: logging.LogRecord) -> bool:
    """Return whether a log record is no error of a thread of orbax."""
    return not ("/orbax/" in record.pathname and record.levelno >= logging.ERROR)


def join_threads() -> None:
    """Wait for the threads of orbax, which after the failure of one leaves the others running.

    They would print tracebacks if the program ended before them.
    """
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread, JOIN_SECONDS)
