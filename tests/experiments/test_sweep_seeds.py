"""Sweeps whose seeds of a variant are trained together, by one program."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers.sweeps import Executor, Job, Row, make_seeds, make_sweep

from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.fields import replace
from alexnet_jax.status import Status, write_status
from configs.alexnet import get_config
from experiments.sweeps import sweep
from experiments.sweeps.rows import read_rows
from experiments.sweeps.run import Base, group_arguments, group_runs


def test_the_seeds_of_a_variant_are_one_command(tmp_path: Path) -> None:
    """Catches: runs of two configs in one program, a seed or a folder that is that of the first
    run for all, runs at different steps together, which main refuses, a new flag for a single
    run, and seeds that are together without the flag."""
    runs = make_seeds(Base("a.py:sample", {"seed": 9}, Config(), tmp_path), ["tanh", "base"], 3)
    tanh, _ = groups = group_runs(runs, seeds_together=True)
    assert [[run.name for run in group] for group in groups] == [
        ["tanh-0", "tanh-1", "tanh-2"],
        ["base-0", "base-1", "base-2"],
    ]
    assert group_arguments(tanh) == (
        *("--config=a.py:sample,tanh", "--config.epochs=7"),
        *(f"--workdir={tmp_path}/runs/tanh-{{seed}}", "--seeds=0,1,2"),
    )
    assert group_runs(runs, seeds_together=False) == [[run] for run in runs]
    (tmp_path / "runs" / "tanh-1" / "checkpoints" / "step_10").mkdir(parents=True)
    others, begun = group_runs(tanh, seeds_together=True)
    assert group_arguments(others)[-1] == "--seeds=0,2"
    assert group_arguments(begun) == tanh[1].arguments


class Together(Executor):
    """Ends every job with an error, after these runs in a folder have written their status."""

    def __init__(self, folder: Path, errors: dict[str, Status | None]) -> None:
        super().__init__(errors)
        self.folder = folder

    def start(self, words: Sequence[str], name: str) -> Job:
        for run, status in self.errors.items():
            write_status(self.folder / run, cast(Status, status))
        self.started.append(words[-1])
        return Job(OSError("exit status 3"))


def test_one_of_the_seeds_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: seeds that have finished called failed or diverged with the other one, or tried
    again; one that was stopped called done; a failed program whose runs had finished before
    taken for a success; the time of the program counted for each of its runs."""
    now = iter((0.0, 60.0))
    time = SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None)
    monkeypatch.setattr(sweep, "time", time)
    executor = Together(
        tmp_path / "runs", {"a-0": "finished", "a-1": "diverged", "a-2": "interrupted"}
    )
    make_sweep(tmp_path, ["a"], seeds=3).run_waiting(cast(Any, executor))
    assert executor.started == ["--seeds=0,1,2"]
    rows = read_rows(tmp_path / "rows.csv", Row)
    assert [(row.name, row.status, row.seconds) for row in rows] == [
        ("a-0", "done", 20.0),
        ("a-1", "diverged, see its.log", 20.0),
        ("a-2", "failed, see its.log", 20.0),
    ]
    monkeypatch.undo()
    executor = Together(tmp_path / "runs", {"a-2": "failed", "a-3": "finished"})
    ended = make_sweep(tmp_path, ["a"], seeds=4).run_waiting(cast(Any, executor))
    assert executor.started == ["--seeds=2,3"]
    assert [(row.name, row.status.split(",")[0]) for row in ended] == [
        ("a-1", "diverged"),
        ("a-2", "failed"),
        ("a-3", "failed"),
    ]


@pytest.mark.parametrize(
    ("changes", "platform", "partition", "message"),
    [
        ({"data.resident": "on"}, "cpu", None, ""),
        ({}, "", "gpus", ""),
        ({}, "", None, r"since this machine has no NVIDIA GPU .*; expected an accelerator, "),
        ({}, "cpu", "gpus", "since JAX_PLATFORMS=cpu; expected"),
        ({"data.resident": "off"}, "", "gpus", "since data.resident=off; expected"),
        ({"data.resident": "on", "parallel.data": 2}, "", None, "--seeds trains on one device"),
        ({"keep_checkpoints": 1}, "", "gpus", "--seeds needs the last two checkpoints"),
    ],
)
def test_what_cannot_be_trained_together(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    platform: str,
    partition: str | None,
    message: str,
) -> None:
    """Catches: every program of a sweep started in order to be refused, and a sweep refused whose
    programs run elsewhere. Without nvidia-smi."""
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    monkeypatch.setattr(sweep.shutil, "which", lambda _: None)
    monkeypatch.setattr(sweep.flags, "FLAGS", SimpleNamespace(slurm_partition=partition))
    config = replace(get_config("sample"), changes)
    if not message:
        sweep.check_seeds_together(config)
        return
    with pytest.raises(InputError, match=message):
        sweep.check_seeds_together(config)
