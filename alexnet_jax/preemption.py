"""Turn SIGINT and SIGTERM into a request to save and stop."""

import os
import signal
from types import FrameType


class PreemptionSignal:
    """Record the first SIGINT or SIGTERM; let a second one act as it did before.

    Attributes:
        signal: the number of the signal received, None before.
    """

    def __init__(self) -> None:
        """Do not handle signals yet; entering the context does."""
        self.signal: int | None = None

    def __enter__(self) -> "PreemptionSignal":
        """Install the handlers."""
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self.signal = number
        # Not print: a handler may interrupt a print, which cannot be entered twice.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")
