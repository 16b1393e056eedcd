"""Figure 6 of the ResNet paper: what is run, which errors are taken, and what they show."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers import processes
from helpers.image_sets import write_idx_set

from alexnet_jax.config import validated
from alexnet_jax.errors import InputError
from alexnet_jax.records import Record
from configs import alexnet, resnet
from experiments import degradation
from experiments.degradation import Result
from experiments.sweeps.rows import read_rows
from experiments.sweeps.run import Base
from experiments.sweeps.training_error import average_last_epoch


def base(variant: str = "sample", **overrides: Any) -> Base:
    config = validated(resnet.get_config(variant))
    return Base(f"configs/resnet.py:{variant}", overrides, config, Path("out"))


def row(kind: str, depth: int, errors: tuple[float, float] | None, seed: int = 0) -> Result:
    if errors is None:
        return Result(kind, depth, seed, "diverged, see x", seconds=9.0)
    train, test = errors
    return Result(kind, depth, seed, "done", train, test, test, seconds=9.0)


def train_record(step: int, epoch: float, error: float, count: int = 10) -> Record:
    return Record(step=step, epoch=epoch, split="train", top1_error=error, count=count)


def write_records(monkeypatch: pytest.MonkeyPatch, records: list[Record]) -> None:
    monkeypatch.setattr(degradation, "read_records", lambda _: records)


RECORDS = [
    train_record(4, 0.4, 0.9),
    train_record(10, 1.0, 0.8),
    Record(step=10, epoch=1.0, split="validation", top1_error=0.7, count=5),
    train_record(14, 1.4, 0.6, count=30),
    train_record(20, 2.0, 0.2),
    Record(step=20, epoch=2.0, split="validation", top1_error=0.4, count=5),
    Record(step=20, epoch=2.0, split="test", top1_error=0.3, count=5, views="center"),
    Record(step=20, epoch=2.0, split="test", top1_error=0.1, count=5, views="ten"),
]


def test_runs_are_those_of_section_4_2() -> None:
    """Catches: a depth of 6n or 6n + 4 layers, shortcuts that are exchanged, a kind that has its
    own initial weights, seeds of one depth before the first seed of another."""
    runs = degradation.plan_runs(base(), [8, 20], seeds=2)
    assert [run.name for run in runs] == [
        *("plain-8-0", "residual-8-0", "plain-20-0", "residual-20-0"),
        *("plain-8-1", "residual-8-1", "plain-20-1", "residual-20-1"),
    ]
    given = {*runs[2].arguments}
    assert {"--config.model.shortcut=none", "--config.model.stage_sizes=(3, 3, 3)"} <= given
    assert {"--config.model.shortcut=A", "--config.seed=1"} <= {*runs[5].arguments}
    for layers in (20, 56):  # as the config file's own words
        config = resnet.get_config(f"cifar_plain{layers}")
        (run, _) = degradation.plan_runs(base("cifar10"), [layers], seeds=1)
        assert f"--config.model.stage_sizes={resnet.resnet(config).stage_sizes}" in run.arguments


def test_110_layers_begin_at_a_lower_rate() -> None:
    """Catches: a warm-up of other networks, also of those of a config that has one; none of 110
    layers; one against the command line; one that is nearly all of a run on the sample."""

    def warmups(
        layers: int, variant: str = "cifar10", given: dict[str, Any] | None = None
    ) -> dict[str, str]:
        (run, _) = degradation.plan_runs(base(variant, **given or {}), [layers], seeds=1)
        fields = (word.removeprefix("--config.schedule.warmup_") for word in run.arguments)
        return dict(field.split("=") for field in fields if field.startswith(("steps", "factor")))

    schedule = resnet.get_config("cifar110").schedule
    steps, factor = str(schedule.warmup_steps), str(schedule.warmup_factor)
    assert warmups(110) == {"steps": steps, "factor": factor}
    assert warmups(56)["steps"] == warmups(20, "cifar110")["steps"] == "0"
    assert warmups(110, given={"schedule.warmup_steps": 0})["steps"] == "0"
    kept = warmups(110, given={"schedule.warmup_factor": 0.5})
    assert kept == {"steps": steps, "factor": "0.5"}
    assert warmups(110, "sample") == {}


def test_errors_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: the training error of the last record or of all of them, a mean that counts records
    and not images, the first validation for the last, ten views for the center view; the test error
    of the former last step of a run that was continued; a run on all training images that counts
    as failed, since it has no validation images."""
    write_records(monkeypatch, RECORDS)
    (run, _) = degradation.plan_runs(base(), [8], seeds=1)
    result = degradation.make_result(run, "done", 1.0)
    assert result.train_error == pytest.approx((30 * 0.6 + 10 * 0.2) / 40)
    assert (result.validation_error, result.test_error) == (0.4, 0.3)
    longer = [cast(Record, {**r, "step": r["step"] + 20, "top1_error": 0.05}) for r in RECORDS]
    write_records(monkeypatch, RECORDS + longer)
    assert degradation.make_result(run, "done", 1.0).test_error == 0.05
    write_records(monkeypatch, RECORDS[:-2])
    assert degradation.make_result(run, "done", 1.0).status.startswith("failed")
    write_records(monkeypatch, [r for r in RECORDS if r["split"] != "validation"])
    without = degradation.make_result(run, "done", 1.0)
    assert without == replace(result, validation_error=None)
    assert degradation.make_result(run, "diverged, see x", 1.0).test_error is None
    assert average_last_epoch([train_record(4, 0.4, 0.9)]) == 0.9
    assert average_last_epoch([train_record(10, 1.0, 0.9), train_record(25, 2.5, 0.5)])


def test_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a training error drawn at the end of its steps, and the final evaluation as a point
    of the curve."""
    write_records(monkeypatch, RECORDS)
    curves = degradation.load_curves(base(), row("plain", 8, (0.1, 0.2)))
    assert [[*map(tuple, curve)] for curve in curves] == [
        [(2, 7, 12, 17), (0.9, 0.8, 0.6, 0.2)],
        [(10, 20), (0.7, 0.4)],
    ]


def test_the_figure_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: solid and dashed lines exchanged, a depth with two colors, a diverged run drawn,
    panels exchanged."""
    write_records(monkeypatch, RECORDS)
    rows = [row("plain", 8, (0.1, 0.2)), row("plain", 20, None), row("residual", 8, (0.1, 0.2))]
    rows.append(row("residual", 20, (0.1, 0.2)))
    plain, residual = degradation.plot_results(base(), rows).axes
    assert [axis.get_title() for axis in (plain, residual)] == [
        "plain networks",
        "residual networks",
    ]
    drawn = [line for line in plain.lines if np.size(line.get_xydata())]
    assert [line.get_linestyle() for line in drawn] == ["--", "-"]
    assert np.asarray(drawn[0].get_ydata())[0] == pytest.approx(90)
    assert drawn[0].get_linewidth() < drawn[1].get_linewidth()
    colors = [[line.get_color() for line in axis.lines] for axis in (plain, residual)]
    assert {*colors[0]} == {colors[1][0]}
    assert len({*colors[1]}) == 2
    assert residual.get_legend_handles_labels()[1] == ["8 layers", "20 layers"]


def test_a_figure_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: no figure of runs on all training images; one whose height is that of the first
    errors, beside which the others are flat."""
    errors = [0.9] + 19 * [0.1]
    write_records(monkeypatch, [train_record(10 * n, n / 5, e) for n, e in enumerate(errors, 1)])
    plain, _ = degradation.plot_results(base(), [row("plain", 8, (0.1, 0.2))]).axes
    assert np.size(plain.lines[0].get_xydata()) == 40
    assert plain.get_ylim()[1] == pytest.approx(1.05 * 10)


def test_a_run_without_records_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a figure that fails for a row whose run's metrics.jsonl is gone; a depth in the
    legend without a line."""
    rows = [row("plain", 8, (0.1, 0.2)), row("plain", 20, (0.1, 0.2))]
    monkeypatch.setattr(
        degradation, "read_records", lambda path: RECORDS if "plain-8" in str(path) else []
    )
    plain, _ = degradation.plot_results(base(), rows).axes
    assert plain.get_legend_handles_labels()[1] == ["8 layers"]
    monkeypatch.setattr(degradation, "read_records", lambda _: [])
    for axis in degradation.plot_results(base(), rows).axes:
        assert not axis.lines


def test_the_table_and_what_it_says() -> None:
    """Catches: columns exchanged, a mean of one seed only, or without its spread; the seeds of one
    kind counted for the other; a diverged network left out; a change from the deepest to the
    shallowest."""
    rows = [
        *(row("plain", 20, (0.30, 0.32)), row("plain", 8, (0.10, 0.12))),
        *(row("plain", 20, (0.40, 0.42), seed=1), row("residual", 8, (0.10, 0.11))),
        row("residual", 20, None),
    ]
    _, _, *lines = degradation.format_results(rows).splitlines()
    assert lines == [
        "| 8 | 1 | 10.00 | 12.00 | 1 | 10.00 | 11.00 |  |",
        "| 20 | 2 | 35.00 (30.00 to 40.00) | 37.00 (32.00 to 42.00) | 0 | diverged | diverged "
        "| 8.75 |",
    ]
    assert degradation.summarize_results(rows) == [
        "From 8 to 20 layers, plain networks change training error by +25.00 points, "
        "test error by +25.00 points."
    ]


@pytest.mark.parametrize("given", [[], ["20", "21"], ["2"], ["-4"], ["8.0"], ["deep"]])
def test_wrong_depths(given: list[str]) -> None:
    """Catches: a depth that is rounded to another one, and one without blocks."""
    with pytest.raises(InputError, match=r"--depths=.*; expected numbers of layers 6n \+ 2"):
        degradation.parse_depths(given)
    assert degradation.parse_depths(["20", "8", "20"]) == [20, 8]


@pytest.mark.parametrize("config", [alexnet.get_config("sample"), resnet.get_config("18")])
def test_another_model_is_refused(config: Any) -> None:
    """Catches: six runs of a model with four stages, or without any."""
    with pytest.raises(InputError, match="does not have the networks of figure 6"):
        degradation.check_model(replace(base(), config=config))
    degradation.check_model(base())


def test_two_networks_from_end_to_end(tmp_path: Path) -> None:
    """Catches: a field that the training command refuses, a second start that repeats what is
    done, a report without its figure."""
    write_idx_set(tmp_path / "data", train=60, test=10)
    arguments = [
        *("--config=configs/resnet.py:sample", f"--output={tmp_path / 'out'}", "--jobs=2"),
        *("--config.data.name=idx", f"--config.data.dir={tmp_path / 'data'}"),
        *("--config.batch_size=8", "--config.max_steps=8", "--config.log_every=2"),
        *("--config.model.width=1", "--depths=8", "--config.data.crop=16"),
    ]
    first = processes.run("degradation", *arguments, package="experiments")
    assert first.returncode == 0, first.stderr
    rows = read_rows(tmp_path / "out" / "degradation.csv", Result)
    assert {(row.name, row.status) for row in rows} == {
        ("plain-8-0", "done"),
        ("residual-8-0", "done"),
    }
    assert "| 8 | 1 |" in first.stdout
    assert (tmp_path / "out" / "degradation.png").stat().st_size > 1000
    logs = {*(tmp_path / "out" / "logs").iterdir()}
    again = processes.run("degradation", *arguments, package="experiments")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert {*(tmp_path / "out" / "logs").iterdir()} == logs
