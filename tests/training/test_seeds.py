"""Several seeds trained together: each run ends as if it had been trained alone."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import processes
from helpers.in_process import run_here, train_here
from helpers.runs import assert_same_bits, newest_state
from helpers.tiny_model import tiny_config

from alexnet_jax import fields, run_config, seeds, train
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from alexnet_jax.status import read_status
from alexnet_jax.train_step import TrainState, stack_states
from alexnet_jax.training_input import TrainingInput
from alexnet_jax.workdir import read_config, saved_steps

pytestmark = pytest.mark.usefixtures("quick_to_compile")

STEPS = 16  # of eight images, of which an epoch has 108: the 14th step ends it


@pytest.fixture
def config(images: Path) -> Config:
    """The config of runs with records after steps 4, 8, …, and checkpoints after 5, 10, …"""
    changes = {"max_steps": STEPS, "checkpoint_every": 5, "data.resident": "on"}
    return tiny_config(images, **changes)


def train_together(config: Config, directory: Path, *numbers: int) -> int:
    """Train seeds together as alexnet_jax.main does, and return the exit status."""
    config = validated(with_changes(config, {}))
    pack = prepare(config.data, progress=False)
    configs = seeds.configs_of_seeds(config, directory, numbers)
    for workdir in configs:
        workdir.mkdir(parents=True, exist_ok=True)
    return train.train({w: run_config.complete_config(c, pack) for w, c in configs.items()}, pack)


def assert_close(found: Any, expected: Any, bound: float) -> None:
    """Assert that arrays agree within a bound, relative to the largest number of each."""
    for array, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=bound * np.abs(wanted).max())


def assert_close_records(found: list[Any], expected: list[Any]) -> None:
    """Assert that records are equal, except for the rounding of losses."""
    for one, other in zip(found, expected, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert {**one, "loss": 0} == {**other, "loss": 0}


def test_each_run_is_that_of_its_seed(config: Config, tmp_path: Path) -> None:
    """Catches: records, checkpoints or a config of another seed; the plateau rule's state of one
    for all; a learning rate that drops for all; validation with the parameters of another run."""
    assert train_together(config, tmp_path, 3, 5) == 0
    for seed in (3, 5):
        workdir, alone = tmp_path / f"seed-{seed}", tmp_path / f"alone-{seed}"
        assert train_here(fields.replace(config, {"seed": seed}), alone) == 0
        assert read_config(workdir) == read_config(alone)
        assert saved_steps(workdir) == saved_steps(alone) == [10, 15, 16]
        assert_close_records(processes.records(workdir), processes.records(alone))
        assert_close(newest_state(workdir), newest_state(alone), 1e-4)


def test_an_interrupted_training_goes_on(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM after the seventh step, and then the same again.

    Catches: a run that is not saved; sums of the records lost; draws or dropout that begin anew.
    """
    assert train_together(config, tmp_path / "whole", 3, 5) == 0
    begin_steps, count = TrainingInput.begin_steps, [0]

    def interrupted(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 7:
            signal.raise_signal(signal.SIGTERM)
        return begin_steps(*arguments)

    monkeypatch.setattr(TrainingInput, "begin_steps", interrupted)
    assert train_together(config, tmp_path / "broken", 3, 5) == 128 + signal.SIGTERM
    for name in ("seed-3", "seed-5"):
        assert saved_steps(tmp_path / "broken" / name) == [5, 7]
    assert train_together(config, tmp_path / "broken", 3, 5) == 0
    assert_same_runs(tmp_path / "broken", tmp_path / "whole")


def assert_same_runs(found: Path, expected: Path) -> None:
    """Assert that the runs of two seeds have the same records and states, to the last bit."""
    for name in ("seed-3", "seed-5"):
        assert processes.records(found / name) == processes.records(expected / name)
        assert_same_bits(newest_state(found / name), newest_state(expected / name))


def test_a_kill_between_two_saves(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run has its checkpoint of step 10, the other one was killed before.

    Catches: runs that go on from different steps; a run that is ahead refused; records of steps
    that are taken again twice; a checkpoint that is not saved again.
    """
    broken = tmp_path / "broken"
    assert train_together(config, tmp_path / "whole", 3, 5) == 0
    assert train_together(fields.replace(config, {"max_steps": 10}), broken, 3, 5) == 0
    shutil.rmtree(broken / "seed-5" / "checkpoints" / "step_10")
    capsys.readouterr()
    assert train_together(fields.replace(config, {"max_steps": 15}), broken, 3, 5) == 0
    assert "seed-3 goes back from step 10 to 5, where others are." in capsys.readouterr().err
    assert saved_steps(broken / "seed-3") == saved_steps(broken / "seed-5") == [5, 10, 15]
    # A run of 15 steps validates after its last one; a longer one does not.
    assert train_together(config, broken, 3, 5) == 0
    for name in ("seed-3", "seed-5"):
        assert_same_bits(newest_state(broken / name), newest_state(tmp_path / "whole" / name))


@pytest.mark.parametrize("steps", [5, 10])
def test_runs_at_different_steps(config: Config, tmp_path: Path, steps: int) -> None:
    """A new seed beside one with one or two checkpoints; then beside one that has its last step.

    Catches: steps thrown away, also those of the only checkpoint; a finished run that is trained
    again, or that stops the others; the draws of the finished run for the only one that is left.
    """
    assert train_together(fields.replace(config, {"max_steps": steps}), tmp_path, 3) == 0
    message = rf"seed-3 is at step {steps}, and .*seed-5 at step 0: .* first"
    with pytest.raises(InputError, match=message):
        train_together(config, tmp_path, 3, 5)
    assert saved_steps(tmp_path / "seed-3") == [*range(5, steps + 1, 5)]
    config = fields.replace(config, {"max_steps": steps})
    before = newest_state(tmp_path / "seed-3")
    assert train_together(config, tmp_path, 3, 5) == 0
    assert_same_bits(newest_state(tmp_path / "seed-3"), before)
    assert train_here(fields.replace(config, {"seed": 5}), tmp_path / "alone") == 0
    assert_same_bits(newest_state(tmp_path / "seed-5"), newest_state(tmp_path / "alone"))


def test_one_seed_reaches_the_training_error(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first epoch, 14 steps, the error of seed 5 is 83.9 %, and that of seed 3 is 87.5 %.

    Catches: the end of all with the first; a run that ends without a checkpoint or a validation, or
    that is trained further.
    """
    config = fields.replace(config, {"stop_error": 0.86, "evaluate_every": 2})
    assert train_together(config, tmp_path, 3, 5) == 0
    assert saved_steps(tmp_path / "seed-3") == [10, 15, 16]
    assert saved_steps(tmp_path / "seed-5") == [5, 10, 14]
    for name, last in (("seed-3", 16), ("seed-5", 14)):
        records = processes.records(tmp_path / name)
        assert max(record["step"] for record in records) == last
        assert [r["step"] for r in records if r["split"] == "validation"] == [last]
    capsys.readouterr()
    assert train_together(config, tmp_path, 3, 5) == 0
    assert "seed-5 already has 14 steps and the config sets stop_error=0.86" in (
        capsys.readouterr().err
    )


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with parameters of the second run that are not numbers."""

    def poison(*arguments: Any) -> TrainState:
        states = stack_states(*arguments)
        return states.replace(
            params=jax.tree.map(lambda array: array.at[1].set(np.nan), states.params)
        )

    monkeypatch.setattr(train, "stack_states", poison)


def arguments(config: Config, tmp_path: Path, numbers: str) -> list[str]:
    """Return the arguments of main for a config of this module."""
    file = processes.write_config(tmp_path, Path(config.data.dir))
    return [f"--config={file}", "--config.max_steps=6", "--config.data.resident=on",
            f"--workdir={tmp_path / 'runs'}", f"--seeds={numbers}"]  # fmt: skip


def test_one_seed_diverges(config: Config, tmp_path: Path, poisoned: None) -> None:
    """The others finish; the same command again leaves out the one that has diverged.

    Catches: others that stop or are called diverged; exit status 0, or a message that does not
    name the run; records or checkpoints after the divergence; a run that diverges every time.
    """
    given = arguments(config, tmp_path, "3,5")
    done = run_here("main", *given)
    assert done.returncode == 3, done.stderr
    assert "seed-5: the loss is nan, not finite at step 1," in done.stderr
    assert done.stderr.splitlines()[-1].endswith("diverged: seed-5; its status.json has the reason")
    statuses = [read_status(tmp_path / "runs" / name) for name in ("seed-3", "seed-5")]
    assert [found and found.status for found in statuses] == ["finished", "diverged"]
    assert processes.records(tmp_path / "runs" / "seed-5") == []
    assert saved_steps(tmp_path / "runs" / "seed-5") == []
    alone = fields.replace(config, {"seed": 3, "max_steps": 6})
    assert train_here(alone, tmp_path / "alone") == 0
    assert_close(newest_state(tmp_path / "runs" / "seed-3"), newest_state(tmp_path / "alone"), 1e-4)

    again = run_here("main", *given)
    assert again.returncode == 3, again.stderr
    assert "seed-5 has diverged before, and is left out." in again.stderr
    assert run_here("main", *arguments(config, tmp_path, "5")).returncode == 3


def test_all_seeds_diverge(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loss is not finite within four steps, and fetched while the next step runs.

    Catches: steps taken where no run is left; the divergence of the last one that is lost.
    """
    begin_steps, calls = TrainingInput.begin_steps, list[int]()

    def counted(*arguments: Any) -> Any:
        calls.append(len(calls) + 1)
        return begin_steps(*arguments)

    monkeypatch.setattr(TrainingInput, "begin_steps", counted)
    wild = fields.replace(config, {"learning_rate": 1e6})
    assert train_together(wild, tmp_path, 3, 5) == 0
    assert len(calls) <= 5
    for name in ("seed-3", "seed-5"):
        found = read_status(tmp_path / name)
        assert found is not None
        assert found.status == "diverged"
        assert [record["step"] for record in processes.records(tmp_path / name)] in ([], [4])


def test_a_killed_process_goes_on(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SIGKILL as soon as the first run has its checkpoint of step 10; the other one may have it.

    Catches: a checkpoint or a record that is relied on before it is complete; draws, sums or the
    state of the optimizer that begin anew; runs that go on from different steps.
    """
    config = fields.replace(config, {"max_steps": 30})
    given = [*arguments(config, tmp_path, "3,5"), "--config.max_steps=30"]
    # The devices and the options of the compiler are those of the tests' own process.
    process = processes.start(
        "main",
        *given,
        "--config.checkpoint_every=5",
        devices=len(jax.devices()),
        JAX_DISABLE_MOST_OPTIMIZATIONS="true",
    )
    broken = tmp_path / "runs"
    saved = broken / "seed-3" / "checkpoints" / "step_10"
    killed = processes.signal_when(process, saved.exists, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert train_together(config, broken, 3, 5) == 0
    assert "seed-5 after step" in capsys.readouterr().err
    assert train_together(config, tmp_path / "whole", 3, 5) == 0
    assert_same_runs(broken, tmp_path / "whole")


def test_the_command(config: Config, tmp_path: Path) -> None:
    """Catches: no final evaluation of a run; lines that do not name it; a status of one for all."""
    done = run_here("main", *arguments(config, tmp_path, "0,1"))
    assert done.returncode == 0, done.stderr
    for name in ("seed-0", "seed-1"):
        workdir = tmp_path / "runs" / name
        assert f"\n{name}: step 4/6, epoch 0.3: train loss" in done.stderr
        assert f"{workdir}: test, ten views: top-1 error" in done.stdout
        found = read_status(workdir)
        assert found is not None
        assert (found.status, found.step) == ("finished", 6)
        views = [record.get("views") for record in processes.records(workdir)]
        assert views[-2:] == ["center", "ten"]


def test_the_workdirs(config: Config) -> None:
    """Catches: a folder named "{seed}", or one for all seeds; one beside that of a single run."""
    for given, expected in (("runs", "runs/seed-{}"), ("{seed}/a-{seed}", "{{seed}}/a-{}")):
        found = seeds.configs_of_seeds(config, Path(given), [3, 0])
        assert {str(workdir): c.seed for workdir, c in found.items()} == {
            expected.format(seed): seed for seed in (3, 0)
        }
    assert [*seeds.configs_of_seeds(config, Path("a-{seed}"), [])] == [Path("a-{seed}")]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--seeds=0,one", r"--seeds=0,one: 'one' is not an integer; expected numbers"),
        ("--seeds=1,0,1", r"--seeds=1,0,1 has a seed twice"),
        ("--config.seed=1", r"--seeds and --config.seed were given"),
        ("--config.parallel.columns=2", r"--seeds trains on one device, and .*columns=2"),
        ("--config.keep_checkpoints=1", r"expected --config\.keep_checkpoints=2 or more"),
        ("--config.data.resident=off", r"since data\.resident=off; expected --config\.data\.res"),
        ("--config.data.resident=auto", r"since the devices are CPUs; expected"),
    ],
)
def test_what_cannot_be_trained_together(
    config: Config, tmp_path: Path, extra: str, message: str
) -> None:
    """Catches: a flag that is ignored, or a traceback in place of one message; folders left."""
    done = run_here("main", *arguments(config, tmp_path, "0,1"), extra)
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "runs" / "seed-0").exists()
