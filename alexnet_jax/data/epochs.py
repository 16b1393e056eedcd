"""The epochs of a run: their training images, and the steps that take these."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data.batch import StepExamples, consecutive_examples

LAST_STEP = 2**31 - 1  # the steps of a run are int32


class Epochs(Protocol):
    """The epochs of a run, counted from 0, and its steps."""

    def first_step(self, epoch: float) -> int:
        """Return the first step that begins at or after a time in epochs, such as 1.5.

        Beyond the range of steps, its last one is returned.
        """
        ...

    def whole_epochs(self, step: int) -> int:
        """Return the number of epochs that are complete before a step."""
        ...

    def passes(self, step: int) -> float:
        """Return the number of passes through the training images before a step, such as 1.5."""
        ...

    def examples_before(self, step: int) -> int:
        """Return the number of examples in the steps before a step."""
        ...

    def examples(self, step: int, rows: np.ndarray) -> StepExamples:
        """Return the examples of a step, for ascending rows of its batch."""
        ...


@dataclass(frozen=True)
class ConsecutiveEpochs:
    """Epochs whose batches are always full, so that one may contain examples of two epochs.

    Attributes:
        batch_size: number of examples in a step.
        images: number of training images.
    """

    batch_size: int
    images: int

    def first_step(self, epoch: float) -> int:
        """See `Epochs`."""
        return math.ceil(min(max(epoch * self.images / self.batch_size, 0), LAST_STEP))

    def whole_epochs(self, step: int) -> int:
        """See `Epochs`."""
        return step * self.batch_size // self.images

    def passes(self, step: int) -> float:
        """See `Epochs`."""
        return step * self.batch_size / self.images

    def examples_before(self, step: int) -> int:
        """See `Epochs`."""
        return step * self.batch_size

    def examples(self, step: int, rows: np.ndarray) -> StepExamples:
        """See `data.batch.consecutive_examples`."""
        return consecutive_examples(self.batch_size, self.images)(step, rows)


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs over the same training images.

    Attributes:
        epoch: the first epoch, from 0.
        images: number of training images in an epoch, the first ones of the split.
        step: the first step.
        number: number of examples in the run before the stage.
    """

    epoch: int
    images: int
    step: int
    number: int


@dataclass(frozen=True)
class PartedEpochs:
    """Epochs in parts, with steps that take examples of one part only.

    The last batch of a part may be smaller; its remaining rows repeat an example, and are masked.

    Attributes:
        batch_size: number of rows of a batch.
        part_images: number of positions in a part; the last part of an epoch may be smaller.
        stages: the stages of the run, in order.
    """

    batch_size: int
    part_images: int
    stages: tuple[Stage, ...]

    def first_step(self, epoch: float) -> int:
        """See `Epochs`."""
        epoch = min(max(epoch, 0), LAST_STEP)
        stage = next(stage for stage in reversed(self.stages) if stage.epoch <= epoch)
        whole = int(epoch - stage.epoch)
        part, rest = divmod((epoch - stage.epoch - whole) * stage.images, self.part_images)
        steps_of_part = _steps_of(self.part_images, self.part_images, self.batch_size)
        within = int(part) * steps_of_part
        within += min(math.ceil(rest / self.batch_size), steps_of_part)
        of_epoch = self._steps_per_epoch(stage)
        return min(stage.step + whole * of_epoch + min(within, of_epoch), LAST_STEP)

    def whole_epochs(self, step: int) -> int:
        """See `Epochs`."""
        stage = self._stage_of(step)
        return stage.epoch + (step - stage.step) // self._steps_per_epoch(stage)

    def passes(self, step: int) -> float:
        """See `Epochs`."""
        stage = self._stage_of(step)
        return self.whole_epochs(step) + self._first_position(step) / stage.images

    def examples_before(self, step: int) -> int:
        """See `Epochs`."""
        stage = self._stage_of(step)
        of_epochs = (self.whole_epochs(step) - stage.epoch) * stage.images
        return stage.number + of_epochs + self._first_position(step)

    def examples(self, step: int, rows: np.ndarray) -> StepExamples:
        """See `Epochs`."""
        stage, first = self._stage_of(step), self._first_position(step)
        end = min((first // self.part_images + 1) * self.part_images, stage.images)
        position = np.minimum(first + rows, end - 1)
        number = self.examples_before(step) + position - first
        epochs = np.full(len(rows), self.whole_epochs(step), np.int64)
        return StepExamples(epochs, position, number, mask=first + rows < end)

    def _stage_of(self, step: int) -> Stage:
        """Return the stage of a step."""
        return next(stage for stage in reversed(self.stages) if stage.step <= step)

    def _steps_per_epoch(self, stage: Stage) -> int:
        """Return the number of steps in an epoch of a stage."""
        return _steps_of(stage.images, self.part_images, self.batch_size)

    def _first_position(self, step: int) -> int:
        """Return the position in its epoch of the first example of a step."""
        stage = self._stage_of(step)
        within = (step - stage.step) % self._steps_per_epoch(stage)
        steps_of_part = _steps_of(self.part_images, self.part_images, self.batch_size)
        part, step_of_part = divmod(within, steps_of_part)
        return part * self.part_images + step_of_part * self.batch_size


def _steps_of(images: int, part_images: int, batch_size: int) -> int:
    """Return the number of steps that take so many images, in parts."""
    parts, rest = divmod(images, part_images)
    return parts * -(-part_images // batch_size) + -(-rest // batch_size)


def make_epochs(config: Config, num_images: int) -> Epochs:
    """Return the epochs of a run.

    Args:
        config: the config.
        num_images: number of images in the training split.
    """
    size, part_images = config.batch_size, config.data.part_images
    if not part_images:
        return ConsecutiveEpochs(size, num_images)
    stages, step, number = list[Stage](), 0, 0
    for epoch, images in config.data.stages or ((1, num_images),):
        if stages:
            epochs, last = epoch - 1 - stages[-1].epoch, stages[-1]
            step = last.step + epochs * _steps_of(last.images, part_images, size)
            number = last.number + epochs * last.images
        stages.append(Stage(epoch - 1, images, step, number))
    return PartedEpochs(size, part_images, tuple(stages))
