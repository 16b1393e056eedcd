"""Handle SIGINT and SIGTERM as requests to save a checkpoint and stop."""

import os
import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """Exception for a SIGTERM outside the training loop, as KeyboardInterrupt is for a SIGINT."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; a handler of SIGTERM."""
    raise Terminated("stopped by SIGTERM")


def interrupt_status(error: KeyboardInterrupt) -> int:
    """Return the exit status of a program that an exception for a signal ends: 128 + its number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


class PreemptionSignal:
    """Record the first SIGINT or SIGTERM; handle a second one with the previous handler.

    Attributes:
        signal: number of the signal; None if none has been received.
    """

    def __init__(self) -> None:
        """Initialize without handlers; entering the context installs them."""
        self.signal: int | None = None

    def __enter__(self) -> "PreemptionSignal":
        """Install the handlers."""
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; pass a second one to the previous handler."""
        if self.signal is not None:
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)
        self.signal = number
        # `print` is not reentrant, and the signal may have interrupted one.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")
