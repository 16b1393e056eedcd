"""A run with `stop_error` ends after the first epoch whose training error is low enough."""

import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from helpers.in_process import train_here
from helpers.runs import assert_same_bits, newest_state
from helpers.tiny_model import tiny_config

from alexnet_jax import fields, training_input
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, validated
from alexnet_jax.models.ops import Dense
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.train_step import TrainState
from alexnet_jax.training_run import TrainingRun

ENDS = (14, 27, 41, 54)  # of epochs of 108 images, eight in a step; whole steps belong to an epoch


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, int, Any]:
    """Train until an epoch is better than those before it, the second at the earliest.

    Returns:
        The config whose `stop_error` is the error of that epoch, by every step's record in a run
        without it; the epoch's last step; and the state after that step in a run that ends there.
    """
    folder = tmp_path_factory.mktemp("whole")
    changes = {"log_every": 1, "evaluate_every": 50, "checkpoint_every": 50}
    config = tiny_config(images, max_steps=ENDS[-1], **changes)
    config.schedule.rule = "epochs"
    config.data.crop, config.data.flip = 28, False  # a linear model learns such noise by heart
    config.model = SequentialConfig(channels=1, init="scaled", ops={"fc8": Dense(0)})
    assert train_here(config, folder / "run") == 0
    records = [r for r in processes.records(folder / "run") if r["split"] == "train"]
    errors = [r["top1_error"] for r in records]
    starts = (0, *ENDS)
    means = [sum(errors[a:b]) / (b - a) for a, b in zip(starts, ENDS, strict=False)]
    number = next(n for n in range(1, len(ENDS)) if means[n] < min(means[:n]))
    stopped = fields.replace(config, {"stop_error": means[number] + 1e-9, "log_every": 10})
    assert train_here(fields.replace(config, {"max_steps": ENDS[number]}), folder / "short") == 0
    return stopped, ENDS[number], newest_state(folder / "short")


def assert_stopped(workdir: Path, whole: tuple[Config, int, Any]) -> None:
    """Assert that a run ended at the epoch, saved and validated, with the same state to the bit."""
    _, last, (_, expected) = whole
    step, state = newest_state(workdir)
    assert step == last
    assert_same_bits(state, expected)
    records = processes.records(workdir)
    assert [r["step"] for r in records if r["split"] == "validation"] == [last]
    trained = [r["step"] for r in records if r["split"] == "train"]
    assert trained == sorted({*range(10, last + 1, 10), *(end for end in ENDS if end <= last)})


def epoch_sums(workdir: Path) -> Any:
    """Return the sums of the epoch in the newest checkpoint."""
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.metadata(checkpoints.steps()[-1])["epoch_sums"]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_stops_after_the_epoch(
    whole: tuple[Config, int, Any],
    tmp_path: Path,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With one step in a dispatch, and with up to three.

    Catches: an error since the last record, or since the start, for that of the epoch; a dispatch
    over the end of an epoch; an end without a checkpoint or a validation; more steps when the same
    command is given again.
    """
    config, last, _ = whole
    if steps > 1:
        monkeypatch.setattr(training_input, "largest_dispatch", lambda _: steps)
        monkeypatch.setattr(training_input, "MAX_SECONDS", 1e9)
        config = fields.replace(config, {"data.resident": "on"})
    assert train_here(config, tmp_path) == 0
    assert_stopped(tmp_path, whole)
    if steps == 1:
        before = (tmp_path / "metrics.jsonl").read_bytes()
        assert train_here(config, tmp_path) == 0
        assert f"already has {last} steps" in capfd.readouterr().err
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_continued_run_stops_at_the_same_step(
    whole: tuple[Config, int, Any], tmp_path: Path
) -> None:
    """Catches: the sums of the epoch not saved, or those of another epoch."""
    config, last, _ = whole
    for end in (last - 20, last - 4, 0):
        assert train_here(fields.replace(config, {"max_steps": end}), tmp_path / "broken") == 0
        if end:
            assert newest_state(tmp_path / "broken")[0] == end
    assert newest_state(tmp_path / "broken")[0] == last
    assert train_here(config, tmp_path / "one_go") == 0
    assert epoch_sums(tmp_path / "broken") == epoch_sums(tmp_path / "one_go")
    assert epoch_sums(tmp_path / "one_go")["count"] == 8 * (last - ENDS[ENDS.index(last) - 1])


def test_a_signal_while_the_last_checkpoint_is_saved(
    whole: tuple[Config, int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a signal that is acknowledged and then forgotten, since the run has ended anyhow."""
    save = TrainingRun.save

    def save_and_signal(self: TrainingRun, state: TrainState) -> None:
        save(self, state)
        if self.has_reached_error():
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "save", save_and_signal)
    config, _, _ = whole
    assert train_here(config, tmp_path) == 128 + signal.SIGTERM
    assert_stopped(tmp_path, whole)


def test_records_that_were_never_due_are_not_missed(images: Path) -> None:
    """A run without `stop_error` goes on with it, after the end of an epoch.

    Catches: a warning of lost records, of an epoch's end at which the run made none.
    """
    changes = {"log_every": 10, "evaluate_every": 50, "stop_error": 0.5}
    schedule = StepSchedule(validated(tiny_config(images, max_steps=40, **changes)), 108)
    assert [schedule.last_log_step(step) for step in (9, 10, ENDS[0] + 1)] == [0, 10, 10]
    assert schedule.is_log_step(ENDS[0])
