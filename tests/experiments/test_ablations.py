"""The sweep of ablations: what it plans, how it goes on, and what it reports."""

import json
from pathlib import Path

import pytest
from helpers import processes
from helpers.image_sets import write_idx_set

from alexnet_jax import command
from alexnet_jax.config import config_to_json, validated
from alexnet_jax.errors import InputError
from alexnet_jax.fields import differences
from alexnet_jax.workdir import read_config, saved_steps
from configs import resnet
from configs.alexnet import get_config
from experiments import ablations
from experiments.ablations import Result
from experiments.sweeps.rows import read_rows
from experiments.sweeps.run import Base, Run

SAMPLE = "configs/alexnet.py:sample"


def plan(only: list[str], seeds: int = 1) -> tuple[list[Run], list[str]]:
    config = validated(get_config("sample"))
    return ablations.plan_runs(Base(SAMPLE, {"epochs": 7}, config, Path("out")), only, seeds)


def test_the_plan_names_every_run() -> None:
    """Catches a word or a field that does not reach its run, and seeds that are all the same."""
    runs, skipped = plan(["base", "tanh", "normal_init"], seeds=2)
    assert skipped == []
    assert [run.name for run in runs] == [
        *("base-0", "tanh-0", "normal_init-0"),
        *("base-1", "tanh-1", "normal_init-1"),
    ]
    assert runs[4].arguments == (
        "--config=configs/alexnet.py:sample,tanh",
        "--workdir=out/runs/tanh-1",
        "--config.epochs=7",
        "--config.seed=1",
    )
    assert "--config.model.init=normal" in runs[2].arguments


def test_what_would_change_nothing_is_left_out() -> None:
    """Catches hours spent on the base under another name."""
    runs, skipped = plan(["scaled_init", "no_lighting", "no_crops"])
    assert [run.name for run in runs] == ["no_crops-0"]
    assert [reason.split(":")[0] for reason in skipped] == ["scaled_init", "no_lighting"]


def test_the_authors_model_with_and_without_normalization() -> None:
    """Catches: a change of the schedule or of the crops along with the normalization, runs of two
    seeds that are one, and a normalization that is left."""
    file = "configs/cifar.py:11pct"
    base = Base(file, {}, validated(command.load_config(file)), Path("out"))
    runs, skipped = ablations.plan_runs(base, ["base", "no_lrn"], 3)
    assert skipped == []
    assert [run.name for run in runs] == [f"{n}-{s}" for s in range(3) for n in ("base", "no_lrn")]
    with_it, without = (
        validated(command.load_config(run.arguments[0].removeprefix("--config=")))
        for run in runs[:2]
    )
    changed = differences(config_to_json(with_it), config_to_json(without))
    assert {name for name, *_ in changed} == {"model.ops.norm1", "model.ops.norm2"}


def test_models_that_are_no_chains_are_refused() -> None:
    """Catches: a traceback for a field that these models do not have."""
    config = validated(resnet.get_config("sample"))
    with pytest.raises(InputError, match="is a ResNetConfig; expected a sequential model"):
        ablations.plan_runs(Base(SAMPLE, {}, config, Path("out")), [], 1)


def test_a_name_given_twice_is_one_run() -> None:
    """Catches two processes that train in one folder."""
    runs, _ = plan(["tanh", "base", "tanh"])
    assert [run.name for run in runs] == ["tanh-0", "base-0"]


def test_a_run_that_was_not_evaluated_is_not_done(tmp_path: Path) -> None:
    """Catches a row without errors that is never tried again, and never reported."""
    run = Run(("tanh", 2), "", tmp_path, ())
    shared = dict(step=9, epoch=1.0, loss=1.0, top5_error=0.05, count=8)
    rates = dict(learning_rate=0.1, images_per_second=1.0)
    records = [dict(shared, split="train", top1_error=0.3, **rates)]
    for views, top1 in ("center", 0.2), ("ten", 0.1):
        records.append(dict(shared, split="test", views=views, top1_error=top1))
    found = []
    for count in (2, 3):
        lines = (json.dumps(record) + "\n" for record in records[:count])
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        found.append(ablations.make_result(run, "done", 5.0))
    assert found == [
        Result("tanh", 2, "failed, no final evaluation", seconds=5.0),
        Result("tanh", 2, "done", 0.2, 0.05, 0.1, 0.05, 0.3, 5.0),
    ]


def test_an_unknown_name_is_reported() -> None:
    """Catches a typo that is left out in silence."""
    with pytest.raises(InputError, match="--only=no_lnr: no_lnr is none of base, no_lrn"):
        plan(["no_lnr"])


def test_a_failure_does_not_stop_the_sweep_and_is_tried_again(tmp_path: Path) -> None:
    """Catches a sweep that ends at the first failure, repeats what is done, or passes over what
    failed. The small config knows no words after a colon, so every ablation of it fails."""
    write_idx_set(tmp_path / "data", train=120, test=20)
    config = processes.write_config(tmp_path, tmp_path / "data")
    arguments = [f"--config={config}", f"--output={tmp_path / 'out'}", "--seeds=1"]
    arguments += ["--only=tanh,base", "--config.max_steps=2"]
    first = processes.run("ablations", *arguments, package="experiments")
    rows = read_rows(tmp_path / "out" / "ablations.csv", Result)
    second = processes.run("ablations", *arguments, package="experiments")
    assert (first.returncode, second.returncode) == (1, 1), first.stderr
    assert [(row.ablation, row.status.split(",")[0]) for row in rows] == [
        ("tanh", "failed"),
        ("base", "done"),
    ]
    again = read_rows(tmp_path / "out" / "ablations.csv", Result)
    assert {row.ablation: row.seconds for row in again}["base"] == rows[1].seconds
    assert "tanh-0: failed" in second.stderr
    assert "base-0" not in second.stderr
    assert (tmp_path / "out" / "ablations.png").stat().st_size > 1000
    assert (tmp_path / "out" / "ablations.md").read_text() == second.stdout
    log = rows[0].status.split("see ")[1]
    assert "alexnet_jax.main" in Path(log).read_text()


def test_seeds_together_from_end_to_end(tmp_path: Path) -> None:
    """Catches: a command that main refuses; folders, seeds or rows other than those of runs one by
    one; a flag that changes nothing; a run that is not evaluated."""
    write_idx_set(tmp_path / "data", train=120, test=20)
    arguments = [
        f"--config={processes.write_config(tmp_path, tmp_path / 'data')}",
        *(f"--output={tmp_path / 'out'}", "--seeds=2", "--only=base", "--seeds_together"),
        *("--config.max_steps=2", "--config.data.resident=on"),
    ]
    ended = processes.run("ablations", *arguments, package="experiments")
    assert ended.returncode == 0, ended.stderr
    rows = read_rows(tmp_path / "out" / "ablations.csv", Result)
    assert [(row.name, row.status) for row in rows] == [("base-0", "done"), ("base-1", "done")]
    assert rows[0].seconds == rows[1].seconds
    for seed in (0, 1):
        workdir = tmp_path / "out" / "runs" / f"base-{seed}"
        assert (read_config(workdir).seed, saved_steps(workdir)) == (seed, [2])


def test_the_table_gives_means_spreads_and_changes() -> None:
    """Catches fractions for per cent, a change from the wrong run, and runs without a result."""
    results = [
        Result("base", 0, "done", 0.2, 0.02, 0.10, 0.01, 0.1, 5.0),
        Result("base", 1, "done", 0.2, 0.02, 0.12, 0.03, 0.1, 5.0),
        Result("no_lrn", 0, "done", 0.2, 0.02, 0.15, 0.02, 0.1, 5.0),
        Result("no_lrn", 1, "failed, see x"),
    ]
    _, _, base, no_lrn = ablations.format_results(results).splitlines()
    assert base == "| base | 11.00 | 2: 10.00 to 12.00 | +0.00 / +0.00 | 20.00 |  |  |"
    cells = [cell.strip() for cell in no_lrn.strip("|").split("|")]
    assert cells[1:4] == ["15.00", "1: 15.00 to 15.00", "+4.00 / +0.00"]
    assert cells[4:] == ["20.00", "+1.4 / +1.2", "+1.37 / +1.15"]


def test_no_result_is_no_table() -> None:
    """Catches the bare head of a table, and a figure of nothing."""
    assert ablations.make_report([Result("base", 0, "failed, see x")]) == (
        "No run has finished.",
        None,
    )
