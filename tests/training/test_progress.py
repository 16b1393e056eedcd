"""The progress of one run, and of several that are trained together."""

from typing import Any, cast

import pytest

from alexnet_jax.progress import TrainingBar, summarize
from alexnet_jax.writers import Record


def record(loss: float, error: float, split: str = "train") -> Record:
    values: dict[str, Any] = dict(
        step=10, epoch=0.5, split=split, loss=loss, top1_error=error, top5_error=0.0, count=8
    )
    return cast(Record, values | {"learning_rate": 0.01, "images_per_second": 100.0})


def test_the_range_of_several_runs() -> None:
    """Catches: the metrics of the last run for all; a speed that is the mean of the runs."""
    assert summarize([record(1.5, 0.25)]) == "loss 1.500, error 25.0%, 100 images/s"
    assert summarize([record(1.5, 0.25), record(1.25, 0.5)]) == (
        "loss 1.250 to 1.500, error 25.0% to 50.0%, 200 images/s"
    )


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
