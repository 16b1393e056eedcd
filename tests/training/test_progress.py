"""The progress of one run, and of several that are trained together."""

from typing import Any, cast

import pytest

from alexnet_jax.progress import TrainingBar, format_latest
from alexnet_jax.records import Record


def record(loss: float, error: float, split: str = "train") -> Record:
    values: dict[str, Any] = dict(
        step=10, epoch=0.5, split=split, loss=loss, top1_error=error, top5_error=0.0, count=8
    )
    return cast(Record, values | {"learning_rate": 0.01, "images_per_second": 100.0})


def test_the_range_of_several_runs() -> None:
    """Catches: the metrics of the last run for all; a speed that is the mean of the runs."""
    assert format_latest([record(1.5, 0.25)]) == "loss 1.500, error 25.0%, 100 images/s"
    assert format_latest([record(1.5, 0.25), record(1.25, 0.5)]) == (
        "loss 1.250 to 1.500, error 25.0% to 50.0%, 200 images/s"
    )


def test_a_run_that_has_ended_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: the last metrics of a run that has ended, for as long as the others are trained."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = TrainingBar(0, 40)
    for run, loss in (("seed-3", 1.5), ("seed-5", 1.25)):
        bar.show(record(loss, 0.25), run)
    assert "loss 1.250 to 1.500, error 25.0% to 25.0%, 200 images/s" in bar._bar.postfix
    bar.forget("seed-5")
    assert bar._bar.postfix == "loss 1.500, error 25.0%, 100 images/s"
    bar.close()


def test_lines_name_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: lines of which nobody knows the run; lines of every process."""
    for hidden in (False, True):
        bar = TrainingBar(0, 40, hidden=hidden)
        bar.show(record(1.5, 0.25, "validation"), "seed-3")
        bar.write_line("Stopped.")
        bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "seed-3: step 10/40, epoch 0.5: validation loss 1.5000, top-1 error 25.00%, top-5 0.00% "
        "of 8 images",
        "Stopped.",
    ]
