"""Run many trainings as one experiment: start, resume and collect them.

Each training is `python -m alexnet_jax.main` in a folder of its own below OUTPUT/runs, started on
this machine, --jobs at a time, with its messages in OUTPUT/logs; or by submitit under SLURM, with
--slurm_partition. On Ctrl-C, SIGTERM or SIGHUP the runs save and stop. The outcome of each is a row
of OUTPUT/NAME.csv. A second command in the same OUTPUT is refused until the first one ends. When
the same command is given again, finished runs are left alone and the others continue from their
checkpoints. A run that fails does not stop the others. A run whose row has the status "diverged" is
not tried again, since it would diverge again; remove the row to repeat it. The report on the rows,
OUTPUT/NAME.md and NAME.png, is rewritten after every run.

With --seeds_together, runs that differ in the seed only are trained by one `main --seeds=…`. Their
folders and rows are the same as without it.
"""

import json
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic

from absl import flags
from matplotlib.figure import Figure
from tqdm import tqdm

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
from alexnet_jax.status import Status, read_status
from experiments.outputs import write_figure
from experiments.sweeps import slurm
from experiments.sweeps.jobs import Executor, Job, LocalExecutor, delay_interrupts, stop
from experiments.sweeps.rows import R, Row, read_rows, write_rows
from experiments.sweeps.run import Base, Run, group_arguments, group_runs

POLL_SECONDS = 0.5
# Fields that do not change what a run computes, so that they may differ from command to command.
WITHOUT_EFFECT = ("data.dir", "data.resident")


def _join_names(runs: list[Run]) -> str:
    """Return the names of runs in one line."""
    return ", ".join(run.name for run in runs)


def _write_line(text: str) -> None:
    """Write a line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


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
        seeds_together: bool,
        row_type: type[R],
        plan: Callable[[list[R]], list[Run]],
        make_row: Callable[[Run, str, float | None], R],
        write_report: Callable[[list[R]], str],
    ) -> None:
        """Read the results of earlier commands.

        Args:
            table: the CSV file of the rows.
            jobs: how many programs to run at the same time.
            seeds_together: whether a program trains all runs that differ in the seed only.
            row_type: class of the rows.
            plan: returns all runs wanted, given the rows so far.
            make_row: returns the row of a run, given its status and its duration in seconds; runs
                that are trained together share that of their program.
            write_report: writes files about the rows, and returns Markdown text.
        """
        self.table, self.jobs, self.seeds_together = table, jobs, seeds_together
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

    def run_waiting(self, executor: Executor) -> list[R]:
        """Start waiting runs and collect those that end; return the rows of all not done.

        On any exception, such as that of Ctrl-C or of a run that cannot be started or recorded,
        interrupt the running ones, which save, and raise it again.
        """
        started: set[str] = set()  # names, since a plan may change the arguments of a run
        running: list[tuple[list[Run], Job, float]] = []
        total = len(self.runs)
        bar = tqdm(total=total, initial=total - len(self.waiting()), unit="run",
                   disable=not sys.stderr.isatty())  # fmt: skip
        try:
            while (waiting := [r for r in self.waiting() if r.name not in started]) or running:
                groups = group_runs(waiting, seeds_together=self.seeds_together)
                for group in groups[: self.jobs - len(running)]:
                    started.update(run.name for run in group)
                    with delay_interrupts():
                        job = _start(group, executor)
                        running.append((group, job, time.monotonic()))
                    _write_line(
                        f"{_join_names(group)}: started; its messages are in {job.paths.stderr}"
                    )
                bar.total = len(self.runs)
                bar.set_postfix_str(_join_names([run for group, *_ in running for run in group]))
                for ended in [ended for ended in running if ended[1].done()]:
                    running.remove(ended)
                    group, job, begin = ended
                    self._collect(group, job, time.monotonic() - begin)
                    bar.update(len(group))
                time.sleep(POLL_SECONDS)
        except BaseException:
            stop([job for _, job, _ in running])
            if running:
                stopped = _join_names([run for group, *_ in running for run in group])
                _write_line(f"{stopped}: stopped; the same command continues from the checkpoints")
            raise
        finally:
            bar.close()
        planned = {run.name for run in self.runs}
        return [row for row in self.results if row.status != "done" and row.name in planned]

    def _collect(self, group: list[Run], job: Job, seconds: float) -> None:
        """Add the rows of the runs of a program, which has ended after so many seconds."""
        is_error = job.exception() is not None
        ends = [_read_end(run.workdir) if is_error else "finished" for run in group]
        for run, end in zip(group, ends, strict=True):
            status = "done"
            # The program fails, too, if any of several runs has diverged.
            if is_error and not (end == "finished" and "diverged" in ends):
                status = "diverged" if end == "diverged" else "failed"
                status += f", see {job.paths.stderr}"
            self._add_row(run, status, seconds / len(group))
        self.write_report(self.results)

    def _add_row(self, run: Run, status: str, seconds: float) -> None:
        """Add the row of a run in place of an earlier one, and print its outcome."""
        try:
            new = self.make_row(run, status, round(seconds, 1))
        except InputError as error:  # its metrics.jsonl is damaged
            raise InputError(f"run {run.name}: {error}") from None
        self.results = [row for row in self.results if row.name != new.name]
        self.results.append(new)
        write_rows(self.table, self.results)
        _write_line(f"{run.name}: {new.outcome}, {seconds:.0f} s")

    def print_commands(self) -> list[list[Run]]:
        """Print the commands still to run; return the runs of each."""
        groups = group_runs(self.waiting(), seeds_together=self.seeds_together)
        for group in groups:
            print(f"python -m alexnet_jax.main {shlex.join(group_arguments(group))}")
        return groups


class Sweep(Runs[R]):
    """The runs of an experiment, which share a config, and their results."""

    def __init__(
        self,
        base: Base,
        name: str,
        jobs: int,
        *,
        seeds_together: bool,
        row_type: type[R],
        plan: Callable[[list[R]], list[Run]],
        make_row: Callable[[Run, str, float | None], R],
        make_report: Callable[[list[R]], tuple[str, Figure | None]],
    ) -> None:
        """Read the results of earlier commands.

        Args:
            base: the settings that the runs share.
            name: of the sweep's files in `base.output`.
            jobs, seeds_together, row_type, plan, make_row: see `Runs`.
            make_report: returns the Markdown text about the rows, and a figure or None.
        """
        self.base, self.name, self.make_report = base, name, make_report
        super().__init__(
            self._path("csv"),
            jobs,
            seeds_together=seeds_together,
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
        if self.seeds_together:
            check_seeds_together(self.base.config)
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
        self.print_commands()
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
        """Return the path of the sweep's file with a suffix, such as "csv"."""
        return self.base.output / f"{self.name}.{kind}"


def _start(group: Sequence[Run], executor: Executor) -> Job:
    """Start the program that trains a group of `group_runs`."""
    for run in group:
        with write_errors_as_input_errors(run.workdir, MAKE_ROOM):
            run.workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "alexnet_jax.main", *group_arguments(group)]
    return executor.start(words, group[0].name)


def _read_end(workdir: Path) -> Status | None:
    """Return the status of status.json; None if there is none, or if it is damaged."""
    try:
        ended = read_status(workdir)
    except InputError as error:
        print(error, file=sys.stderr)
        return None
    return ended.status if ended else None


def check_seeds_together(config: Config) -> None:
    """Raise InputError where `alexnet_jax.main --seeds` would refuse a config, as far as is known.

    Args:
        config: the config of runs, whose images may not have been prepared.
    """
    from alexnet_jax import seeds  # here, since it imports JAX

    seeds.check_config(config)
    resident, reason = config.data.resident, ""
    if resident == "off":
        reason = "data.resident=off"
    elif resident == "auto" and os.environ.get("JAX_PLATFORMS") == "cpu":
        reason = "JAX_PLATFORMS=cpu"
    elif resident == "auto" and not (flags.FLAGS.slurm_partition or shutil.which("nvidia-smi")):
        reason = "this machine has no NVIDIA GPU (no nvidia-smi)"
    if reason:
        raise InputError(
            f"--seeds_together trains on images that are on the device, and the host would cut the "
            f"crops, since {reason}; expected an accelerator, data.resident=on, or the "
            "runs one by one"
        )


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
    flags.DEFINE_integer("jobs", 1, "Programs at the same time.", lower_bound=1)
    flags.DEFINE_bool(
        "seeds_together", False, "Train the seeds of one config in one program, on an accelerator."
    )
    flags.DEFINE_string("slurm_partition", None, "Run under SLURM, in this partition.")
    flags.DEFINE_integer(
        "timeout_min", 60 * 24, "Minutes that a program may take, under SLURM.", lower_bound=1
    )
    flags.DEFINE_integer("cpus", 8, "CPUs of a run, under SLURM.", lower_bound=1)
    flags.DEFINE_integer("gpus", 1, "GPUs of a run, under SLURM.", lower_bound=0)


def make_executor() -> Executor:
    """Return the executor chosen by the flags."""
    flag = flags.FLAGS
    folder = Path(flag.output) / "logs"
    return slurm.make_slurm_executor(folder) if flag.slurm_partition else LocalExecutor(folder)
