"""The runs of claims: which there are, what was measured, how far they are, what they may cost."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_jax import command
from alexnet_jax.config import Config, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.machine import is_processor
from alexnet_jax.records import Record, final_records, read_records
from alexnet_jax.status import read_status
from alexnet_jax.workdir import check_config, is_in_use, read_config
from experiments.reproduce.claim import Claim, SweepCommand, Training
from experiments.sweeps import sweep
from experiments.sweeps.run import Base, Run, group_runs, run_name
from experiments.sweeps.training_error import average_last_epoch, select_records

# Fields that a run may change while it is continued, but that a finished one has as in the claim.
LENGTH_FIELDS = ("epochs", "max_steps", "stop_error")
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class RunRow:
    """A row of runs.csv: errors as fractions, or why there are none.

    Attributes:
        run: name of the training, `claims.Training.name`.
        seed: seed of the run.
        status: "done", "diverged, …" or "failed, …".
        center_error: top-1 error on the test images in the center view, as a fraction.
        ten_error: top-1 error on the test images in ten views, as a fraction.
        train_error: top-1 error on the training images, averaged over the last epoch.
        seconds: duration of training in seconds, see `training_seconds`.
        machine: machine on which the run ended, `RunStatus.machine`, or NOT_RECORDED.
        date: day on which the run ended, YYYY-MM-DD in UTC.
    """

    run: str
    seed: int
    status: str
    center_error: float | None = None
    ten_error: float | None = None
    train_error: float | None = None
    seconds: float | None = None
    machine: str = ""
    date: str = ""

    @property
    def name(self) -> str:
        """The name of the run, such as 80sec-0."""
        return run_name(self.run, self.seed)

    @property
    def outcome(self) -> str:
        """The errors, or why there are none."""
        if self.center_error is None or self.ten_error is None:
            return self.status
        return f"test error {self.center_error:.2%}, ten views {self.ten_error:.2%}"


@dataclass(frozen=True)
class PlannedRun:
    """A run with what is known of it before it ends.

    Attributes:
        run: its command line and its workdir.
        training: the training of which it is one seed.
        config: the config that its command line gives, with its seed.
    """

    run: Run
    training: Training
    config: Config


def plan_runs(claims: Sequence[Claim], data_dir: str, output: Path) -> list[PlannedRun]:
    """Return the runs of claims, each once, in the order of the claims.

    Args:
        claims: the claims.
        data_dir: folder of CIFAR-10's binary files.
        output: folder of this experiment.
    """
    planned: dict[str, PlannedRun] = {}
    for claim in claims:
        for group in claim.trained:
            training = group.training
            fields = {**dict(training.fields), "data.dir": data_dir}
            config = with_changes(command.load_config(training.config), fields)
            base = Base(training.config, fields, config, output)
            for seed in range(group.seeds):
                description = f"{training.config}, seed {seed}"
                run = base.make_run((training.name, seed), description, (), {"seed": seed})
                one = PlannedRun(run, training, with_changes(config, {"seed": seed}))
                planned.setdefault(run.name, one)
    return [*planned.values()]


def make_row(run: Run, status: str, _: float | None = None) -> RunRow:
    """Return the row of a run from its metrics.jsonl.

    Args:
        run: the run that has ended.
        status: "done", or the reason for which it ended early.
    """
    name, seed = run.key
    records = read_records(run.workdir)
    train = select_records(records, "train")
    final = final_records(records)
    if status == "done" and not (train and {"center", "ten"} <= final.keys()):
        status = "failed, no final evaluation"
    if status != "done":
        return RunRow(name, seed, status)
    return RunRow(
        name,
        seed,
        status,
        center_error=final["center"]["top1_error"],
        ten_error=final["ten"]["top1_error"],
        train_error=average_last_epoch(train),
        **describe_end(run.workdir),
    )


def describe_end(workdir: Path) -> dict[str, Any]:
    """Return seconds, machine and date of a run that has finished, as in `RunRow`."""
    status = read_status(workdir)
    return dict(
        seconds=round(training_seconds(workdir), 1),
        machine=(status and status.machine) or NOT_RECORDED,
        date=status.time[:10] if status else "",
    )


def training_seconds(workdir: Path) -> float:
    """Return the time of training, from the number of images and the speed of every record.

    Seeds that were trained together share it. They have one clock, and so the same speeds.
    """

    def train_records(workdir: Path) -> list[Record]:
        """Return the training records of a run, without those of evaluations."""
        return select_records(read_records(workdir), "train")

    seeds = workdir.parent.glob(f"{workdir.name.rpartition('-')[0]}-*")
    speeds = Counter((r["step"], r["images_per_second"]) for w in seeds for r in train_records(w))
    return sum(
        r["count"] / speed / speeds[r["step"], speed]
        for r in train_records(workdir)
        if (speed := r["images_per_second"])
    )


def add_finished(rows: list[RunRow], planned: Sequence[PlannedRun]) -> list[RunRow]:
    """Return the rows with those of runs that have finished without this command.

    Raises:
        InputError: the workdir of a run was made with another config.
    """
    done = {row.name for row in rows if row.status == "done"}
    new = {
        one.run.name: make_row(one.run, "done")
        for one in planned
        if one.run.name not in done and _has_finished(one)
    }
    return [row for row in rows if row.name not in new] + [*new.values()]


def _has_finished(one: PlannedRun) -> bool:
    """Return whether a run has finished, with or without this command.

    Raises:
        InputError: its workdir was made with another config, or has finished with another length.
    """
    workdir = one.run.workdir
    status = read_status(workdir)
    if status is None:
        return False
    differing = check_config(workdir, one.config)
    if status.status != "finished" or is_in_use(workdir):
        return False
    for field, recorded, wanted in differing:
        if field in LENGTH_FIELDS:
            raise InputError(
                f"{workdir} was made with {field}={recorded!r}; the claim's run has {wanted!r}. "
                "Move the folder away, or give another --output"
            )
    return True


@dataclass(frozen=True)
class Progress:
    """How far a run has come that is not done.

    Attributes:
        state: "running", or the status of its status.json.
        step: step of its last training record, or of its last checkpoint if that is later.
        share: fraction of its epochs, or of its steps if that is larger, that it has done.
    """

    state: str
    step: int
    share: float

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.state} at step {self.step:,} ({self.share:.0%})"


def read_progress(workdir: Path) -> Progress | None:
    """Return how far a run has come; None if it has not begun."""
    status = read_status(workdir)
    if status is None or not (workdir / "config.json").exists():
        return None
    config, train = read_config(workdir), select_records(read_records(workdir), "train")
    last = train[-1] if train else Record(step=0, epoch=0.0)
    step = max(last["step"], status.step)
    share = (last["epoch"] or 0.0) / config.epochs
    if config.max_steps:
        share = max(share, step / config.max_steps)
    state = "interrupted" if status.status == "running" else status.status
    return Progress("running" if is_in_use(workdir) else state, step, min(share, 1.0))


class Budget:
    """The time left to start runs."""

    def __init__(self, seconds: float | None, *, is_gpu: bool, jobs: int) -> None:
        """Begin to count.

        Args:
            seconds: duration of the whole command in seconds; None for no limit.
            is_gpu: whether the runs take place on a GPU, for which the hours of claims, those of
                two cores, do not hold.
            jobs: number of runs that share the processor.
        """
        self._end = None if seconds is None else time.monotonic() + seconds
        self._is_gpu, self._jobs = is_gpu, jobs

    def seconds_of(self, hours: float) -> float | None:
        """Return the seconds that a claim's hours take; None if not known."""
        return None if self._is_gpu else 3600 * hours * self._jobs

    def is_same_kind_of_device(self, row: RunRow) -> bool:
        """Return whether a run took place on the same kind of device, so that its time holds."""
        return row.machine != NOT_RECORDED and is_processor(row.machine) != self._is_gpu

    def seconds_of_sweep(self, command: SweepCommand, done: int) -> float | None:
        """Return the seconds that the missing runs of an experiment take; None if not known.

        `command.hours` is the time of all runs one after another. Runs that share the processor
        take as long in total, so unlike in `seconds_of` it is not multiplied by the number of jobs.

        Args:
            command: the experiment.
            done: number of its runs that have finished.
        """
        return None if self._is_gpu else 3600 * command.hours * max(0.0, 1 - done / command.runs)

    def allows(self, seconds: float | None) -> bool:
        """Return whether to start a run of so many seconds.

        One of unknown time, None, is started while any time is left.
        """
        return self._end is None or time.monotonic() + (seconds or 0.0) < self._end


class Plan:
    """The runs that fit in a budget, without those that are in use elsewhere."""

    def __init__(
        self, planned: Sequence[PlannedRun], budget: Budget, *, seeds_together: bool
    ) -> None:
        """Find out which runs are in use."""
        self.planned, self.budget, self.seeds_together = planned, budget, seeds_together
        self._free = [one for one in planned if not is_in_use(one.run.workdir)]
        self._shares: dict[str, float] = {}

    def __call__(self, rows: Sequence[RunRow]) -> list[Run]:
        """Return the runs that have ended or that the budget allows now."""
        wanted = {row.name for row in rows if not sweep.has_failed(row)}
        waiting = [one.run for one in self._free if one.run.name not in wanted]
        for group in group_runs(waiting, seeds_together=self.seeds_together):
            if self.budget.allows(self.estimate_group(group, rows)):
                wanted |= {run.name for run in group}
        return [one.run for one in self._free if one.run.name in wanted]

    def estimate_group(self, group: Sequence[Run], rows: Sequence[RunRow]) -> float | None:
        """Return the seconds that runs of one program still take, None if not known."""
        estimates = [self.estimate(run.name, rows) for run in group]
        return None if None in estimates else sum(filter(None, estimates))

    def estimate(self, name: str, rows: Sequence[RunRow]) -> float | None:
        """Return the seconds that a run still takes, None if not known.

        They are those of its training's other seeds on the same kind of device, or else of its
        claim.
        """
        (one,) = (one for one in self._free if one.run.name == name)
        of_training = [row for row in rows if row.run == one.training.name]
        known = [
            row.seconds
            for row in of_training
            if row.seconds and self.budget.is_same_kind_of_device(row)
        ]
        total = statistics.median(known) if known else self.budget.seconds_of(one.training.hours)
        if name not in self._shares:  # how far it had come when the command began
            progress = read_progress(one.run.workdir)
            self._shares[name] = progress.share if progress else 0.0
        return None if total is None else total * (1 - self._shares[name])

    def left_out(self, rows: Sequence[RunRow]) -> list[tuple[str, float | None]]:
        """Return the names and estimates of the runs that have not ended."""
        ended = {row.name for row in rows}
        return [
            (one.run.name, self.estimate(one.run.name, rows))
            for one in self._free
            if one.run.name not in ended
        ]


def make_runs(
    plan: Plan, output: Path, jobs: int, write_report: Callable[[list[RunRow]], str]
) -> sweep.Runs[RunRow]:
    """Return the runs of a plan, with the results of those that have finished already.

    Args:
        plan: the runs to start.
        output: folder of this experiment.
        jobs: how many runs to run at the same time.
        write_report: see `sweep.Runs`.

    Raises:
        InputError: the workdir of a run was made with another config.
    """
    runs = sweep.Runs(
        output / "runs.csv", jobs, seeds_together=plan.seeds_together, row_type=RunRow, plan=plan,
        make_row=make_row, write_report=write_report,
    )  # fmt: skip
    runs.results = add_finished(runs.results, plan.planned)
    return runs


def format_seconds(seconds: float | None) -> str:
    """Return an estimate as text."""
    return "time not known" if seconds is None else f"about {seconds / 3600:.2g} h"
