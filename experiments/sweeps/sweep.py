"""Run many trainings as one experiment: start, resume and collect them.

Each training is `python -m alexnet_jax.main` in a folder of its own below OUTPUT/runs, started by
submitit: on this machine, --jobs at a time, or under SLURM with --slurm_partition. Its outcome is
a row of OUTPUT/NAME.csv. When the same command is given again, finished runs are left alone and
the others continue from their checkpoints. A run that fails does not stop the others. A run whose
status.json has "diverged" is not tried again, since it would diverge again. The report on the
rows, OUTPUT/NAME.md and NAME.png, is rewritten after every run.
"""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import submitit
from absl import flags
from matplotlib.figure import Figure
from tqdm import tqdm

from alexnet_jax import command
from alexnet_jax.config import Config, config_to_json
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json, differences
from alexnet_jax.files import (
    MAKE_ROOM,
    disk_full_as_input_error,
    read_json,
    write_atomically,
    write_errors_as_input_errors,
)
from alexnet_jax.status import read_status
from experiments.outputs import write_figure
from experiments.sweeps import slurm
from experiments.sweeps.rows import R, Row, read_rows, write_rows

POLL_SECONDS = 0.5
# Fields that do not change what a run computes, so that they may differ from command to command.
WITHOUT_EFFECT = ("data.dir", "data.resident")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        key: identifies the run; its row begins with it.
        description: what distinguishes the run, in a few words.
        workdir: its folder.
        arguments: of `alexnet_jax.main`.
    """

    key: tuple[Any, ...]
    description: str
    workdir: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of its folder and of its row."""
        return run_name(*self.key)


def run_name(*key: Any) -> str:
    """Return the name of a run, such as tanh-0.01-2."""
    return "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in key)


@dataclass(frozen=True)
class Base:
    """The settings that all runs of a sweep share.

    Attributes:
        file: the value of --config, with its variant.
        overrides: fields set for every run, as on the command line.
        config: the config that results from both.
        output: the sweep's folder.
    """

    file: str
    overrides: dict[str, Any]
    config: Config
    output: Path

    @classmethod
    def from_flags(cls) -> "Base":
        """Return the settings given by the flags."""
        config = command.validated_config()
        return cls(*command.given_config(), config, Path(flags.FLAGS.output))

    def variant(self, *words: str) -> str:
        """Return the config file with words appended to its variant."""
        path, _, before = self.file.partition(":")
        return ":".join(filter(None, [path, ",".join(filter(None, [before, *words]))]))

    def workdir(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.output / "runs" / name

    def make_run(
        self, key: tuple[Any, ...], description: str, words: Sequence[str], fields: dict[str, Any]
    ) -> Run:
        """Return the run with words appended to the variant and fields set over the overrides."""
        workdir = self.workdir(run_name(*key))
        overrides = (f"--config.{f}={value}" for f, value in {**self.overrides, **fields}.items())
        arguments = (f"--config={self.variant(*words)}", f"--workdir={workdir}", *overrides)
        return Run(key, description, workdir, arguments)


def has_failed(row: Row) -> bool:
    """Return whether a run has to be tried again."""
    return row.status.startswith("failed")


class Runs(Generic[R]):
    """Runs that need not share a config, and their results."""

    def __init__(
        self,
        table: Path,
        jobs: int,
        *,
        row_type: type[R],
        plan: Callable[[list[R]], list[Run]],
        make_row: Callable[[Run, str, float | None], R],
        write_report: Callable[[list[R]], str],
    ) -> None:
        """Read the results of earlier commands.

        Args:
            table: the CSV file of the rows.
            jobs: how many runs to run at the same time.
            row_type: class of the rows.
            plan: returns all runs wanted, given the rows so far.
            make_row: returns the row of a run, given its status and its duration in seconds.
            write_report: writes files about the rows, and returns Markdown text.
        """
        self.table, self.jobs = table, jobs
        self.plan, self.make_row, self.write_report = plan, make_row, write_report
        self.results = read_rows(table, row_type)

    @property
    def runs(self) -> list[Run]:
        """Return the runs wanted, given the results so far."""
        return self.plan(self.results)

    def waiting(self) -> list[Run]:
        """Return the runs that are neither done nor diverged."""
        ended = {row.name for row in self.results if not has_failed(row)}
        return [run for run in self.runs if run.name not in ended]

    def run_waiting(self, executor: submitit.AutoExecutor) -> list[R]:
        """Start waiting runs and collect those that end; return the rows of all not done.

        On Ctrl-C, or if a run cannot be started or recorded, interrupt the running ones, which
        save, and raise the exception again.
        """
        started: set[str] = set()  # names, since a plan may change the arguments of a run
        running: dict[Run, tuple[submitit.Job[str], float]] = {}
        total = len(self.runs)
        bar = tqdm(total=total, initial=total - len(self.waiting()), unit="run",
                   disable=not sys.stderr.isatty())  # fmt: skip
        try:
            while (waiting := [r for r in self.waiting() if r.name not in started]) or running:
                for run in waiting[: self.jobs - len(running)]:
                    started.add(run.name)
                    running[run] = _start(run, executor), time.monotonic()
                bar.total = len(self.runs)
                bar.set_postfix_str(", ".join(run.name for run in running))
                for run, (job, begin) in [*running.items()]:
                    if job.done():
                        del running[run]
                        self._collect(run, job, time.monotonic() - begin)
                        bar.update()
                time.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, InputError):
            for job, _ in running.values():
                job.cancel()
            for job, _ in running.values():
                job.wait()
            raise
        finally:
            bar.close()
        planned = {run.name for run in self.runs}
        return [row for row in self.results if row.status != "done" and row.name in planned]

    def _collect(self, run: Run, job: submitit.Job[str], seconds: float) -> None:
        status = "done"
        if job.exception() is not None:
            diverged = _has_diverged(run.workdir)
            status = f"{'diverged' if diverged else 'failed'}, see {job.paths.stderr}"
        try:
            new = self.make_row(run, status, round(seconds, 1))
        except InputError as error:  # its metrics.jsonl is damaged
            raise InputError(f"run {run.name}: {error}") from None
        self.results = [row for row in self.results if row.name != new.name]
        self.results.append(new)
        write_rows(self.table, self.results)
        self.write_report(self.results)
        tqdm.write(f"{run.name}: {new.outcome}, {seconds:.0f} s", file=sys.stderr)


class Sweep(Runs[R]):
    """The runs of an experiment, which share a config, and their results."""

    def __init__(
        self,
        base: Base,
        name: str,
        jobs: int,
        *,
        row_type: type[R],
        plan: Callable[[list[R]], list[Run]],
        make_row: Callable[[Run, str, float | None], R],
        make_report: Callable[[list[R]], tuple[str, Figure | None]],
    ) -> None:
        """Read the results of earlier commands.

        Args:
            base: the settings that the runs share.
            name: of the sweep's files in `base.output`.
            jobs, row_type, plan, make_row: see `Runs`.
            make_report: returns the Markdown text about the rows, and a figure or None.
        """
        self.base, self.name, self.make_report = base, name, make_report
        super().__init__(
            self._path("csv"),
            jobs,
            row_type=row_type,
            plan=plan,
            make_row=make_row,
            write_report=self._write_report,
        )

    def main(self) -> int:
        """List the runs or run them, by the flags; return the exit status, 1 if any has failed."""
        flag = flags.FLAGS
        if flag.list:
            self.print_runs()
            return 0
        if flag.dry_run:
            self.dry_run()
            return 0
        record_config(self.base)
        ended = self.run_waiting(make_executor())
        for row in ended:
            print(f"{row.name}: {row.status}", file=sys.stderr)
        print(self._write_report(self.results))
        return int(any(map(has_failed, ended)))

    def estimate(self) -> float | None:
        """Return the seconds left, by the median of finished runs; None if none has finished."""
        seconds = [r.seconds for r in self.results if r.seconds and r.status == "done"]
        if not seconds:
            return None
        return statistics.median(seconds) * len(self.waiting()) / self.jobs

    def print_runs(self) -> None:
        """Print all runs."""
        for run in self.runs:
            print(f"{run.name}: {run.description}")

    def dry_run(self) -> None:
        """Print the commands still to run, and an estimate of their duration."""
        for run in self.waiting():
            print(f"python -m alexnet_jax.main {shlex.join(run.arguments)}")
        seconds = self.estimate()
        remaining = "no run has finished, so the time is not known"
        if seconds is not None:
            remaining = f"about {seconds / 60:.0f} minutes, by the median of the finished runs"
        print(f"{len(self.waiting())} of {len(self.runs)} runs to do: {remaining}", file=sys.stderr)

    def _write_report(self, results: list[R]) -> str:
        """Write the report on the rows and its figure; return the text."""
        text, figure = self.make_report(results)
        with write_errors_as_input_errors(self._path("md"), MAKE_ROOM):
            write_atomically(self._path("md"), text + "\n")
        if figure is not None:
            write_figure(figure, self._path("png"))
        return text

    def _path(self, kind: str) -> Path:
        return self.base.output / f"{self.name}.{kind}"


def _start(run: Run, executor: submitit.AutoExecutor) -> submitit.Job[str]:
    run.workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "alexnet_jax.main", *run.arguments]
    return executor.submit(submitit.helpers.CommandFunction(words, verbose=False))


def _has_diverged(workdir: Path) -> bool:
    """Return whether status.json records that a run diverged; False if it is damaged."""
    try:
        ended = read_status(workdir)
    except InputError as error:
        print(error, file=sys.stderr)
        return False
    return ended is not None and ended.status == "diverged"


def record_config(base: Base) -> None:
    """Write the config shared by all runs to the sweep's folder; see WITHOUT_EFFECT.

    Raises:
        InputError: the folder has runs of another config, which would not be comparable; or it
            cannot be written to.
    """
    output = base.output
    path, new = output / "config.json", config_to_json(base.config)
    if path.exists():
        for name, old, new_value in differences(_read_config(path), new):
            if name in WITHOUT_EFFECT:
                continue
            raise InputError(
                f"--output={output} has runs with {name}={old!r}; given is {new_value!r}; expected "
                "the same config, or another --output"
            )
    try:
        with disk_full_as_input_error(output, MAKE_ROOM):
            output.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(new, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--output={output} cannot be written to: {error.strerror}") from None


def _read_config(path: Path) -> Json:
    """Return the config that `record_config` has written."""
    try:
        content = read_json(path)
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise InputError(
        f"{path} is not the config of a sweep; move it away if it is damaged, or give another "
        "--output"
    )


def define_flags(output: str | None = None) -> None:
    """Define the flags of every sweep, with a default for --output or without any."""
    flags.DEFINE_string("output", output, "Folder of the sweep.", required=output is None)
    flags.DEFINE_bool("list", False, "List the runs and exit.")
    flags.DEFINE_bool(
        "dry_run", False, "List the commands still to run, with the estimated time, and exit."
    )
    flags.DEFINE_integer("jobs", 1, "Runs at the same time.", lower_bound=1)
    flags.DEFINE_integer("timeout_min", 60 * 24, "Minutes that a run may take.", lower_bound=1)
    flags.DEFINE_string("slurm_partition", None, "Run under SLURM, in this partition.")
    flags.DEFINE_integer("cpus", 8, "CPUs of a run, under SLURM.", lower_bound=1)
    flags.DEFINE_integer("gpus", 1, "GPUs of a run, under SLURM.", lower_bound=0)


def make_executor() -> submitit.AutoExecutor:
    """Return the executor chosen by the flags."""
    flag = flags.FLAGS
    folder = Path(flag.output) / "logs"
    executor = (
        slurm.make_slurm_executor(folder)
        if flag.slurm_partition
        else submitit.AutoExecutor(folder=folder, cluster="local")
    )
    executor.update_parameters(timeout_min=flag.timeout_min, cpus_per_task=flag.cpus)
    if flag.slurm_partition:
        executor.update_parameters(slurm_partition=flag.slurm_partition, gpus_per_node=flag.gpus)
    return executor
