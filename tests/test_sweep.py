"""What all sweeps share: their table, their folder, their flags."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import processes
import pytest
from torch_twin import config_module

from alexnet_jax.errors import InputError
from experiments import sweep


@dataclass(frozen=True)
class Row:
    name: str
    seed: int
    status: str
    error: float | None = None
    seconds: float | None = None

    @property
    def outcome(self) -> str:
        return self.status


def make(output: Path, names: list[str], jobs: int = 1) -> sweep.Sweep[Row]:
    runs = [sweep.make_run(output, name, "", "tiny.py", {}) for name in names]
    return sweep.Sweep(
        *(runs, output, jobs),
        table=output / "rows.csv",
        kind=Row,
        result=lambda run, status, seconds: Row(run.name, 0, status, seconds=seconds),
        report=lambda rows, output: None,
    )


class Job:
    """A job of submitit's that has ended."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.paths = error, SimpleNamespace(stderr="its.log")

    def done(self) -> bool:
        return True

    def exception(self) -> Exception | None:
        return self.error


class Executor:
    """Ends every job at once, those of these workdirs with an error."""

    def __init__(self, errors: dict[str, str]) -> None:
        self.errors = errors
        self.started: list[str] = []

    def submit(self, function: Any) -> Job:
        workdir = next(word for word in function.command if word.startswith("--workdir="))
        self.started.append(name := Path(workdir).name)
        return Job(OSError(self.errors[name]) if name in self.errors else None)


def test_what_failed_is_tried_again_and_nothing_else(tmp_path: Path) -> None:
    """Catches a sweep that ends at the first failure, starts again what is done or what would
    diverge again, or leaves out what failed."""
    first = Executor({"b": "gone", "c": "the loss is nan, not finite at step 7"})
    ended = make(tmp_path, ["a", "b", "c", "d"]).go(cast(Any, first))
    assert [(row.name, row.status) for row in ended] == [
        ("b", "failed, see its.log"),
        ("c", "diverged, see its.log"),
    ]
    assert first.started == ["a", "b", "c", "d"]
    second = Executor({})
    ended = make(tmp_path, ["a", "b", "c", "d"]).go(cast(Any, second))
    assert second.started == ["b"]
    assert [row.name for row in ended] == ["c"]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Catches a number read as a word, and an empty field as 0 or as "None"."""
    rows = [Row("base-0", 0, "done", 0.1, 5.0), Row("tanh-1", 1, "failed, see x,y")]
    sweep.write(tmp_path / "rows.csv", rows)
    assert sweep.read(tmp_path / "rows.csv", Row) == rows
    assert sweep.read(tmp_path / "none.csv", Row) == []


def test_the_rest_takes_as_long_as_what_is_done(tmp_path: Path) -> None:
    """Catches a run that failed at once counted as a short one, or as done."""
    sweep.write(
        tmp_path / "rows.csv",
        [Row("a", 0, "done", seconds=100.0), Row("b", 0, "failed, see x", seconds=2.0)],
    )
    whole = make(tmp_path, ["a", "b", "c", "d"], jobs=2)
    assert [run.name for run in whole.waiting()] == ["b", "c", "d"]
    assert whole.estimate() == 150.0
    assert make(tmp_path / "new", ["a"]).estimate() is None


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        ("a.py:sample", ("tanh",), "a.py:sample,tanh"),
        ("a.py", ("four", "tanh"), "a.py:four,tanh"),
        ("a.py:sample", (), "a.py:sample"),
        ("a.py", (), "a.py"),
    ],
)
def test_words_go_after_the_variant(file: str, words: tuple[str, ...], expected: str) -> None:
    """Catches a comma or a colon too many, which no config knows."""
    assert sweep.variant(file, *words) == expected


def test_another_config_is_refused(tmp_path: Path) -> None:
    """Catches runs of one schedule taken for finished ones of another."""
    base = config_module()["get_config"]("sample")
    sweep.begin(tmp_path, base)
    sweep.begin(tmp_path, base)
    base.epochs = 7
    with pytest.raises(InputError, match="was begun with epochs=16, and now it is 7"):
        sweep.begin(tmp_path, base)


def test_help_lists_the_shared_flags() -> None:
    """Catches flags of this module that --help passes over."""
    said = processes.run("ablations", "--help", package="experiments").stdout
    for flag in ("--config", "--seeds", "--jobs", "--slurm_partition", "--[no]dry_run"):
        assert flag in said
    assert "--verbosity" not in said
