"""Event loops that finish their tasks before they close."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def finish_tasks() -> Iterator[None]:
    """Within the context, make new event loops of all threads finish their tasks before they close.

    When one of several concurrent reads fails, orbax (0.12) closes its loop while the others are
    in progress. Each of them would then print "RuntimeError: Event loop is closed" with a
    traceback from a thread of TensorStore, beside the right result.
    """
    previous = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_FinishingPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(previous)
