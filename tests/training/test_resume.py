"""A run that is stopped anywhere and started again ends as if nothing had happened."""

import json
import random
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.runs import assert_same_bits, last_recorded_step, newest_state

from alexnet_jax import command, fields
from alexnet_jax.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@dataclass
class Runs:
    """The same run twice: `whole` in one go, and `broken` in several; with the last outputs."""

    config: Path
    whole: Path
    broken: Path
    stops: dict[str, subprocess.CompletedProcess[str]]


def flags(runs: Runs, workdir: Path, **fields: object) -> list[str]:
    """Return the flags of main for a run of the module's config."""
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={runs.config}", f"--workdir={workdir}", *overrides]


def saved_names(workdir: Path) -> set[str]:
    """Return the paths of all arrays of a run's newest checkpoint."""
    with Checkpoints(workdir) as checkpoints:
        return set(checkpoints.metadata(checkpoints.steps()[-1])["shapes"])


def saving(workdir: Path) -> bool:
    """Return whether a checkpoint is being written."""
    return any("tmp" in path.name for path in (workdir / "checkpoints").glob("step_*"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the same run twice, see `run_both`."""
    folder = tmp_path_factory.mktemp("resume")
    write_idx_set(folder / "data", train=120, test=20)
    config = processes.write_config(folder, folder / "data")
    runs = Runs(config, folder / "whole", folder / "broken", {})
    with processes.compiled_quickly():
        run_both(runs)
    return runs


def run_both(runs: Runs) -> None:
    """Run one after the other: four stops, at moments that differ by machine and load."""
    draw = random.Random(0)
    runs.stops["whole"] = processes.run("main", *flags(runs, runs.whole))
    for name, number in (
        ("killed saving", signal.SIGKILL),
        ("terminated", signal.SIGTERM),
        ("killed", signal.SIGKILL),
        ("interrupted", signal.SIGINT),
    ):
        goal = last_recorded_step(runs.broken) + draw.randint(1, 11)

        def moment(name: str = name, goal: int = goal) -> bool:
            return (
                saving(runs.broken)
                if name == "killed saving"
                else last_recorded_step(runs.broken) >= goal
            )

        process = processes.start("main", *flags(runs, runs.broken))
        runs.stops[name] = processes.signal_when(process, moment, number)
    runs.stops["finished"] = processes.run("main", *flags(runs, runs.broken))


def test_the_state_is_the_same_to_the_last_bit(runs: Runs) -> None:
    """Catches: the momentum, the plateau rule's state or the mean image not restored; a random
    stream that starts anew; a batch skipped or repeated; a save under another step's number."""
    assert runs.stops["whole"].returncode == 0, runs.stops["whole"].stderr
    assert runs.stops["finished"].returncode == 0, runs.stops["finished"].stderr
    step, state = newest_state(runs.whole)
    again, same = newest_state(runs.broken)
    assert step == again == 60
    assert_same_bits(state, same)


def test_the_records_are_the_same(runs: Runs) -> None:
    """Catches: records after the restored step kept; sums since the last record lost at a
    checkpoint between two records; a final evaluation recorded twice."""
    assert processes.records(runs.broken) == processes.records(runs.whole)


def test_the_plateau_rule_was_at_work(runs: Runs) -> None:
    """Guards the two tests above: without a drop they would not see the rule's state lost."""
    rates = {r["learning_rate"] for r in processes.records(runs.whole) if r["split"] == "train"}
    assert len(rates) > 1
    _, state = newest_state(runs.whole)
    assert state[1]["schedule_state"].drops > 0
    assert saved_names(runs.whole) >= {
        f"['train_state']['schedule_state'].{name}" for name in ("drops", "best", "stale")
    }


def test_the_epochs_rule_has_no_state(runs: Runs, tmp_path: Path) -> None:
    """Catches: a schedule's state saved where the rule has none, or asked for when the run goes
    on; a drop that is counted from the step of the restart."""
    epochs: dict[str, Any] = {"schedule.rule": "epochs", "schedule.drop_epochs": (2,)}
    config = fields.replace(command.load_config(str(runs.config)), epochs)
    for name, last_steps in (("whole", (20,)), ("broken", (9, 20))):
        for last in last_steps:
            assert train_here(fields.replace(config, {"max_steps": last}), tmp_path / name) == 0
        assert not any("schedule_state" in saved for saved in saved_names(tmp_path / name))
    (step, state), (again, same) = (newest_state(tmp_path / name) for name in ("whole", "broken"))
    assert step == again == 20
    assert_same_bits(state, same)
    found = [r for r in processes.records(tmp_path / "broken") if r["split"] == "train"]
    rates = {r["step"]: r["learning_rate"] for r in found}
    assert rates == pytest.approx(
        {4: 0.01, 8: 0.01, 9: 0.01, 12: 0.01, 14: 0.01, 16: 1e-3, 20: 1e-3}
    )


@pytest.mark.parametrize(("name", "status"), [("terminated", 143), ("interrupted", 130)])
def test_a_signal_saves_and_says_so(runs: Runs, name: str, status: int) -> None:
    """Catches: the status of an error or of success; a traceback; nothing saved at the signal."""
    stop = runs.stops[name]
    assert stop.returncode == status, stop.stderr
    assert "Traceback" not in stop.stderr
    last = stop.stderr.splitlines()[-1]
    assert last.startswith("Stopped after step ")
    stopped = int(last.split()[3].strip(";"))
    following = "killed" if name == "terminated" else "finished"
    assert f"after step {stopped} of 60" in runs.stops[following].stderr


def test_a_kill_while_saving_leaves_no_half_checkpoint(runs: Runs) -> None:
    """Catches: writing in place, so that the next start finds a damaged checkpoint."""
    assert runs.stops["killed saving"].returncode == -signal.SIGKILL
    for stop in runs.stops.values():
        assert "damaged" not in stop.stderr


def test_a_finished_run_is_left_alone(runs: Runs) -> None:
    """Catches: one more step, or one more evaluation and its records, each time."""
    before = (runs.whole / "metrics.jsonl").read_bytes(), newest_state(runs.whole)[0]
    again = processes.run("main", *flags(runs, runs.whole))
    assert again.returncode == 0, again.stderr
    assert "already has 60 steps" in again.stderr
    assert ((runs.whole / "metrics.jsonl").read_bytes(), newest_state(runs.whole)[0]) == before
    assert again.stdout == runs.stops["whole"].stdout


def test_another_layout_goes_on_from_a_checkpoint(runs: Runs, tmp_path: Path) -> None:
    """Catches: state bound to the mesh that saved it; masks or crops that depend on the layout;
    a change that is refused, or neither printed nor recorded."""
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "step_60")
    (tmp_path / "moved").symlink_to(runs.config.parent / "data")
    changed: dict[str, object] = {
        "parallel.columns": 2,
        "parallel.data": 2,
        "checkpoint_every": 15,
        "epochs": 17,
        "data.dir": tmp_path / "moved",
    }
    other = processes.run("main", *flags(runs, workdir, **changed), devices=4)
    assert other.returncode == 0, other.stderr
    assert "after step 50 of 60" in other.stderr
    recorded = json.loads((workdir / "config.json").read_text())["changes"]
    assert {c["field"]: c["to"] for c in recorded} == {
        name: str(value) if isinstance(value, Path) else value for name, value in changed.items()
    }
    assert {c["step"] for c in recorded} == {50}
    for change in recorded:
        message = f"config.{change['field']} was {change['from']!r}, is now {change['to']!r}"
        assert message in other.stderr
    (step, state), (_, expected) = newest_state(workdir), newest_state(runs.whole)
    assert step == 60
    for one, reference in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-6)


def test_more_steps_go_on_after_a_damaged_checkpoint(runs: Runs, tmp_path: Path) -> None:
    """Catches: a damaged checkpoint that stops the run or is trained from; its step not saved
    anew; max_steps that cannot be raised."""
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    for path in (workdir / "checkpoints" / "step_60" / "variables").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-9])
    longer = processes.run("main", *flags(runs, workdir, max_steps=62))
    assert longer.returncode == 0, longer.stderr
    assert "step_60 is damaged" in longer.stderr
    assert "after step 50 of 62" in longer.stderr
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {"damaged_step_60", "step_60", "step_62"} <= names
    expected = [r for r in processes.records(runs.whole) if r["split"] == "train"]
    found = [r for r in processes.records(workdir) if r["split"] == "train"]
    assert [r for r in found if r["step"] <= 60] == expected
