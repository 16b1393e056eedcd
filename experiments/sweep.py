"""Many trainings as one experiment: started, gone on with, collected as they end.

Each is `python -m alexnet_jax.main` in a folder of its own below OUTPUT/runs, started by submitit:
on this machine, --jobs at a time, or under SLURM with --slurm_partition. What became of it is a
row of a CSV file, which is read again when the same command goes on: runs that are done are left
alone, the others continue from their checkpoints. One that fails does not stop the others. One
whose loss is not finite has "diverged", and is not tried again: it would do the same.
"""

import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

import submitit
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax.errors import InputError
from alexnet_jax.workdir import differences

POLL_SECONDS = 0.5
DIVERGED = "finite at step"  # what a run says that ends so, in alexnet_jax/train.py


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: of its folder, and of its row.
        says: what is particular to it, in a few words.
        arguments: of `alexnet_jax.main`.
    """

    name: str
    says: str
    workdir: Path
    arguments: tuple[str, ...]


def make_run(output: Path, name: str, says: str, config: str, fields: dict[str, Any]) -> Run:
    """The run of a config file, with its variant, and with fields set."""
    workdir = output / "runs" / name
    overrides = (f"--config.{field}={value}" for field, value in fields.items())
    return Run(name, says, workdir, (f"--config={config}", f"--workdir={workdir}", *overrides))


def variant(file: str, *words: str) -> str:
    """A config file with words after the variant that it has."""
    path, _, before = file.partition(":")
    return ":".join(filter(None, [path, ",".join(filter(None, [before, *words]))]))


class Row(Protocol):
    """What the row of a run is: a dataclass of words and numbers, some of which may be None.

    Attributes:
        name: of the run.
        status: "done", "diverged, …" or "failed, …".
        seconds: that the whole command took when it ended; None if that is not known.
        outcome: a few words for when the run ends.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def seconds(self) -> float | None: ...  # noqa: D102
    @property
    def outcome(self) -> str: ...  # noqa: D102


R = TypeVar("R", bound=Row)


def failed(row: Row) -> bool:
    """Whether a run has to be tried again."""
    return row.status.startswith("failed")


class Sweep(Generic[R]):
    """The runs of an experiment, and what came of them."""

    def __init__(
        self,
        runs: list[Run],
        output: Path,
        jobs: int,
        *,
        table: Path,
        kind: type[R],
        result: Callable[[Run, str, float | None], R],
        report: Callable[[list[R], Path], None],
    ) -> None:
        """`jobs` run at the same time.

        Args:
            table: the CSV file of rows, each of `kind`.
            result: from a run, its status and its seconds, the row.
            report: writes into `output` what the rows say, whenever there is one more.
        """
        self.runs, self.output, self.jobs = runs, output, jobs
        self.table, self.result, self.report = table, result, report
        self.results = read(table, kind)

    def waiting(self) -> list[Run]:
        """The runs that have not come to an end."""
        ended = {row.name for row in self.results if not failed(row)}
        return [run for run in self.runs if run.name not in ended]

    def estimate(self) -> float | None:
        """Seconds that the rest will take, from the runs that are done; None without any."""
        seconds = [r.seconds for r in self.results if r.seconds and r.status == "done"]
        if not seconds:
            return None
        return statistics.median(seconds) * len(self.waiting()) / self.jobs

    def show(self) -> None:
        """Print all runs."""
        for run in self.runs:
            print(f"{run.name}: {run.says}")

    def dry_run(self) -> None:
        """Print the commands that are still to run, and say how long they will take."""
        for run in self.waiting():
            print(f"python -m alexnet_jax.main {' '.join(run.arguments)}")
        seconds = self.estimate()
        rest = "no run is done, so its time is not known"
        if seconds is not None:
            rest = f"about {seconds / 60:.0f} minutes, as long as those that are done"
        print(f"{len(self.waiting())} of {len(self.runs)} runs to do: {rest}", file=sys.stderr)

    def go(self, executor: submitit.AutoExecutor) -> list[R]:
        """Start what waits and collect what ends; returns those that are not done.

        Ctrl-C interrupts the running ones, which save, and is raised again.
        """
        waiting = self.waiting()
        running: dict[Run, tuple[submitit.Job[str], float]] = {}
        bar = tqdm(total=len(self.runs), initial=len(self.runs) - len(waiting), unit="run",
                   disable=not sys.stderr.isatty())  # fmt: skip
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    run = waiting.pop(0)
                    running[run] = _start(run, executor), time.monotonic()
                bar.set_postfix_str(", ".join(run.name for run in running))
                for run, (job, begin) in [*running.items()]:
                    if job.done():
                        del running[run]
                        self._collect(run, job, time.monotonic() - begin)
                        bar.update()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
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
        error = job.exception()
        status = "done"
        if error is not None:
            what = "diverged" if DIVERGED in str(error) else "failed"
            status = f"{what}, see {job.paths.stderr}"
        new = self.result(run, status, round(seconds, 1))
        self.results = [row for row in self.results if row.name != new.name]
        self.results.append(new)
        write(self.table, self.results)
        self.report(self.results, self.output)
        tqdm.write(f"{run.name}: {new.outcome}, {seconds:.0f} s", file=sys.stderr)


def _start(run: Run, executor: submitit.AutoExecutor) -> submitit.Job[str]:
    run.workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "alexnet_jax.main", *run.arguments]
    return executor.submit(submitit.helpers.CommandFunction(words, verbose=False))


def read(path: Path, kind: type[R]) -> list[R]:
    """The rows of a table; none where there is no file.

    Raises:
        InputError: a table of something else.
    """
    if not path.exists():
        return []
    types = get_type_hints(kind)

    def value(name: str, text: str) -> Any:
        if types[name] == float | None:
            return float(text) if text else None
        return types[name](text)

    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or set(rows.fieldnames) != {
            field.name for field in fields(kind)
        }:
            raise InputError(
                f"{path} is no table of this sweep; move it away, or give another --output"
            )
        return [kind(**{name: value(name, text) for name, text in row.items()}) for row in rows]


def write(path: Path, rows: list[R]) -> None:
    """The table, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(type(rows[0]))])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    temporary.replace(path)


def begin(output: Path, base: ConfigDict) -> None:
    """Record the config that all runs are made from in the experiment's folder.

    Raises:
        InputError: it was begun with another one, and its runs would not compare; or the folder
            cannot be written to.
    """
    path, new = output / "config.json", json.loads(base.to_json())
    if path.exists():
        for name, was, now in differences(json.loads(path.read_text()), new):
            raise InputError(
                f"--output={output} was begun with {name}={was!r}, and now it is {now!r}; give "
                "another --output, or the values it was begun with"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(new, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--output={output} cannot be written to: {error.strerror}") from None


def define_flags() -> None:
    """Define the flags of every sweep."""
    flags.DEFINE_string("output", None, "Folder of the sweep.", required=True)
    flags.DEFINE_bool("list", False, "List the runs and end.")
    flags.DEFINE_bool("dry_run", False, "List the commands still to run, with the time, and end.")
    flags.DEFINE_integer("jobs", 1, "Runs at the same time.", lower_bound=1)
    flags.DEFINE_integer("timeout_min", 60 * 24, "Minutes that a run may take.", lower_bound=1)
    flags.DEFINE_string("slurm_partition", None, "Run under SLURM, in this partition.")
    flags.DEFINE_integer("cpus", 8, "CPUs of a run, under SLURM.", lower_bound=1)
    flags.DEFINE_integer("gpus", 1, "GPUs of a run, under SLURM.", lower_bound=0)


def make_executor() -> submitit.AutoExecutor:
    """What starts the runs, as the flags say."""
    flag = flags.FLAGS
    cluster = "slurm" if flag.slurm_partition else "local"
    executor = submitit.AutoExecutor(folder=Path(flag.output) / "logs", cluster=cluster)
    executor.update_parameters(timeout_min=flag.timeout_min, cpus_per_task=flag.cpus)
    if flag.slurm_partition:
        executor.update_parameters(slurm_partition=flag.slurm_partition, gpus_per_node=flag.gpus)
    return executor
