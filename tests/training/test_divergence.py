"""Divergence whose numbers stay finite, and metrics that are not finite."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from absl import flags
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here

from alexnet_jax import cache, command, diagnostics, evaluate, fields, sharding
from alexnet_jax.config import Config
from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.metrics import Metrics
from alexnet_jax.records import read_records


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The config of a tiny model on a few images of noise."""
    write_idx_set(tmp_path / "data", train=40, test=10)
    return command.load_config(str(processes.write_config(tmp_path, tmp_path / "data")))


def changed(config: Config, **values: Any) -> Config:
    """Return the config with fields changed."""
    return fields.replace(config, dict(values))


@pytest.mark.parametrize(
    ("loss", "classes", "expected"),
    [
        (1e29, 1000, True),
        (math.inf, 10, True),
        (math.nan, 10, True),
        (7e6, 1000, True),
        (5e6, 1000, False),
        (1e5, 10, False),
        (0.0, 1, False),
    ],
)
def test_an_absurd_loss_is_a_divergence(loss: float, classes: int, expected: bool) -> None:
    """Catches: a run with a loss of 1e29, or NaN, taken for a success; a bad start, from which
    runs recover, taken for a divergence; a limit of 0 for a single class."""
    assert diagnostics.has_diverged(loss, classes) == expected


def test_a_finite_divergence_ends_the_run(config: Config, tmp_path: Path) -> None:
    """Catches: only NaN and infinity recognized; a loss that is looked at after it is saved; a
    record of it that is missing."""
    with pytest.raises(
        DivergedError, match=r"the loss is \d\.\d+e\+\d+ at step 2, .* nothing is s"
    ):
        train_here(changed(config, learning_rate=1e3, max_steps=2), tmp_path / "run")
    (record,) = read_records(tmp_path / "run")
    assert record["step"] == 2
    assert record["loss"] > 1e6


def test_a_lower_rate_needs_another_workdir(config: Config, tmp_path: Path) -> None:
    """Catches: advice that the same workdir refuses."""
    wild = changed(config, learning_rate=1e3, max_steps=2)
    with pytest.raises(DivergedError, match=r"Lower --config\.learning_rate, in another --workdir"):
        train_here(wild, tmp_path / "run")
    with pytest.raises(InputError, match=r"learning_rate was .* Give another --workdir"):
        train_here(changed(wild, learning_rate=1e-3), tmp_path / "run")


def test_a_poor_end_is_a_warning(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a model far worse than guessing called finished without a word; a short run with a
    large first loss called a divergence; the warning for every run."""
    for name, rate, expected in (("sound", 0.01, False), ("wild", 30.0, True)):
        run = changed(config, max_steps=2, learning_rate=rate)
        assert train_here(run, tmp_path / name) == 0
        assert ("far above ln(classes)" in capsys.readouterr().err) == expected


def test_a_validation_loss_that_is_not_finite_is_a_divergence(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: Infinity in metrics.jsonl, which is no JSON, and a run that goes on."""
    result = [Metrics(loss=math.inf, top1_error=1.0, top5_error=1.0, count=4)]
    monkeypatch.setattr("alexnet_jax.train.evaluate_batches", lambda *_: result)
    with pytest.raises(DivergedError, match="the validation loss is inf, not finite at step"):
        train_here(changed(config, max_steps=8), tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_an_evaluation_that_is_not_finite_is_an_error(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: NaN printed by --json or recorded in metrics.jsonl, which is no JSON."""
    run = tmp_path / "run"
    assert train_here(changed(config, max_steps=1), run) == 0
    results = [Metrics(loss=math.nan, top1_error=1.0, top5_error=1.0, count=10)]
    monkeypatch.setattr(evaluate, "evaluate_batches", lambda *_: results)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(DivergedError, match="run: the loss on test is nan, so the parameters"):
        evaluate.final_evaluation(run, sharding.make_data_mesh(1))
    assert (run / "metrics.jsonl").read_bytes() == before
    given = dict(workdir=[str(run)], split=None, views="center", scales=[], json=True)
    folder = dict(data_dir=None, class_names=None)
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given, **folder))
    monkeypatch.setattr(cache, "keep_compiled", lambda: None)
    with pytest.raises(DivergedError, match="run: the loss on test is nan, so the parameters"):
        evaluate.main([])
