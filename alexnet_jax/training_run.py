"""A run that is being trained: the metrics of its steps, its records and its checkpoints."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_jax import diagnostics, distributed
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, config_to_json
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import DivergedError
from alexnet_jax.metrics import Metrics, MetricSums, all_finite
from alexnet_jax.records import make_record
from alexnet_jax.schedules import PlateauState, StepSchedule
from alexnet_jax.train_step import StepMetrics, TrainState
from alexnet_jax.workdir import check_still_there
from alexnet_jax.writers import NullWriter, RunWriter


def save_checkpoint(
    checkpoints: Checkpoints,
    config: Config,
    state: TrainState,
    *,
    mean_image: np.ndarray,
    class_names: tuple[str, ...],
    num_images: int,
    sums: MetricSums,
    epoch_sums: MetricSums,
) -> None:
    """Save a checkpoint with everything needed to continue, to evaluate and to predict.

    Args:
        checkpoints: the checkpoints of the run.
        config: config with the number of classes.
        state: the training state.
        mean_image: mean image of the training split, (side, side, channels).
        class_names: names of the classes in the order of the labels.
        num_images: number of images in the training split; 0 for imported weights.
        sums: metric sums of the steps since the last record.
        epoch_sums: metric sums of the steps of the epoch that has begun, or that just ends.
    """
    metadata = dict(
        config=config_to_json(config),
        class_names=list(class_names),
        images=num_images,
        metric_sums=dict(vars(sums)),
        epoch_sums=dict(vars(epoch_sums)),
    )
    checkpoints.save(
        int(state.step), state.saved_variables(), state.saved_train_state(), mean_image, metadata
    )


@dataclass
class TrainingRun:
    """A run, and its progress as far as its metrics have been fetched from the devices.

    Attributes:
        config: config with the number of classes.
        workdir: folder of the run.
        pack: the prepared images.
        schedule: the steps after which to log, to validate and to save.
        checkpoints: the checkpoints of the run.
        writer: the writer of its records.
        step: the last step whose metrics have been fetched.
        sums: metric sums of the steps since the last record.
        epoch_sums: metric sums of the steps of the epoch to which `step` belongs.
        saved_step: step of the newest checkpoint; 0 without any.
        learning_rate: learning rate of `step`.
        loss: mean loss of the batch of `step`.
        has_ended: whether the run has ended before the last step: it has diverged, or has reached
            `stop_error` and is saved.
    """

    config: Config
    workdir: Path
    pack: Pack
    schedule: StepSchedule
    checkpoints: Checkpoints
    writer: RunWriter | NullWriter
    step: int
    sums: MetricSums
    epoch_sums: MetricSums
    saved_step: int = field(init=False)
    learning_rate: float = field(init=False)
    loss: float = 0.0
    has_ended: bool = False

    def __post_init__(self) -> None:
        """Begin or continue after `step`."""
        self.saved_step, self.learning_rate = self.step, self.config.learning_rate
        self._constant_loss = diagnostics.ConstantLossDetector(
            self.config.model.num_classes,
            self.schedule.num_images / self.config.batch_size,
            self.pack.splits["train"].labels,
        )
        self._majority = diagnostics.MajorityDetector(self.pack.class_names)

    def add_step(self, values: StepMetrics) -> None:
        """Add the metrics of the next step, on the host, to the sums.

        Raises:
            DivergedError: the loss is not finite.
        """
        self.step += 1
        self.learning_rate = float(values.learning_rate)
        if not np.isfinite(values.sums.loss):
            raise self._diverged(f"the loss is {values.sums.loss}, not finite")
        if self.schedule.ends_epoch(self.step - 1):
            self.epoch_sums = MetricSums()
        self.epoch_sums = self.epoch_sums.plus(values.sums)
        self.loss = float(values.sums.loss) / float(values.sums.count)
        self.sums = self.sums.plus(values.sums)
        self.writer.advance(self.step)

    def record(self, images_per_second: float) -> None:
        """Write the training metrics since the last record.

        Raises:
            DivergedError: the loss of the last step is absurdly large.
        """
        means = self.sums.compute()
        record = make_record(self.step, self.schedule.epoch(self.step), "train", means)
        record["learning_rate"] = self.learning_rate
        record["images_per_second"] = images_per_second
        self.writer.write_record(record)
        if warning := self._constant_loss.observe(self.step, means["loss"]):
            self.writer.write_line(warning)
        if diagnostics.has_diverged(self.loss, self.config.model.num_classes):
            raise self._diverged(f"the loss is {self.loss:.4g}")
        self.sums = MetricSums()

    def record_validation(
        self, result: Metrics, schedule_state: PlateauState | None
    ) -> PlateauState | None:
        """Write the metrics of a validation; return the schedule's state after it.

        Args:
            result: metrics of the validation split.
            schedule_state: the schedule's state before the validation.

        Raises:
            DivergedError: the loss is not finite.
        """
        if not np.isfinite(result["loss"]):
            raise self._diverged(f"the validation loss is {result['loss']}, not finite")
        epoch = self.schedule.epoch(self.step)
        self.writer.write_record(make_record(self.step, epoch, "validation", result))
        labels = self.pack.splits["validation"].labels
        if warning := self._majority.observe(labels, result["top1_error"]):
            self.writer.write_line(warning)
        # If the last step does not end an epoch, a longer run would not validate after it, so the
        # schedule must not count this validation.
        if schedule_state is None or not self.schedule.ends_validated_epoch(self.step):
            return schedule_state
        return schedule_state.observe(result["top1_error"], self.config.schedule.patience)

    def save(self, state: TrainState) -> None:
        """Save a checkpoint.

        Raises:
            DivergedError: the parameters are not finite.
            InputError: the workdir is gone, or cannot be written to.
        """
        if distributed.is_first():
            check_still_there(self.workdir)
        if not all_finite(state.params):
            raise self._diverged("the parameters are not finite")
        save_checkpoint(
            self.checkpoints,
            self.config,
            state,
            mean_image=self.pack.mean_image,
            class_names=self.pack.class_names,
            num_images=self.schedule.num_images,
            sums=self.sums,
            epoch_sums=self.epoch_sums,
        )
        self.saved_step = self.step

    def end(self) -> None:
        """End before the last step; the progress no longer shows the run's metrics."""
        self.has_ended = True
        self.writer.leave_progress()

    def has_reached_error(self) -> bool:
        """Return whether `step` ends an epoch whose training error is at most `stop_error`."""
        return self.schedule.is_reached(self.step, self.epoch_sums)

    def warn_of_poor_end(self) -> None:
        """Print a warning if the loss of the last step is far above that of uniform predictions."""
        if warning := diagnostics.describe_poor_end(self.loss, self.config.model.num_classes):
            self.writer.write_line(warning)

    def _diverged(self, what: str) -> DivergedError:
        """Return the error whose message begins with `what`, such as "the loss is 1e+29"."""
        kept = "nothing is saved"
        if self.saved_step:
            kept = f"the checkpoint of step {self.saved_step} is kept"
        return DivergedError(
            f"{what} at step {self.step}, at learning rate {self.learning_rate:g}; "
            f"{kept}. Lower --config.learning_rate, in another --workdir, and see that "
            "--config.data.scale and --config.model.init fit each other"
        )
