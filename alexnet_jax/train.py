"""The training loop, from the newest checkpoint to the last step."""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import diagnostics, distributed, memory, sharding, trained
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.errors import DivergedError
from alexnet_jax.evaluate import ViewPass, evaluate_batches
from alexnet_jax.inputs import mean_of
from alexnet_jax.metrics import Metrics
from alexnet_jax.preemption import PreemptionSignal
from alexnet_jax.progress import TrainingBar
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.start import Start, go_back_to_common_step, load_start
from alexnet_jax.status import write_status
from alexnet_jax.train_step import StepMetrics, TrainState, stack_states, state_of_seed
from alexnet_jax.training_input import TrainingInput
from alexnet_jax.training_run import TrainingRun
from alexnet_jax.workdir import write_config
from alexnet_jax.writers import NullWriter, RunWriter


@dataclass(frozen=True)
class _Training:
    """The objects that a training creates once, before its first step.

    Attributes:
        runs: the runs that are trained, one or several.
        seeds: the seeds of several runs, for which the state has an axis; () for one run.
        is_single: whether this is the training of a single run, not what is left of several.
        config: config of the first run, from which those of the others differ in the seed.
        predict: function for the validation.
        mean: the mean on the devices.
        bar: the progress of all runs.
    """

    runs: tuple[TrainingRun, ...]
    seeds: tuple[int, ...]
    is_single: bool
    config: Config
    pack: Pack
    mesh: Mesh
    schedule: StepSchedule
    training_input: TrainingInput
    predict: trained.PredictOnMesh
    mean: Array
    bar: TrainingBar

    def state_of(self, state: TrainState, number: int) -> TrainState:
        """Return the state of a run."""
        if not self.seeds:
            return state
        of_run: TrainState = state_of_seed(state, np.int32(number))
        return of_run

    def has_ended(self) -> bool:
        """Return whether no run is left to train."""
        return all(run.has_ended for run in self.runs)

    def for_each_run(self, act: Callable[[int, TrainingRun], None]) -> None:
        """Call a function of the number of a run, and the run, for all that have not ended.

        If one of several runs diverges, this is written to its status.json, and the others go on.

        Raises:
            DivergedError: no run is left.
        """
        for number, run in enumerate(self.runs):
            if run.has_ended:
                continue
            try:
                act(number, run)
            except DivergedError as error:
                run.end()
                if self.is_single:
                    raise
                write_status(run.workdir, "diverged", str(error))
                run.writer.write_line(str(error))
                if self.has_ended():
                    raise


def train(configs: Mapping[Path, Config], pack: Pack) -> int:
    """Train to the end, from the newest checkpoints in the workdirs if there are any.

    Several runs are trained together, in the same steps. A run that has ended already is left as it
    is.

    Args:
        configs: config of each run, with the number of classes, by its workdir, which the caller
            has locked; those of several runs differ in the seed only, see `seeds.configs_of_seeds`.
        pack: the prepared images.

    Returns:
        0 at the end, also if any of several runs have diverged, which their status.json
        then states; or 128 + the number of the signal that stopped the training before.

    Raises:
        InputError: a config does not fit the machine, the data or the workdir; or the runs are at
            different steps.
        DivergedError: the loss or the parameters of the only run are not finite, or the loss is
            absurd.
    """
    config = next(iter(configs.values()))
    mesh = sharding.make_mesh(config.parallel)
    schedule = StepSchedule(config, pack.splits["train"].count)
    with ExitStack() as opened:
        checkpoints = {
            workdir: opened.enter_context(Checkpoints(workdir, config.keep_checkpoints))
            for workdir in configs
        }
        starts = _load_starts(configs, pack, mesh, schedule, checkpoints)
        if not starts:
            return 0
        training = _open_training(configs, pack, mesh, schedule, checkpoints, starts, opened)
        states = [start.state for start in starts.values()]
        state = stack_states(training.config, mesh, states) if training.seeds else states[0]
        del starts, states  # of several runs there is a copy, of one run a step donates it
        try:
            return _train_steps(training, state)
        except DivergedError:
            if training.is_single:
                raise
            return 0  # each run has its own status


def _load_starts(
    configs: Mapping[Path, Config],
    pack: Pack,
    mesh: Mesh,
    schedule: StepSchedule,
    checkpoints: Mapping[Path, Checkpoints],
) -> dict[Path, Start]:
    """Return the states with which the runs begin or continue, without those that are complete."""
    starts = dict[Path, Start]()
    for workdir, config in configs.items():
        start = load_start(config, pack, mesh, checkpoints[workdir])
        step = int(start.state.step)
        reached = schedule.is_reached(step, start.epoch_sums)
        if not reached and step < schedule.last_step:
            starts[workdir] = start
        elif distributed.is_first():
            end = f"stop_error={config.stop_error:g}" if reached else schedule.last_step
            text = f"{workdir} already has {step} steps and the config sets {end}"
            print(f"{text}: nothing to train.", file=sys.stderr)
    return go_back_to_common_step(starts, configs, pack, mesh, checkpoints) if starts else {}


def _open_training(
    configs: Mapping[Path, Config],
    pack: Pack,
    mesh: Mesh,
    schedule: StepSchedule,
    checkpoints: Mapping[Path, Checkpoints],
    starts: Mapping[Path, Start],
    opened: ExitStack,
) -> _Training:
    """Place the images, and open the progress bar and the records of the runs.

    Args:
        configs: see `train`.
        pack: the prepared images.
        mesh: the mesh of devices.
        schedule: the steps after which to log, to validate and to save.
        checkpoints: the checkpoints of each run.
        starts: the states with which the runs to train begin or continue, all at one step.
        opened: what to close after the training; the bar and the records are added to it.
    """
    config = configs[next(iter(starts))]
    seeds = tuple(configs[workdir].seed for workdir in starts) if len(starts) > 1 else ()
    training_input = TrainingInput(config, pack, mesh, schedule, seeds)
    step = int(next(iter(starts.values())).state.step)
    bar = TrainingBar(step, schedule.last_step, hidden=not distributed.is_first())
    opened.callback(bar.close)
    bar.write_line(training_input.description)
    runs = []
    for workdir, start in starts.items():
        name = "" if len(configs) == 1 else workdir.name
        run = _open_run(
            workdir, configs[workdir], pack, schedule, checkpoints[workdir], start, bar, name
        )
        runs.append(run)
        opened.callback(run.writer.close)
    mean = mean_of(pack.mean_image, config.data, config.model.channels)
    return _Training(
        runs=tuple(runs),
        seeds=seeds,
        is_single=len(configs) == 1,
        config=config,
        pack=pack,
        mesh=mesh,
        schedule=schedule,
        training_input=training_input,
        predict=trained.make_predict_on_mesh(config, mesh),
        mean=jax.device_put(mean, sharding.replicated(mesh)),
        bar=bar,
    )


def _open_run(
    workdir: Path,
    config: Config,
    pack: Pack,
    schedule: StepSchedule,
    checkpoints: Checkpoints,
    start: Start,
    bar: TrainingBar,
    name: str,
) -> TrainingRun:
    """Record the config in the workdir, and return the run, with the writer of its records.

    Only the first process writes.
    """
    step = int(start.state.step)
    writer: RunWriter | NullWriter = NullWriter()
    if distributed.is_first():
        for change in write_config(workdir, config, step, start.init_step, pack.source_digest):
            bar.write_line(f"config.{change}", name)
        if step:
            bar.write_line(f"Continuing {workdir} after step {step} of {schedule.last_step}.")
        last_recorded = schedule.last_log_step(step)
        writer = RunWriter(workdir, step, bar, last_recorded=last_recorded, name=name)
    return TrainingRun(
        config=config,
        workdir=workdir,
        pack=pack,
        schedule=schedule,
        checkpoints=checkpoints,
        writer=writer,
        step=step,
        sums=start.sums,
        epoch_sums=start.epoch_sums,
    )


def _train_steps(training: _Training, state: TrainState) -> int:
    """Train to the end or until a signal; return the exit status of `train`."""
    schedule, step, pending = training.schedule, training.runs[0].step, None
    first = step
    with PreemptionSignal() as local_signal:
        preemption = distributed.SharedPreemptionSignal(local_signal, training.mesh)
        timer = diagnostics.StepTimer(schedule.epochs, first)
        for dispatch in training.training_input.dispatches(first):
            state, step_metrics = training.training_input.begin_steps(
                state, training.mean, dispatch
            )
            # Fetch the metrics of the previous steps while the devices compute these.
            if pending is not None:
                _fetch_metrics(training, *pending)
            step, pending = step + dispatch.steps, (step_metrics, dispatch.steps)
            signal = preemption.signal()
            if step == first + 1:  # do not time the first step, which compiles
                jax.block_until_ready(step_metrics)
                memory.return_freed_memory()
                timer.resume(step)
                training.bar.compiled()
            if not schedule.is_due(step) and signal is None:
                continue
            _fetch_metrics(training, *pending)
            pending = None
            timer.pause(step)
            if schedule.is_log_step(step):
                _record(training, timer.images_per_second())
            if "validation" in training.pack.splits:
                state = _validate(training, state, of_all=schedule.is_validation_step(step))
            is_saved = signal is not None or schedule.is_checkpoint_step(step)
            _save(training, state, of_all=is_saved)
            if training.has_ended() or signal is not None:
                break
            timer.resume(step)
        if signal is None:
            signal = preemption.last()
    if signal is None:
        training.for_each_run(lambda _, run: run.warn_of_poor_end())
        return 0
    training.bar.write_line(f"Stopped after step {step}; the same command continues from it.")
    return 128 + signal


def _fetch_metrics(training: _Training, metrics: StepMetrics, count: int) -> None:
    """Fetch the metrics of the next steps and add them to the sums of each run."""
    fetched, runs = jax.device_get(metrics), len(training.runs)
    for step in range(count):

        def add(number: int, run: TrainingRun, step: int = step) -> None:
            index = step * runs + number  # of axes of steps and runs, where there are any
            run.add_step(jax.tree.map(lambda array: np.reshape(array, -1)[index], fetched))

        training.for_each_run(add)


def _record(training: _Training, images_per_second: float) -> None:
    """Write the training metrics of each run since the last record."""
    training.for_each_run(lambda _, run: run.record(images_per_second))


def _validate(training: _Training, state: TrainState, *, of_all: bool) -> TrainState:
    """Validate runs and record their errors; return the state with the schedule's updated.

    Args:
        of_all: all runs, not only those that have reached `stop_error`.
    """
    schedule_state = state.schedule_state

    def validate(number: int, run: TrainingRun) -> None:
        nonlocal schedule_state
        if not of_all and not run.has_reached_error():
            return
        of_run = training.state_of(state, number)
        observed = run.record_validation(_evaluate(training, of_run), of_run.schedule_state)
        if training.seeds:
            observed = jax.tree.map(
                lambda values, value: values.at[number].set(value), schedule_state, observed
            )
        schedule_state = observed

    training.for_each_run(validate)
    placed = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), schedule_state, state.schedule_state
    )
    return state.replace(schedule_state=placed)


def _evaluate(training: _Training, state: TrainState) -> Metrics:
    """Return the metrics of one run on the validation split."""
    batch_sharding = sharding.evaluation_sharding(training.mesh)
    batches = evaluation_batches(
        training.pack,
        "validation",
        training.config,
        rows=sharding.local_rows(training.config.batch_size, batch_sharding),
        pixels=training.training_input.pixels.get("validation"),
    )
    variables = state.variables()
    predicts = [lambda batch: training.predict(variables, training.mean, batch)]
    (result,) = evaluate_batches([ViewPass(predicts, batches)], training.mesh)
    return result


def _save(training: _Training, state: TrainState, *, of_all: bool) -> None:
    """Save a checkpoint of runs; those that have reached `stop_error` end.

    The previous checkpoints of all runs are complete before. Hence no run is ever more than one
    checkpoint ahead of another one.

    Args:
        of_all: all runs, not only those that have reached `stop_error`.
    """
    if of_all:
        training.for_each_run(lambda _, run: run.checkpoints.wait())

    def save(number: int, run: TrainingRun) -> None:
        if of_all or run.has_reached_error():
            run.save(training.state_of(state, number))
            if run.has_reached_error():
                run.end()

    training.for_each_run(save)
