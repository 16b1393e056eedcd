"""What the training loop watches for: a loss that stays at a guess, and a wish to stop."""

import math
import os
import signal
from types import FrameType


class StuckLoss:
    """Notices a loss that stays at that of a guess, ln(classes): replicas' commonest failure."""

    def __init__(self, classes: int, steps_per_epoch: float) -> None:
        """Patient for five epochs, or 2,000 steps where that is less."""
        self.guess = math.log(classes)
        self.patience = min(2000, 5 * steps_per_epoch)
        self.since: int | None = None
        self.said = False

    def observe(self, step: int, loss: float) -> str | None:
        """A warning, once, when the loss has stayed within 1 % of a guess for long."""
        if abs(loss - self.guess) > 0.01 * self.guess:
            self.since = None
        elif self.since is None:
            self.since = step
        elif step - self.since >= self.patience and not self.said:
            self.said = True
            return (
                f"The loss has stayed at ln(classes) = {self.guess:.3f} since step {self.since}: "
                "the net guesses. Likely causes: inputs not in units of 0…255 (data.scale) under "
                "initial weights of standard deviation 0.01 (model.init=scaled suits narrow "
                "nets); a learning rate too low or too high; labels that do not belong to their "
                "images."
            )
        return None


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a wish to stop; a second one stops at once."""

    def __init__(self) -> None:
        """`signal` will be the number of the one that came."""
        self.signal: int | None = None

    def __enter__(self) -> "Interrupt":
        """Listen."""
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore what handled the signals before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self.signal = number
        # Not print: a handler may interrupt one, which cannot be entered twice.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")
