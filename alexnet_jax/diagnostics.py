"""Diagnostics of training: detection of a constant loss, and the speed."""

import math
import time


class ConstantLossDetector:
    """Detect a loss that stays at ln(classes), the loss of uniform predictions."""

    def __init__(self, classes: int, steps_per_epoch: float) -> None:
        """Set the patience to five epochs or 2,000 steps, whichever is less."""
        self.uniform_loss = math.log(classes)
        self.patience = min(2000, 5 * steps_per_epoch)
        self.since: int | None = None
        self.has_warned = False

    def observe(self, step: int, loss: float) -> str | None:
        """Return a warning, once, if the loss has stayed within 1 % of ln(classes) for too long."""
        if abs(loss - self.uniform_loss) > 0.01 * self.uniform_loss:
            self.since = None
        elif self.since is None:
            self.since = step
        elif step - self.since >= self.patience and not self.has_warned:
            self.has_warned = True
            return (
                f"The loss has stayed at ln(classes) = {self.uniform_loss:.3f} since step "
                f"{self.since}: the model predicts all classes alike. Likely causes: inputs not "
                "in units of 0…255 (data.scale) under initial weights of standard deviation 0.01 "
                "(model.init=scaled suits narrow models); a learning rate too low or too high; "
                "labels that do not belong to their images."
            )
        return None


class StepTimer:
    """Measure the images per second of training, without pauses such as validation."""

    def __init__(self, batch_size: int, step: int) -> None:
        """Start the clock after a step."""
        self._batch_size = batch_size
        self._images, self._seconds = 0, 0.0
        self.resume(step)

    def resume(self, step: int) -> None:
        """Start the clock after a step."""
        self._step, self._clock = step, time.perf_counter()

    def pause(self, step: int) -> None:
        """Stop the clock after a step."""
        self._seconds += time.perf_counter() - self._clock
        self._images += (step - self._step) * self._batch_size

    def images_per_second(self) -> float:
        """Return the speed since the last call, and reset it."""
        speed = self._images / self._seconds
        self._images, self._seconds = 0, 0.0
        return speed
