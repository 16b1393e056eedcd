"""Figure 1: when a curve comes to the threshold, which rate is taken, and what is run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import processes
from helpers.image_sets import write_idx_set

from alexnet_jax import command
from alexnet_jax.config import sequential_model, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Dropout, Tanh, WithinChannelLRN
from alexnet_jax.records import Record
from alexnet_jax.workdir import write_config
from configs.alexnet import get_config
from experiments import relu_tanh
from experiments.relu_tanh import Result
from experiments.relu_tanh_plot import Curve, Kind, plot_curves
from experiments.sweeps.rows import read_rows
from experiments.sweeps.run import Base, Run
from experiments.sweeps.training_error import compute_training_error, find_crossing


def records(errors: list[float], every: float = 0.25) -> list[Record]:
    """Return training records `every` epochs apart, with one of validation to be ignored."""
    found = [
        Record(split="train", epoch=every * n, top1_error=error)
        for n, error in enumerate(errors, start=1)
    ]
    found.insert(2, Record(split="validation", epoch=0.5, top1_error=0.0))
    return found


def crossing(errors: list[float], threshold: float) -> float | None:
    return find_crossing(threshold, *compute_training_error(records(errors)))


def test_the_training_error_is_that_of_an_epoch() -> None:
    """Catches a window that lags behind, one that is not an epoch wide, and records that are
    averaged whatever they cover."""
    epochs, errors = compute_training_error(records(4 * [0.8] + 4 * [0.4]))
    assert epochs.tolist() == [0.5, 0.75, 1.0, 1.25, 1.5]
    np.testing.assert_allclose(errors, [0.8, 0.7, 0.6, 0.5, 0.4])
    uneven = records([0.8, 0.8, 0.2, 0.2])
    for record, epoch in zip([r for r in uneven if r["split"] == "train"], (0.4, 0.5, 0.6, 1.1),
                             strict=True):  # fmt: skip
        record["epoch"] = epoch
    epochs, errors = compute_training_error(uneven)
    np.testing.assert_allclose(epochs, [0.5, 0.6])
    np.testing.assert_allclose(errors, [0.5, 0.44])  # (0.5 · 0.8 + 0.5 · 0.2), (0.4 · 0.8 + …)


def test_the_last_epoch_counts_without_a_record_at_its_middle() -> None:
    """Catches: a run that stops at the threshold, whose last point is above it or missing."""
    found = records([0.8, 0.8, 0.2], every=0.4)
    epochs, errors = compute_training_error(found)
    np.testing.assert_allclose(epochs, [0.7])
    np.testing.assert_allclose(errors, [0.2 * 0.8 + 0.4 * 0.8 + 0.4 * 0.2])


def test_epochs_to_a_threshold() -> None:
    """Catches the point after the crossing for the crossing, the last one for the first, and a
    number for a curve that is never there."""
    falling = 4 * [0.8] + 4 * [0.4]
    assert crossing(falling, 0.55) == pytest.approx(1.125)
    assert crossing(falling, 0.5) == pytest.approx(1.25)
    assert crossing([*falling, *4 * [0.8]], 0.55) == pytest.approx(1.125)  # and up again
    assert crossing(falling, 0.3) is None
    assert crossing(falling, 0.9) == 0.5
    assert crossing([0.5, 0.5], 0.9) is None  # half an epoch has no such error


def test_a_lucky_batch_is_no_crossing() -> None:
    """Catches the error of a few steps taken for that of the training images."""
    noisy = [0.3, 0.1, 0.3, 0.1] * 3  # 0.2 over every epoch
    assert crossing(noisy, 0.15) is None
    assert crossing(noisy, 0.21) == 0.5


def row(units: str, rate: float, epochs: float | None, seed: int = 0, **more: Any) -> Result:
    return Result(units, rate, seed, **{"status": "done", "threshold": 0.1, "epochs": epochs,
                                        "last_error": 0.05, "seconds": 9.0, **more})  # fmt: skip


def grid() -> list[Result]:
    """ReLU is fastest in the midst of the rates; tanh at the lowest."""
    return [
        *(row("relu", 0.01, 6.0), row("relu", 0.05, 2.0)),
        row("relu", 0.2, None, status="diverged, see x"),
        *(row("tanh", 0.01, 4.0), row("tanh", 0.05, 5.0), row("tanh", 0.2, None, last_error=0.5)),
    ]


RATES = (0.01, 0.05, 0.2)


def test_the_fastest_rate() -> None:
    """Catches the slowest rate, one that never came to the threshold, and a choice by the seeds
    that only the chosen rate is run with."""
    results = [*grid(), row("relu", 0.05, 9.0, seed=1), row("tanh", 0.05, 1.0, seed=1)]
    assert relu_tanh.fastest_rate(results, "relu") == 0.05
    assert relu_tanh.fastest_rate(results, "tanh") == 0.01
    assert relu_tanh.fastest_rate([row("relu", 0.01, None)], "relu") is None


def test_a_best_rate_at_the_edge_is_reported() -> None:
    """Catches a best rate with nothing tried beyond it, and a warning where there was: a rate
    that diverged was tried, one that failed was not."""
    assert relu_tanh.warn_if_at_edge(grid(), "relu") == ""
    warning = relu_tanh.warn_if_at_edge(grid(), "tanh")
    assert warning.endswith("0.01, is the lowest tried: add lower ones")
    failed = [replace(r, status="failed, see x") if r.rate == 0.2 else r for r in grid()]
    assert "the highest" in relu_tanh.warn_if_at_edge(failed, "relu")


def base(**overrides: Any) -> Base:
    config = validated(get_config("sample"))
    return Base("configs/alexnet.py:sample", overrides, config, Path("out"))


def plan(
    rates: Sequence[float] | Mapping[str, Sequence[float]],
    seeds: int,
    results: list[Result],
    settings: Base | None = None,
) -> list[Run]:
    settings = settings or base()
    words = relu_tanh.choose_words(settings, own_model=False)
    by_units = rates if isinstance(rates, Mapping) else dict.fromkeys(relu_tanh.UNITS, rates)
    return relu_tanh.plan_runs(settings, words, by_units, seeds, results)


def test_the_grid_is_run_with_one_seed() -> None:
    """Catches units, a rate or a means against overfitting that does not reach its run."""
    plain = relu_tanh.without_regularization(base(epochs=7, log_every=5), 0.2)
    relu, tanh, *_ = runs = plan([0.01, 0.2], 3, [], plain)
    assert [run.name for run in runs] == ["relu-0.01-0", "tanh-0.01-0", "relu-0.2-0", "tanh-0.2-0"]
    assert relu.arguments[:2] == (
        "--config=configs/alexnet.py:sample,four_layers,no_lrn",
        "--workdir=out/runs/relu-0.01-0",
    )
    assert tanh.arguments[0].endswith(",four_layers,no_lrn,tanh")
    for run in runs:
        assert {
            *(
                "--config.optimizer.weight_decay=0.0",
                "--config.data.lighting=none",
                "--config.data.crop=28",
                "--config.data.crop_positions=center",
                "--config.data.flip=False",
                "--config.stop_error=0.198",
            ),
            *("--config.schedule.drop_epochs=()", "--config.epochs=7", "--config.log_every=5"),
            *("--config.seed=0", f"--config.learning_rate={run.name.split('-')[1]}"),
        } <= {*run.arguments}


CHANGING = ("schedule.warmup_steps", "schedule.multipliers", "data.stages")


@pytest.mark.parametrize(
    ("file", "overrides", "expected"),
    [
        ("configs/cifar.py:13pct", {}, (0, ((".*/bias", 1.0, 2.0),), ())),
        ("configs/cifar.py:18pct", {"schedule.warmup_steps": 7}, (7, ((".*/bias", 1.0, 2.0),), ())),
        (
            "configs/cifar.py:13pct",
            {"schedule.multipliers": ((".*", 3, 2.0),), "data.stages": ((1, 10), (3, 50))},
            (0, ((".*", 3, 2.0),), ((1, 10), (3, 50))),
        ),
    ],
)
def test_rates_and_images_do_not_change_while_training(
    file: str, overrides: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Catches the biases' rate that rises as that of the weights is to fall, and images that come
    later; the multipliers of the whole training dropped, too; fields of the command line that are
    not kept."""
    given = with_changes(command.load_config(file), {"schedule.warmup_steps": 5, **overrides})
    settings = replace(base(), file=file, config=given, overrides=overrides)
    constant = relu_tanh.without_regularization(settings, 0.25).overrides
    assert tuple(constant[name] for name in CHANGING) == expected
    assert with_changes(given, constant).schedule.drop_epochs == ()


def test_finished_runs_of_18pct_keep_their_config() -> None:
    """Catches a config of figure 1's runs in which a field has changed since, so that they could
    not be continued."""
    config = validated(command.load_config("configs/cifar.py:18pct"))
    settings = replace(base(), file="configs/cifar.py:18pct", config=config)
    constant = relu_tanh.without_regularization(settings, 0.25).overrides
    before = {name: value for name, value in constant.items() if name not in CHANGING}
    assert {*CHANGING} <= {*constant}
    assert with_changes(config, constant) == with_changes(config, before)


def test_the_other_seeds_are_for_the_fastest_rate() -> None:
    """Catches seeds run before the choice is made, the first seed run twice, and one rate taken
    for both units."""

    def others(results: list[Result], rates: tuple[float, ...], seeds: int) -> list[str]:
        names = [run.name for run in plan(rates, seeds, results)]
        return names[len(rates) * 2 :]

    assert others(grid(), RATES, 3) == [
        *("relu-0.05-1", "relu-0.05-2"),
        *("tanh-0.01-1", "tanh-0.01-2"),
    ]
    failed = [replace(r, status="failed, see x") if r.name == "relu-0.01-0" else r for r in grid()]
    assert others(failed, RATES, 2) == ["tanh-0.01-1"]
    assert others(grid(), (*RATES, 0.5), 2) == []


def test_rates_of_their_own_in_their_order() -> None:
    """Catches rates of the other units, rates sorted, and those of one kind before all others."""
    runs = plan(dict(relu=[0.2, 0.1], tanh=[0.5, 0.05, 0.1]), 1, [])
    assert [run.name for run in runs] == [
        *("relu-0.2-0", "tanh-0.5-0", "relu-0.1-0", "tanh-0.05-0", "tanh-0.1-0")
    ]


def test_slower_rates_end_early() -> None:
    """Catches a limit from the other units, or below the epochs of the fastest rate and half of
    the window that averages; one beyond the config's epochs; seeds that are limited, too."""
    runs = {run.name: run.arguments for run in plan((*RATES, 0.5), 1, grid())}
    assert "--config.epochs=3" in runs["relu-0.5-0"]  # 2.0 epochs
    assert "--config.epochs=5" in runs["tanh-0.5-0"]
    slow = [row(units, 0.01, 1e6) for units in relu_tanh.UNITS]
    runs = {run.name: run.arguments for run in plan([0.01, 0.5], 2, slow)}
    assert f"--config.epochs={base().config.epochs}" in runs["relu-0.5-0"]
    for arguments in [run.arguments for run in plan(RATES, 2, grid()) if run.name.endswith("-1")]:
        assert not any(argument.startswith("--config.epochs=") for argument in arguments)


def test_a_lower_threshold_continues_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches runs that stopped at a higher threshold taken for slow ones."""
    found = records([0.3, 0.3, 0.05], every=1.0)
    monkeypatch.setattr(relu_tanh, "read_records", lambda _: found)
    rows = [row("relu", 0.01, 1.5), row("relu", 0.2, None, status="diverged, see x")]
    assert relu_tanh.measure_again(base(), 0.05, rows) == [replace(rows[1], threshold=0.05)]
    assert [r.epochs for r in relu_tanh.measure_again(base(), 0.3, rows)] == [1.0, None]


def test_rows_of_removed_runs(tmp_path: Path) -> None:
    """Catches finished runs whose folder was removed that are then called not reached, with their
    epochs lost; ones that are kept for a threshold for which they were not measured, or dropped
    if they diverged; and a figure of no points."""
    settings = replace(base(), output=tmp_path)
    done = row("relu", 0.01, 1.5)
    diverged = row("relu", 0.2, None, status="diverged, see x")
    assert relu_tanh.measure_again(settings, 0.1, [done, diverged]) == [done, diverged]
    for threshold in (0.05, 0.3):
        kept = [replace(diverged, threshold=threshold)]
        assert relu_tanh.measure_again(settings, threshold, [done, diverged]) == kept
    text, figure = relu_tanh.make_report(settings, 0.1, dict(relu=[0.01], tanh=[]), [done])
    assert "| 0.01 | **1.5** | not run |" in text
    assert figure is None


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("configs/cifar.py:18pct", ("no_lrn",)),
        ("configs/cifar.py:80sec", ()),
        ("configs/alexnet.py:sample", ("no_lrn", "no_dropout")),
    ],
)
def test_the_config_s_own_model(file: str, words: tuple[str, ...]) -> None:
    """Catches a word for what the model does not have, and normalization or dropout kept."""
    settings = replace(base(), file=file, config=validated(command.load_config(file)))
    chosen = relu_tanh.choose_words(settings, own_model=True)
    assert chosen == {"relu": words, "tanh": (*words, "tanh")}
    for units in relu_tanh.UNITS:
        ops = sequential_model(command.load_config(settings.variant(*chosen[units]))).ops.values()
        assert not any(isinstance(op, LRN | WithinChannelLRN | Dropout) for op in ops)
        assert any(isinstance(op, Tanh) for op in ops) == (units == "tanh")


def test_the_table_and_what_it_says() -> None:
    """Catches a ratio upside down or of first seeds only, a diverged rate left out, and a mean of
    some seeds that is given as that of all."""
    results = [*grid(), row("relu", 0.05, 3.0, seed=1), row("relu", 0.05, None, seed=2)]
    _, _, *lines = relu_tanh.format_results(results, 0.1).splitlines()
    assert lines == [
        "| 0.01 | 6.0 | **4.0** |",
        "| 0.05 | **2.5** (2 of 3 seeds, 2.0 to 3.0) | 5.0 |",
        "| 0.2 | diverged | not reached |",
    ]
    findings = relu_tanh.summarize_results(results, 0.1, dict.fromkeys(relu_tanh.UNITS, RATES))
    assert findings[:2] == [
        "ReLU reaches 10 % training error after 2.5 epochs, at learning rate 0.05 "
        "(2 of 3 seeds, 2.0 to 3.0).",
        "tanh reaches 10 % training error after 4.0 epochs, at learning rate 0.01.",
    ]
    assert findings[2].startswith("tanh needs 1.6 times the epochs of ReLU")
    assert len(findings) == 4  # tanh's edge


def test_rates_that_have_not_ended_are_not_called_slow() -> None:
    """Catches: "does not reach" of a rate that was not run or has failed, as after the first run;
    that sentence missing once all rates have ended; rates of the other units that are counted."""
    rates = dict(relu=(0.01,), tanh=RATES)

    def findings(*results: Result) -> list[str]:
        return relu_tanh.summarize_results([*results], 0.1, rates)

    ended = [row("tanh", rate, None) for rate in RATES]
    missing = "1 of ReLU's 1 rates has not been run to an end."
    failed = row("relu", 0.01, None, status="failed, see x")
    assert findings(failed) == [missing, "3 of tanh's 3 rates have not been run to an end."]
    assert findings(*ended[:1], row("tanh", 0.05, 2.0)) == [
        missing,
        "tanh reaches 10 % training error after 2.0 epochs, at learning rate 0.05.",
        "1 of tanh's 3 rates has not been run to an end.",
        "tanh's fastest rate, 0.05, is the highest tried: add higher ones.",
    ]
    assert findings(*ended) == [missing, "tanh does not reach 10 % training error at any rate."]


@pytest.mark.parametrize("has_slower", [False, True])
def test_the_legend_names_what_is_drawn(has_slower: bool) -> None:
    """Catches an entry for slower rates where there are none, or none where there are."""
    points = np.array([0.5, 1.5]), np.array([0.4, 0.2])
    curves = [Curve(*points, is_fastest) for is_fastest in (True, not has_slower)]
    figure = plot_curves([Kind("-", "C0", curves, "ReLU", crossing=1.0)], 0.25)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == (["ReLU", "other rates"] if has_slower else ["ReLU"])


@pytest.mark.parametrize("given", [[], ["0.1", "fast"], ["0"], ["-1"], ["nan"], ["inf"]])
def test_wrong_rates(given: list[str]) -> None:
    """Catches a rate that only its run would refuse."""
    with pytest.raises(InputError, match=r"--tanh_rates=.*; expected numbers above 0"):
        relu_tanh.parse_rates("tanh_rates", given)
    assert relu_tanh.parse_rates("rates", ["0.1", "0.02", "0.10"]) == [0.1, 0.02]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("configs/alexnet.py:sample,tanh", "names the model four_layers after tanh"),
        ("configs/bvlc_alexnet.py", "unknown variant"),
    ],
)
def test_a_config_without_the_model(file: str, message: str) -> None:
    """Catches ten runs that are started in order to fail."""
    with pytest.raises(InputError, match=f"--config={file} does not make the model.*{message}"):
        relu_tanh.choose_words(replace(base(), file=file), own_model=False)


@pytest.mark.parametrize("units", ["relu", "tanh"])
@pytest.mark.parametrize("own_model", [False, True])
def test_two_models_are_not_mixed(tmp_path: Path, own_model: bool, units: str) -> None:
    """Catches --own_model left out, or given, when a folder's runs are continued, and one table of
    two models; runs that are refused for their rate, their number of classes, a changed op of
    the command line, or want of a config."""
    settings = replace(base(**{"model.ops.conv1.features": 8}), output=tmp_path)
    words = relu_tanh.choose_words(settings, own_model=own_model)
    config = command.load_config(settings.variant(*words[units]))
    made = with_changes(config, {**settings.overrides, "learning_rate": 0.5, "epochs": 3})
    made = with_changes(made, {"model.num_classes": 10})
    for rate in (0.1, 0.5):
        (tmp_path / "runs" / f"{units}-{rate}-0").mkdir(parents=True)
    write_config(tmp_path / "runs" / f"{units}-0.5-0", made, 0)
    relu_tanh.check_model(settings, words, own_model=own_model)
    other = relu_tanh.choose_words(settings, own_model=not own_model)
    given = "without" if own_model else "with"
    message = (
        f"{units}-0.5-0 was made with another model; given is .* {given} --own_model; expected"
    )
    with pytest.raises(InputError, match=message):
        relu_tanh.check_model(settings, other, own_model=not own_model)
    (tmp_path / "runs" / f"{units}-0.5-0" / "config.json").write_text("{}")
    relu_tanh.check_model(settings, other, own_model=not own_model)


def test_two_rates_from_end_to_end(tmp_path: Path) -> None:
    """Catches a divergence that is not told from a failure, and a second start that repeats what
    is done. A rate that no float32 holds diverges at once."""
    write_idx_set(tmp_path / "data", train=60, test=10)
    arguments = [
        *("--config=configs/alexnet.py:sample", f"--output={tmp_path / 'out'}", "--jobs=2"),
        *("--config.data.name=idx", f"--config.data.dir={tmp_path / 'data'}"),
        *("--config.batch_size=8", "--config.max_steps=20", "--config.log_every=2"),
        *("--rates=0.01,1e39", "--threshold=1", "--seeds=1"),
    ]
    first = processes.run("relu_tanh", *arguments, package="experiments")
    rows = read_rows(tmp_path / "out" / "relu_tanh.csv", Result)
    logs = {*(tmp_path / "out" / "logs").iterdir()}
    again = processes.run("relu_tanh", *arguments, package="experiments")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert {row.name: row.status.split(",")[0] for row in rows} == {
        "relu-0.01-0": "done",
        "tanh-0.01-0": "done",
        "relu-1e+39-0": "diverged",
        "tanh-1e+39-0": "diverged",
    }
    assert all(row.epochs == pytest.approx(0.5, abs=0.3) for row in rows if row.status == "done")
    assert "| 1e+39 | diverged | diverged |" in first.stdout
    assert "ReLU's fastest rate, 0.01, is the lowest tried" in first.stdout
    assert again.stdout == first.stdout
    assert "-0.01-0" not in again.stderr
    assert "tanh-1e+39-0: diverged, see " in again.stderr
    assert {*(tmp_path / "out" / "logs").iterdir()} == logs
    assert (tmp_path / "out" / "relu_tanh.png").stat().st_size > 1000
