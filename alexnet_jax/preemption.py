"""Handle SIGINT, SIGTERM and SIGHUP as requests to save a checkpoint and stop."""

import os
import signal
from contextlib import suppress
from types import FrameType


class Terminated(KeyboardInterrupt):
    """Exception for a SIGTERM or SIGHUP outside the training loop, as KeyboardInterrupt for SIGINT.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        """Initialize with the number of the signal."""
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; a handler of SIGTERM and SIGHUP."""
    _ignore_if_hangup(number)
    raise Terminated(number)


def _ignore_if_hangup(number: int) -> None:
    """Ignore further SIGHUPs after a first one.

    A terminal that closes may send two: one from the shell, and one when the shell has ended.
    """
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)


def interrupt_status(error: KeyboardInterrupt) -> int:
    """Return the exit status of a program that an exception for a signal ends: 128 + its number."""
    return 128 + (error.signal if isinstance(error, Terminated) else signal.SIGINT)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a program: SIGHUP only if it is not ignored, as under nohup."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


class PreemptionSignal:
    """Record the first signal that asks to stop; handle a second one with the previous handler.

    After a SIGHUP, further ones are ignored.

    Attributes:
        signal: number of the signal; None if none has been received.
    """

    def __init__(self) -> None:
        """Initialize without handlers; entering the context installs them."""
        self.signal: int | None = None

    def __enter__(self) -> "PreemptionSignal":
        """Install the handlers."""
        self._previous = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers, except that of SIGHUP if one was received."""
        for number, handler in self._previous.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; pass a second one to the previous handler."""
        _ignore_if_hangup(number)
        if self.signal is None:
            self.signal = number
            # `print` is not reentrant, and the signal may have interrupted one.
            with suppress(OSError):  # stderr may be lost, and the checkpoint must not be
                os.write(2, b"\nStopping after this step; once more stops at once.\n")
        elif number != signal.SIGHUP:
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)
