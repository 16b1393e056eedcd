"""Diagnostics: divergence, outputs that are not finite, constant predictions, and the speed."""

import math
import time

import numpy as np

from alexnet_jax.data.epochs import Epochs
from alexnet_jax.errors import DivergedError

_PATIENCE = 5  # validations before constant predictions are reported

# Multiples of ln(classes), the loss of uniform predictions. With badly scaled inputs a run may
# begin with a loss of thousands and recover, but no update undoes one of millions.
DIVERGED_MULTIPLE = 1e6
POOR_MULTIPLE = 10

_NOT_FINITE = (
    "the parameters are not finite or far too large; train again with a lower "
    "--config.learning_rate, or convert the weights again"
)


def has_diverged(loss: float, classes: int) -> bool:
    """Return whether a loss is not finite, or so large that training cannot recover."""
    return not loss <= DIVERGED_MULTIPLE * max(1.0, math.log(classes))


def check_loss(name: str, split: str, loss: float) -> None:
    """Raise DivergedError if the loss of a model is not finite, which JSON cannot express."""
    if not math.isfinite(loss):
        raise DivergedError(f"{name}: the loss on {split} is {loss}, so {_NOT_FINITE}")


def check_outputs(name: str, outputs: np.ndarray) -> None:
    """Raise DivergedError if outputs of a model, such as "probabilities", are not finite."""
    if not np.isfinite(outputs).all():
        raise DivergedError(f"the {name} are not finite, so {_NOT_FINITE}")


def describe_poor_end(loss: float, classes: int) -> str | None:
    """Return a warning if the loss of the last step is far above that of uniform predictions."""
    uniform_loss = math.log(classes)
    if loss <= POOR_MULTIPLE * max(1.0, uniform_loss):
        return None
    return (
        f"WARNING: training ends with a loss of {loss:.4g}, far above ln(classes) = "
        f"{uniform_loss:.3f}, the loss of a model that predicts all classes alike. If it was not "
        "meant to be that short, lower --config.learning_rate, and see that --config.data.scale "
        "and --config.model.init fit each other."
    )


class ConstantLossDetector:
    """Detect a loss that stays at that of predictions which do not depend on the image.

    This is ln(classes) for uniform predictions, and the entropy of the labels' frequencies for
    predictions of these.
    """

    def __init__(
        self, classes: int, steps_per_epoch: float, labels: np.ndarray | None = None
    ) -> None:
        """Set the patience to five epochs or 2,000 steps, whichever is less.

        Args:
            classes: number of classes.
            steps_per_epoch: number of steps in an epoch.
            labels: labels of the training images; None looks for ln(classes) only.
        """
        self.levels = {math.log(classes): "ln(classes)"}
        if labels is not None:
            shares = np.unique(labels, return_counts=True)[1] / len(labels)
            entropy = float(-np.sum(shares * np.log(shares)))
            self.levels.setdefault(entropy, "the entropy of the classes' frequencies")
        self.levels.pop(0.0, None)  # with one class, 0 is the loss of a perfect model
        self.patience = min(2000, 5 * steps_per_epoch)
        self.level = 0.0
        self.since: int | None = None
        self.has_warned = False

    def observe(self, step: int, loss: float) -> str | None:
        """Return a warning, once, if the loss has stayed within 1 % of a level for too long."""
        if self.since is not None and abs(loss - self.level) <= 0.01 * self.level:
            if step - self.since < self.patience or self.has_warned:
                return None
            self.has_warned = True
            return (
                f"The loss has stayed at {self.levels[self.level]} = {self.level:.3f} since step "
                f"{self.since}: the model predicts the same for all images. Likely causes: inputs "
                "not in units of 0…255 (data.scale) under initial weights of standard deviation "
                "0.01 (model.init=scaled suits narrow models); a learning rate too low or too "
                "high; labels that do not belong to their images."
            )
        self.since = None
        for level in self.levels:
            if self.since is None and abs(loss - level) <= 0.01 * level:
                self.level, self.since = level, step
        return None


def compare_with_majority(
    split: str, labels: np.ndarray, class_names: tuple[str, ...], error: float
) -> str | None:
    """Return a line for the user if a model is no better than always answering one class.

    Args:
        split: name of the split.
        labels: labels of its images.
        class_names: names of the classes.
        error: top-1 error of the model.
    """
    counts = np.bincount(labels)
    majority_error = 1 - counts.max() / counts.sum()
    if error < majority_error - 1e-6:
        return None
    return (
        f"{split}: the model is no better than always answering {class_names[counts.argmax()]}, "
        f"the most frequent class: top-1 error {majority_error:.2%}"
    )


class MajorityDetector:
    """Detect a model that stays no better than always answering the most frequent class."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        """See `compare_with_majority`."""
        self._class_names = class_names
        self._count = 0

    def observe(self, labels: np.ndarray, error: float) -> str | None:
        """Return a warning at the fifth validation in a row that is no better, once for these.

        Args:
            labels: labels of the validation images.
            error: top-1 error of the model.
        """
        line = compare_with_majority("validation", labels, self._class_names, error)
        self._count = 0 if line is None else self._count + 1
        return line if self._count == _PATIENCE else None


class StepTimer:
    """Measure the images per second of training, without pauses such as validation."""

    def __init__(self, epochs: Epochs, step: int) -> None:
        """Start the clock after a step of the epochs."""
        self._epochs = epochs
        self._images, self._seconds = 0, 0.0
        self.resume(step)

    def resume(self, step: int) -> None:
        """Start the clock after a step."""
        self._step, self._clock = step, time.perf_counter()

    def pause(self, step: int) -> None:
        """Stop the clock after a step."""
        self._seconds += time.perf_counter() - self._clock
        first, end = self._epochs.examples_before(self._step), self._epochs.examples_before(step)
        self._images += end - first

    def images_per_second(self) -> float:
        """Return the speed since the last call, and reset it; 0 if no step was timed."""
        speed = self._images / self._seconds if self._images else 0.0
        self._images, self._seconds = 0, 0.0
        return speed
