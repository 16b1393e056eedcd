"""The claims on CIFAR-10: which runs a budget starts, and how long they take."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_jax.workdir import lock_workdir
from experiments.reproduce import runs
from experiments.reproduce.claims import EIGHTEEN, EIGHTY, choose_claims
from experiments.reproduce.runs import Budget, Plan, RunRow

SHORT = 3600 * EIGHTY.hours  # between 1,000 and 2,000 seconds
LONG = 3600 * EIGHTEEN.hours  # more than 3,000 seconds


def make_plan(output: Path, seconds: float | None, *, is_gpu: bool = False, jobs: int = 1) -> Plan:
    """Return the plan of 80sec (SHORT seconds) and 18pct (LONG seconds) within a budget."""
    budget = Budget(seconds, is_gpu=is_gpu, jobs=jobs)
    planned = runs.plan_runs(choose_claims(["80sec", "18pct"]), "data", output)
    return Plan(planned, budget, seeds_together=False)


def test_the_budget_starts_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a run started that takes longer than what is left; a limit without --budget; hours
    of two cores that are taken for those of a GPU; runs of unknown time that no budget starts, or
    that a spent one does; jobs that do not slow each other down; a run that is left out and not
    named."""
    now = 1000.0
    monkeypatch.setattr(runs.time, "monotonic", lambda: now)

    def names(plan: Plan, rows: list[RunRow]) -> list[str]:
        return [run.name for run in plan(rows)]

    assert names(make_plan(tmp_path, None), []) == ["80sec-0", "18pct-0"]
    assert names(make_plan(tmp_path, None, is_gpu=True), []) == ["80sec-0", "18pct-0"]
    plan = make_plan(tmp_path, 1000, is_gpu=True)
    assert names(plan, []) == ["80sec-0", "18pct-0"]
    other = RunRow("80sec", 1, "done", 0.26, 0.25, 0.3, seconds=1200.0, machine="a GPU")
    assert names(plan, [other]) == ["18pct-0"]
    now += 1000
    assert names(plan, []) == []
    assert names(make_plan(tmp_path, 2000, jobs=2), []) == []
    plan = make_plan(tmp_path, 2000)
    assert names(plan, []) == ["80sec-0"]
    assert plan.left_out([]) == [("80sec-0", SHORT), ("18pct-0", LONG)]
    now += 700
    assert names(plan, []) == []
    done = RunRow("80sec", 0, "done", 0.26, 0.25, 0.3, seconds=1200.0)
    assert names(plan, [done]) == ["80sec-0"]
    assert plan.left_out([done]) == [("18pct-0", LONG)]


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    """Catches: a second process started in a workdir, which fails."""
    with lock_workdir(tmp_path / "runs" / "80sec-0"):
        assert [run.name for run in make_plan(tmp_path, None)([])] == ["18pct-0"]


def test_estimates_are_those_of_other_seeds_and_of_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the registry's estimate where this machine's is known; a run that is nearly done
    estimated from its beginning."""
    progress = runs.Progress("interrupted", 10, 0.75)
    monkeypatch.setattr(
        runs, "read_progress", lambda workdir: progress if workdir.name == "18pct-0" else None
    )
    plan = make_plan(tmp_path, 5000)
    assert plan.estimate("18pct-0", []) == LONG / 4
    other = RunRow("80sec", 1, "done", seconds=900.0, machine="a processor, 2 cores")
    assert plan.estimate("80sec-0", [other]) == 900
    assert plan.estimate("80sec-0", []) == SHORT


def test_estimates_are_of_the_same_kind_of_device(tmp_path: Path) -> None:
    """Catches: a CPU's time, with which no budget of a GPU starts another seed, or a GPU's, with
    which that of a CPU starts hours of training; the time of a run whose machine is not known."""
    processor = RunRow("80sec", 1, "done", seconds=9e4, machine="a processor, 2 cores")
    gpu = replace(processor, seconds=60.0, machine="a GPU")
    unknown = replace(processor, seconds=1.0, machine=runs.NOT_RECORDED)
    rows = [unknown, processor, gpu]
    assert make_plan(tmp_path, 5000).estimate("80sec-0", rows) == 9e4
    on_gpu = make_plan(tmp_path, 5000, is_gpu=True)
    assert on_gpu.estimate("80sec-0", rows) == 60
    assert on_gpu.estimate("80sec-0", [unknown, processor]) is None


def test_seeds_together_need_the_time_of_all(tmp_path: Path) -> None:
    """Catches: a program of two seeds started in the time of one; one of unknown time that no
    budget starts; a budget that starts one seed alone."""

    def names(seconds: float, *rows: RunRow) -> list[str]:
        budget = Budget(seconds, is_gpu=True, jobs=1)
        planned = runs.plan_runs(choose_claims(["lrn_tenth"]), "data", tmp_path)
        return [run.name for run in Plan(planned[:3], budget, seeds_together=True)([*rows])]

    all_names = [f"11pct_tenth-{seed}" for seed in range(3)]
    first = RunRow("11pct_tenth", 0, "done", seconds=100.0, machine="a GPU")
    assert names(50) == names(250, first) == all_names
    assert names(150, first) == all_names[:1]


def test_seeds_that_were_trained_together_share_their_time(tmp_path: Path) -> None:
    """Catches: the time of one program counted for each of its runs, or divided where a run was
    continued alone; runs of another name that share it; a speed of 0 at a resumed step."""
    speeds = {
        "a-0": [(1, 4.0), (2, 4.0)],
        "a-1": [(1, 4.0), (2, 8.0), (3, 0.0)],
        "a_b-0": [(1, 4.0)],
    }
    for name, of_run in speeds.items():
        (tmp_path / name).mkdir()
        record = dict(epoch=1.0, split="train", loss=1.0, top1_error=0.5, top5_error=0.2, count=8)
        lines = [
            json.dumps(record | dict(step=step, learning_rate=0.1, images_per_second=speed)) + "\n"
            for step, speed in of_run
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines))
    seconds = [runs.training_seconds(tmp_path / name) for name in speeds]
    assert seconds == [1 + 2, 1 + 1, 2]
