"""Training on images that are on the devices, one or several steps at once: the same to the bit."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import processes
from helpers.in_process import train_here
from helpers.runs import assert_same_bits, newest_state
from helpers.tiny_model import tiny_config
from jax.sharding import Mesh

from alexnet_jax import evaluate, fields, sharding, training_input
from alexnet_jax.config import Config, ParallelConfig, validated
from alexnet_jax.data.batch import consecutive_examples
from alexnet_jax.data.resident import load_pixels, make_draw_fn
from alexnet_jax.inputs import mean_of
from alexnet_jax.prepare import prepare
from alexnet_jax.run_config import complete_config
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.train_step import (
    TrainState,
    abstract_state,
    init_state,
    make_train_step,
    make_train_steps,
)
from alexnet_jax.training_input import TrainingInput

STEPS = 16  # of eight images, of which an epoch has 108: the 14th step ends it


def run_config(images: Path, resident: str, layout: ParallelConfig | None = None) -> Config:
    """Return the config of a run with lighting, records after steps 4, 8, … and checkpoints."""
    config = tiny_config(images, max_steps=STEPS, checkpoint_every=5)
    config.data.lighting = "source2012"
    config.data.resident = resident
    config.parallel = layout or ParallelConfig()
    return config


def train(config: Config, workdir: Path) -> Any:
    """Train and evaluate; return the newest state, and the records."""
    assert train_here(config, workdir) == 0
    evaluate.final_evaluation(workdir, sharding.make_mesh(config.parallel))
    return newest_state(workdir), processes.records(workdir)


def assert_same_runs(found: Any, expected: Any) -> None:
    """Assert that two runs have the same records, and the same state to the last bit."""
    (step, state), records = found
    (expected_step, expected_state), expected_records = expected
    assert records == expected_records
    assert step == expected_step == STEPS
    assert_same_bits(state, expected_state)


ONE = ParallelConfig()
FOUR = ParallelConfig(columns=2, data=2, scheme="one_weird_trick")


@pytest.mark.parametrize("layout", [ONE, FOUR], ids=["1x1", "2x2"])
def test_the_same_as_with_crops_of_the_host(
    images: Path, tmp_path: Path, layout: ParallelConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training, validation, and evaluation with center and ten views.

    Catches: rows for another device, a device that takes the crops of all, an index into the rows
    of a device, images of one split for another.
    """
    expected = train(run_config(images, "off", layout), tmp_path / "host")
    assert "The host cuts the crops of images, since data.resident=off." in capfd.readouterr().err
    found = train(run_config(images, "on", layout), tmp_path / "devices")
    assert "The images are on every device, which cut the crops: 0.1 MB." in capfd.readouterr().err
    assert_same_runs(found, expected)


@pytest.mark.parametrize(("data", "columns"), [(2, 1), (1, 2)])
def test_the_same_steps_on_two_devices(images: Path, data: int, columns: int) -> None:
    """Catches: an index into the images of one device, examples or columns of the other one."""
    states = []
    for where in ("off", "on"):
        layout = ParallelConfig(data=data, columns=columns)
        config = validated(run_config(images, where, layout))
        pack, mesh = prepare(config.data, progress=False), sharding.make_mesh(layout)
        config = complete_config(config, pack)
        feed = TrainingInput(config, pack, mesh, StepSchedule(config, pack.splits["train"].count))
        assert [*feed.pixels] == (["train", "validation"] if where == "on" else [])
        mean = jax.device_put(mean_of(pack.mean_image, config.data, 1), sharding.replicated(mesh))
        state = make_initial_state(config, mesh)
        for dispatch in itertools.islice(feed.dispatches(12), 3):  # over the end of the epoch
            state, metrics = feed.begin_steps(state, mean, dispatch)
        states.append(jax.device_get((state, metrics)))
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *states)
    assert all(jax.tree.leaves(equal)), equal


def make_initial_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the state before the first step, placed on the mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    state: TrainState = jax.jit(lambda: init_state(config), out_shardings=shardings)()
    return state


@pytest.fixture
def looped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Dispatch up to three steps in a loop, as on accelerators; return the counts as they come."""
    monkeypatch.setattr(training_input, "largest_dispatch", lambda _: 3)
    counts: list[int] = []
    begin_steps = TrainingInput.begin_steps

    def recorded(self: TrainingInput, state: Any, mean: Any, dispatch: Any) -> Any:
        counts.append(dispatch.steps)
        return begin_steps(self, state, mean, dispatch)

    monkeypatch.setattr(TrainingInput, "begin_steps", recorded)
    return counts


def test_several_steps_are_the_same_as_one_by_one(
    images: Path, tmp_path: Path, looped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are due after 4, 8, 12, 14 (the epoch) and 16, checkpoints after 5, 10, 15 and 16.

    The first two dispatches are of one step: the second shows how long a step takes, and the third
    is on the devices by then.

    Catches: a step left out or taken twice where dispatches meet, in a dispatch or where a run is
    continued; the metrics of a dispatch's last step for all of its steps; dispatches across a
    record, a validation or a checkpoint; dispatches that take too long.
    """
    config = run_config(images, "on")
    monkeypatch.setattr(training_input, "MAX_SECONDS", 1e-9)
    expected = train(config, tmp_path / "one_by_one")
    assert looped == [1] * STEPS

    looped.clear()
    monkeypatch.setattr(training_input, "MAX_SECONDS", 1e9)
    assert train_here(fields.replace(config, {"max_steps": 8}), tmp_path / "several") == 0
    assert looped == [1, 1, 1, 1, 1, 3]
    looped.clear()
    (step, state), records = train(config, tmp_path / "several")
    assert looped == [1, 1, 1, 1, 2, 1, 1]
    # A run of eight steps validates after its last one; a longer one does not.
    others = [r for r in records if (r["step"], r["split"]) != (8, "validation")]
    assert_same_runs(((step, state), others), expected)


def test_the_loop(images: Path) -> None:
    """The loop takes the steps of its count, in one program, as the step by itself does.

    CPUs round otherwise within a loop: it agrees within 1e-5 of each number, and of the largest in
    an array.

    Catches: a program for each number of steps; the padding of a short dispatch taken as steps; a
    step's batch or metrics in another one's place.
    """
    config = validated(run_config(images, "on"))
    pack, mesh = prepare(config.data, progress=False), sharding.make_mesh(config.parallel)
    config = complete_config(config, pack)
    count = pack.splits["train"].count
    replicated, places = sharding.replicated(mesh), sharding.batch_sharding(config, mesh)
    pixels, examples = load_pixels(pack, "train", replicated), consecutive_examples(8, count)
    draw = make_draw_fn(pack, config, examples, pixels, np.arange(8))
    mean = jax.device_put(mean_of(pack.mean_image, config.data, 1), replicated)

    loop: Any = make_train_steps(config, mesh, count)
    state, found = make_initial_state(config, mesh), []
    for steps in (range(3), range(3, 4)):
        batches = training_input.pad_steps(draw(steps), 4)
        placed = sharding.shard_batch(batches, sharding.batch_sharding(config, mesh, stacked=1))
        state, metrics = loop(state, mean, placed, np.int32(len(steps)))
        assert metrics.sums.loss.shape == (4,)
        found += [jax.tree.map(lambda array, n=n: array[n], metrics) for n in range(len(steps))]
    assert loop._cache_size() == 1

    train_step = make_train_step(config, mesh, count)
    one_by_one, expected = make_initial_state(config, mesh), []
    for number in range(4):
        batch = draw(range(number, number + 1)).step(0)
        one_by_one, metrics = train_step(one_by_one, mean, sharding.shard_batch(batch, places))
        expected.append(metrics)

    def assert_close(array: Any, wanted: Any) -> None:
        array, wanted = np.asarray(array), np.asarray(wanted)
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())

    jax.tree.map(assert_close, (state, found), (one_by_one, expected))
