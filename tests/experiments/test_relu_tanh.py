"""Figure 1: the models, the fields and the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.relu_tanh_rows import RATES, base, grid, row

from alexnet_jax import command
from alexnet_jax.config import sequential_model, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Dropout, Tanh, WithinChannelLRN
from alexnet_jax.workdir import write_config
from experiments import relu_tanh
from experiments.relu_tanh_results import Result
from experiments.sweeps.rows import read_rows
from experiments.sweeps.run import Base, Run


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
