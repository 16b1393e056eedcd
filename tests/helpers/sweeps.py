"""Sweeps of runs that end at once, without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from alexnet_jax.config import Config
from alexnet_jax.status import Status, write_status
from experiments.sweeps import sweep
from experiments.sweeps.run import Base, Run


@dataclass(frozen=True)
class Row:
    """A row of the table of a sweep."""

    name: str
    seed: int
    status: str
    error: float | None = None
    seconds: float | None = None

    @property
    def outcome(self) -> str:
        return self.status


def make_sweep(
    output: Path,
    names: list[str],
    jobs: int = 1,
    at_once: int | None = None,
    *,
    seeds: int = 0,
) -> sweep.Sweep[Row]:
    """Return a sweep that plans `at_once` runs, and another for each that has ended; all if None.

    With `seeds` each name is so many runs, which are trained together.
    """
    base = Base("tiny.py", {}, Config(), output)
    runs = [base.make_run((name,), "", (), {}) for name in names]
    if seeds:
        runs = make_seeds(base, names, seeds)
    return sweep.Sweep(
        *(base, "rows", jobs),
        seeds_together=bool(seeds),
        row_type=Row,
        plan=lambda rows: runs if at_once is None else runs[: at_once + len(rows)],
        make_row=lambda run, status, seconds: Row(run.name, 0, status, seconds=seconds),
        make_report=lambda rows: (f"{len(rows)} rows", None),
    )


def make_seeds(base: Base, names: list[str], seeds: int) -> list[Run]:
    """Return the runs of variants, seed by seed."""
    pairs = [(name, seed) for seed in range(seeds) for name in names]
    return [base.make_run((name, s), "", (name,), {"epochs": 7, "seed": s}) for name, s in pairs]


class Job:
    """A job that has ended."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.paths = error, SimpleNamespace(stderr="its.log")

    def done(self) -> bool:
        return True

    def exception(self) -> Exception | None:
        return self.error


class Executor:
    """End every job at once; those of workdirs in `errors` fail, after writing that status."""

    def __init__(self, errors: dict[str, Status | None]) -> None:
        self.errors = errors
        self.started: list[str] = []

    def start(self, words: Sequence[str], name: str) -> Job:
        word = next(word for word in words if word.startswith("--workdir="))
        workdir = Path(word.removeprefix("--workdir="))
        self.started.append(name := workdir.name)
        if name not in self.errors:
            return Job(None)
        if status := self.errors[name]:
            write_status(workdir, status)
        return Job(OSError("it is not finite at step 7"))
