"""The training loop, from the newest checkpoint to the last step."""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import diagnostics, distributed, memory, metrics, sharding, trained
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, config_to_json, with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import check_images, check_padding, evaluation_batches
from alexnet_jax.data.resident import check_resident
from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.evaluate import ViewPass, evaluate_batches
from alexnet_jax.inputs import mean_of
from alexnet_jax.metrics import MetricSums
from alexnet_jax.models import registry
from alexnet_jax.preemption import PreemptionSignal
from alexnet_jax.schedules import StepSchedule, check_patterns
from alexnet_jax.start import Start, load_start
from alexnet_jax.train_step import StepMetrics, TrainState
from alexnet_jax.training_input import TrainingInput
from alexnet_jax.workdir import write_config
from alexnet_jax.writers import NullWriter, RunWriter, make_record


def check_devices_and_patterns(config: Config) -> None:
    """Raise InputError if there are too few devices, or a pattern matches no parameter.

    `config.validated` has checked everything else that does not depend on the data.
    """
    sharding.make_mesh(config.parallel)
    check_patterns(config, registry.abstract_variables(config)["params"])


def complete_config(config: Config, pack: Pack) -> Config:
    """Return the config with the number of classes of the data.

    Raises:
        InputError: the config has another number of classes, or its crop, padding, channels, stages
            or schedule do not fit the data.
    """
    check_images(pack, config.data, config.model.channels)
    check_padding(pack, config.data)
    count = pack.splits["train"].count
    if config.data.stages and (most := max(images for _, images in config.data.stages)) > count:
        raise InputError(
            f"data.stages takes {most:,} training images, and {config.data.name} has {count:,}; "
            "lower the stages, or --config.data.validation_share"
        )
    check_resident(pack, config.data)
    if config.schedule.rule == "plateau" and "validation" not in pack.splits:
        raise InputError(
            f"schedule.rule=plateau needs validation images, and {config.data.name} has none; "
            "hold some out with --config.data.validation_share, or use schedule.rule=epochs"
        )
    classes = len(pack.class_names)
    if config.model.num_classes not in (0, classes):
        raise InputError(
            f"model.num_classes={config.model.num_classes}, but {config.data.name} has {classes} "
            "classes; leave it at 0 to take the data's"
        )
    return with_changes(config, {"model.num_classes": classes})


@dataclass(frozen=True)
class _Run:
    """The objects that a run creates once, before its first step."""

    config: Config
    pack: Pack
    mesh: Mesh
    schedule: StepSchedule
    training_input: TrainingInput
    predict: trained.PredictOnMesh
    mean: Array
    checkpoints: Checkpoints
    writer: RunWriter | NullWriter
    detector: diagnostics.ConstantLossDetector
    majority: diagnostics.MajorityDetector


def train(config: Config, pack: Pack, workdir: Path) -> int:
    """Train to the last step, from the newest checkpoint in the workdir if there is one.

    Args:
        config: config with the number of classes.
        pack: the prepared images.
        workdir: folder of the run, locked by the caller.

    Returns:
        0 after the last step, or 128 + the number of the signal that stopped the run before.

    Raises:
        InputError: the config does not fit the machine, the data or the workdir.
        DivergedError: the loss or the parameters are not finite, or the loss is absurd.
    """
    mesh = sharding.make_mesh(config.parallel)
    schedule = StepSchedule(config, pack.splits["train"].count)
    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints:
        start = load_start(config, pack, mesh, checkpoints)
        step = int(start.state.step)
        if (reached := schedule.is_reached(step, start.epoch_sums)) or step >= schedule.last_step:
            if distributed.is_first():
                end = f"stop_error={config.stop_error:g}" if reached else schedule.last_step
                print(
                    f"{workdir} already has {step} steps and the config sets {end}: nothing to "
                    "train.",
                    file=sys.stderr,
                )
            return 0
        training_input = TrainingInput(config, pack, mesh, schedule)
        writer = _open_writer(workdir, config, pack, schedule, start)
        writer.write_line(training_input.description)
        mean = mean_of(pack.mean_image, config.data, config.model.channels)
        run = _Run(
            config=config,
            pack=pack,
            mesh=mesh,
            schedule=schedule,
            training_input=training_input,
            predict=trained.make_predict_on_mesh(config, mesh),
            mean=jax.device_put(mean, sharding.replicated(mesh)),
            checkpoints=checkpoints,
            writer=writer,
            detector=diagnostics.ConstantLossDetector(
                config.model.num_classes,
                schedule.num_images / config.batch_size,
                pack.splits["train"].labels,
            ),
            majority=diagnostics.MajorityDetector(pack.class_names),
        )
        try:
            return _train_steps(run, start)
        finally:
            writer.close()


def _open_writer(
    workdir: Path, config: Config, pack: Pack, schedule: StepSchedule, start: Start
) -> RunWriter | NullWriter:
    """Record the config in the workdir, and return the writer of the records.

    Only the first process writes.
    """
    if not distributed.is_first():
        return NullWriter()
    step, last_step = int(start.state.step), schedule.last_step
    for change in write_config(workdir, config, step, start.init_step, pack.source_digest):
        print(f"config.{change}", file=sys.stderr)
    if step:
        print(f"Continuing {workdir} after step {step} of {last_step}.", file=sys.stderr)
    return RunWriter(workdir, step, last_step, schedule.last_log_step(step))


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
class _Progress:
    """The progress of a run as far as its metrics have been fetched from the devices.

    Attributes:
        step: the last step whose metrics have been fetched.
        sums: metric sums of the steps since the last record.
        epoch_sums: metric sums of the steps of the epoch to which `step` belongs.
        saved_step: step of the newest checkpoint; 0 without any.
        learning_rate: learning rate of `step`.
        loss: mean loss of the batch of `step`.
    """

    step: int
    sums: MetricSums
    epoch_sums: MetricSums
    saved_step: int
    learning_rate: float
    loss: float = 0.0


def _train_steps(run: _Run, start: Start) -> int:
    """Train to the end or until a signal; return the exit status of `train`."""
    state, first = start.state, int(start.state.step)
    progress = _Progress(first, start.sums, start.epoch_sums, first, run.config.learning_rate)
    step, pending = first, None
    with PreemptionSignal() as local_signal:
        preemption = distributed.SharedPreemptionSignal(local_signal, run.mesh)
        timer = diagnostics.StepTimer(run.config.batch_size, first)
        for dispatch in run.training_input.dispatches(first):
            state, step_metrics = run.training_input.begin_steps(state, run.mean, dispatch)
            # Fetch the metrics of the previous steps while the devices compute these.
            if pending is not None:
                _fetch_metrics(run, progress, *pending)
            step, pending = step + dispatch.steps, (step_metrics, dispatch.steps)
            signal = preemption.signal()
            if not run.schedule.is_due(step) and signal is None:
                if step == first + 1:  # do not time the first step, which compiles
                    jax.block_until_ready(step_metrics)
                    memory.return_freed_memory()
                    timer.resume(step)
                    run.writer.compiled()
                continue
            _fetch_metrics(run, progress, *pending)
            pending = None
            timer.pause(step)
            if run.schedule.is_log_step(step):
                _record(run, progress, timer.images_per_second())
            reached = run.schedule.is_reached(step, progress.epoch_sums)
            is_last = reached or run.schedule.is_validation_step(step)
            if is_last and "validation" in run.pack.splits:
                state = _validate(run, progress, state)
            if reached or signal is not None or run.schedule.is_checkpoint_step(step):
                _save(run, progress, state)
            if reached or signal is not None:
                break
            timer.resume(step)
        else:
            signal = preemption.last()
    if signal is None:
        if warning := diagnostics.describe_poor_end(progress.loss, run.config.model.num_classes):
            run.writer.write_line(warning)
        return 0
    run.writer.write_line(f"Stopped after step {step}; the same command continues from it.")
    return 128 + signal


def _fetch_metrics(run: _Run, progress: _Progress, metrics: StepMetrics, count: int) -> None:
    """Fetch the metrics of the next steps and add them to the sums."""
    fetched = jax.device_get(metrics)
    for number in range(count):
        values = jax.tree.map(lambda array, n=number: np.reshape(array, -1)[n], fetched)
        progress.step += 1
        progress.learning_rate = float(values.learning_rate)
        if not np.isfinite(values.sums.loss):
            raise _diverged(progress, f"the loss is {values.sums.loss}, not finite")
        if run.schedule.ends_epoch(progress.step - 1):
            progress.epoch_sums = MetricSums()
        progress.epoch_sums = progress.epoch_sums.plus(values.sums)
        progress.loss = float(values.sums.loss) / float(values.sums.count)
        progress.sums = progress.sums.plus(values.sums)
        run.writer.advance()


def _record(run: _Run, progress: _Progress, images_per_second: float) -> None:
    """Write the training metrics since the last record.

    Raises:
        DivergedError: the loss of the last step is absurdly large.
    """
    means = progress.sums.compute()
    epoch = run.schedule.epoch(progress.step)
    record = make_record(progress.step, epoch, "train", means)
    record["learning_rate"] = progress.learning_rate
    record["images_per_second"] = images_per_second
    run.writer.write_record(record)
    if warning := run.detector.observe(progress.step, means["loss"]):
        run.writer.write_line(warning)
    if diagnostics.has_diverged(progress.loss, run.config.model.num_classes):
        raise _diverged(progress, f"the loss is {progress.loss:.4g}")
    progress.sums = MetricSums()


def _validate(run: _Run, progress: _Progress, state: TrainState) -> TrainState:
    """Validate and record the errors; return the state with the schedule's state updated.

    Raises:
        DivergedError: the loss is not finite.
    """
    step = progress.step
    batch_sharding = sharding.evaluation_sharding(run.mesh)
    batches = evaluation_batches(
        run.pack,
        "validation",
        run.config,
        rows=sharding.local_rows(run.config.batch_size, batch_sharding),
        pixels=run.training_input.pixels.get("validation"),
    )
    variables = state.variables()
    predicts = [lambda batch: run.predict(variables, run.mean, batch)]
    (result,) = evaluate_batches([ViewPass(predicts, batches)], run.mesh)
    if not np.isfinite(result["loss"]):
        raise _diverged(progress, f"the validation loss is {result['loss']}, not finite")
    epoch = run.schedule.epoch(step)
    run.writer.write_record(make_record(step, epoch, "validation", result))
    labels = run.pack.splits["validation"].labels
    if warning := run.majority.observe(labels, result["top1_error"]):
        run.writer.write_line(warning)
    # If the last step does not end an epoch, a longer run would not validate after it, so the
    # schedule must not count this validation.
    if state.schedule_state is None or not run.schedule.ends_validated_epoch(step):
        return state
    observed = state.schedule_state.observe(result["top1_error"], run.config.schedule.patience)
    return state.replace(schedule_state=jax.device_put(observed, sharding.replicated(run.mesh)))


def _save(run: _Run, progress: _Progress, state: TrainState) -> None:
    """Save a checkpoint.

    Raises:
        DivergedError: the parameters are not finite.
    """
    if not metrics.finite(state.params):
        raise _diverged(progress, "the parameters are not finite")
    save_checkpoint(
        run.checkpoints,
        run.config,
        state,
        mean_image=run.pack.mean_image,
        class_names=run.pack.class_names,
        num_images=run.schedule.num_images,
        sums=progress.sums,
        epoch_sums=progress.epoch_sums,
    )
    progress.saved_step = progress.step


def _diverged(progress: _Progress, what: str) -> DivergedError:
    """Return the error whose message begins with `what`, such as "the loss is 1e+29"."""
    kept = "nothing is saved"
    if progress.saved_step:
        kept = f"the checkpoint of step {progress.saved_step} is kept"
    return DivergedError(
        f"{what} at step {progress.step}, at learning rate {progress.learning_rate:g}; "
        f"{kept}. Lower --config.learning_rate, and see that --config.data.scale and "
        "--config.model.init fit each other"
    )
