"""Losses and predictions that do not depend on the image are reported once, and no others are."""

import math

import numpy as np
import pytest

from alexnet_jax.data.epochs import PartedEpochs, Stage
from alexnet_jax.diagnostics import (
    ConstantLossDetector,
    MajorityDetector,
    StepTimer,
    compare_with_majority,
)

UNIFORM = math.log(10)


def test_constant_loss_warns_once_after_its_patience() -> None:
    """Catches: a warning at once, or every time; patience in records instead of steps."""
    detector = ConstantLossDetector(10, steps_per_epoch=20)  # patient for 100 steps
    warnings = {step: detector.observe(step, UNIFORM * 1.005) for step in range(10, 400, 10)}
    assert [step for step, text in warnings.items() if text] == [110]
    assert "since step 10" in (warnings[110] or "")
    assert "2.303" in (warnings[110] or "")


def test_constant_loss_starts_again_when_the_loss_leaves() -> None:
    """Catches: counting the steps at ln(classes) before a departure from it."""
    detector = ConstantLossDetector(10, steps_per_epoch=20)
    for step in range(0, 100, 10):
        assert detector.observe(step, UNIFORM) is None
    assert detector.observe(100, UNIFORM * 1.02) is None
    warnings = {step: detector.observe(step, UNIFORM) for step in range(110, 300, 10)}
    assert [step for step, text in warnings.items() if text] == [210]


@pytest.mark.parametrize("start", [UNIFORM, 15.0, 2.5])
def test_constant_loss_is_silent_while_a_run_learns(start: float) -> None:
    """Catches: a tolerance so wide, or a patience so short, that slow starts are suspected."""
    detector = ConstantLossDetector(10, steps_per_epoch=100)  # patient for 500 steps
    losses = (1.0 + (start - 1.0) * math.exp(-step / 5000) for step in range(0, 20000, 50))
    assert not any(detector.observe(50 * number, loss) for number, loss in enumerate(losses))


def test_patience_is_at_most_2000_steps() -> None:
    """Catches: five epochs of ImageNet, 50,000 steps, before a word."""
    detector = ConstantLossDetector(1000, steps_per_epoch=10000)
    uniform = math.log(1000)
    assert detector.observe(0, uniform) is None
    assert detector.observe(1999, uniform) is None
    assert detector.observe(2000, uniform)


IMBALANCED = np.repeat([0, 1, 2], [90, 6, 4])
ENTROPY = -sum(share * math.log(share) for share in (0.9, 0.06, 0.04))


def test_loss_at_the_entropy_of_the_labels() -> None:
    """Catches: a model that predicts the classes' frequencies, whose loss is far from ln 3."""
    detector = ConstantLossDetector(3, steps_per_epoch=20, labels=IMBALANCED)
    warnings = {step: detector.observe(step, ENTROPY * 1.005) for step in range(10, 400, 10)}
    assert [step for step, text in warnings.items() if text] == [110]
    assert "the entropy of the classes' frequencies = 0.392 since step 10" in (warnings[110] or "")


def test_loss_between_two_levels() -> None:
    """Catches: the steps at one level counted for the other."""
    detector = ConstantLossDetector(3, steps_per_epoch=20, labels=IMBALANCED)
    losses = [math.log(3)] * 10 + [ENTROPY] * 30
    warnings = [detector.observe(10 * step, loss) for step, loss in enumerate(losses)]
    assert [step for step, text in enumerate(warnings) if text] == [20]


def test_one_class_has_no_constant_loss() -> None:
    """Catches: a perfect loss of 0 reported as that of guessing among one class."""
    detector = ConstantLossDetector(1, steps_per_epoch=1, labels=np.zeros(5, int))
    assert not any(detector.observe(step, 0.0) for step in range(20))


def test_speed_counts_the_examples_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: the rows that pad the last batch of a part counted as images; those of a pause, or
    of an earlier record."""
    clock = iter([0.0, 2.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    epochs = PartedEpochs(batch_size=8, part_images=10, stages=(Stage(0, 20, 0, 0),))
    timer = StepTimer(epochs, step=0)
    timer.pause(step=2)  # 8 and 2 images in 2 seconds
    timer.resume(step=3)
    timer.pause(step=4)  # 2 in one
    assert timer.images_per_second() == 12 / 3
    timer.resume(step=4)
    timer.pause(step=5)
    assert timer.images_per_second() == 8 / 2
    assert timer.images_per_second() == 0


def test_comparison_with_the_largest_class() -> None:
    """Catches: an error of 10 % that looks good where nine of ten images are of one class."""
    names = ("cat", "dog", "owl")
    line = compare_with_majority("test", IMBALANCED, names, 0.1)
    assert line is not None
    assert "no better than always answering cat" in line
    assert "10.00%" in line
    assert compare_with_majority("test", IMBALANCED, names, 0.2) == line
    assert compare_with_majority("test", IMBALANCED, names, 0.09) is None


def test_predictions_that_stay_at_the_largest_class() -> None:
    """Catches: a warning at the first validation, at every one, or over validations apart."""
    detector = MajorityDetector(("cat", "dog", "owl"))
    errors = [0.1, 0.1, 0.1, 0.1, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    warnings = [detector.observe(IMBALANCED, error) for error in errors]
    assert [number for number, text in enumerate(warnings) if text] == [9]
