"""Figure 1: when a curve comes to the threshold, which rate is the fastest, and the report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.relu_tanh_rows import RATES, base, grid, records, row

from experiments import relu_tanh_results
from experiments.relu_tanh_plot import Curve, Kind, plot_curves
from experiments.relu_tanh_results import Result
from experiments.sweeps.training_error import compute_training_error, find_crossing


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


def test_the_fastest_rate() -> None:
    """Catches the slowest rate, one that never came to the threshold, and a choice by the seeds
    that only the chosen rate is run with."""
    results = [*grid(), row("relu", 0.05, 9.0, seed=1), row("tanh", 0.05, 1.0, seed=1)]
    assert relu_tanh_results.fastest_rate(results, "relu") == 0.05
    assert relu_tanh_results.fastest_rate(results, "tanh") == 0.01
    assert relu_tanh_results.fastest_rate([row("relu", 0.01, None)], "relu") is None


def test_a_best_rate_at_the_edge_is_reported() -> None:
    """Catches a best rate with nothing tried beyond it, and a warning where there was: a rate
    that diverged was tried, one that failed was not."""
    assert relu_tanh_results.warn_if_at_edge(grid(), "relu") == ""
    warning = relu_tanh_results.warn_if_at_edge(grid(), "tanh")
    assert warning.endswith("0.01, is the lowest tried: add lower ones")
    failed = [replace(r, status="failed, see x") if r.rate == 0.2 else r for r in grid()]
    assert "the highest" in relu_tanh_results.warn_if_at_edge(failed, "relu")


def test_a_lower_threshold_continues_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches runs that stopped at a higher threshold taken for slow ones."""
    found = records([0.3, 0.3, 0.05], every=1.0)
    monkeypatch.setattr(relu_tanh_results, "read_records", lambda _: found)
    rows = [row("relu", 0.01, 1.5), row("relu", 0.2, None, status="diverged, see x")]
    assert relu_tanh_results.measure_again(base(), 0.05, rows) == [replace(rows[1], threshold=0.05)]
    assert [r.epochs for r in relu_tanh_results.measure_again(base(), 0.3, rows)] == [1.0, None]


def test_rows_of_removed_runs(tmp_path: Path) -> None:
    """Catches finished runs whose folder was removed that are then called not reached, with their
    epochs lost; ones that are kept for a threshold for which they were not measured, or dropped
    if they diverged; and a figure of no points."""
    settings = replace(base(), output=tmp_path)
    done = row("relu", 0.01, 1.5)
    diverged = row("relu", 0.2, None, status="diverged, see x")
    assert relu_tanh_results.measure_again(settings, 0.1, [done, diverged]) == [done, diverged]
    for threshold in (0.05, 0.3):
        kept = [replace(diverged, threshold=threshold)]
        assert relu_tanh_results.measure_again(settings, threshold, [done, diverged]) == kept
    text, figure = relu_tanh_results.make_report(settings, 0.1, dict(relu=[0.01], tanh=[]), [done])
    assert "| 0.01 | **1.5** | not run |" in text
    assert figure is None


def test_the_table_and_what_it_says() -> None:
    """Catches a ratio upside down or of first seeds only, a diverged rate left out, and a mean of
    some seeds that is given as that of all."""
    results = [*grid(), row("relu", 0.05, 3.0, seed=1), row("relu", 0.05, None, seed=2)]
    _, _, *lines = relu_tanh_results.format_results(results, 0.1).splitlines()
    assert lines == [
        "| 0.01 | 6.0 | **4.0** |",
        "| 0.05 | **2.5** (2 of 3 seeds, 2.0 to 3.0) | 5.0 |",
        "| 0.2 | diverged | not reached |",
    ]
    findings = relu_tanh_results.summarize_results(
        results, 0.1, dict.fromkeys(relu_tanh_results.UNITS, RATES)
    )
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
        return relu_tanh_results.summarize_results([*results], 0.1, rates)

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
