"""The loop keeps the device busy: what it waits for, and what is ready for the next step."""

from typing import Any

import numpy as np
import processes
import pytest
from data_fixtures import write_idx_set
from ml_collections import ConfigDict

from alexnet_jax import metrics, parallel, train
from alexnet_jax.prepare import prepare
from alexnet_jax.writers import NullWriter

STEPS = 6
Event = tuple[str, int]


class Sum:
    """A sum that a step gives, telling whenever somebody waits for its value."""

    def __init__(self, events: list[Event], step: int) -> None:
        self.tell = lambda: events.append(("wait", step))

    def block_until_ready(self) -> "Sum":
        self.tell()
        return self

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self.tell()
        return np.ones(())

    def __float__(self) -> float:
        self.tell()
        return 1.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
    """The small config of the tests, as it is when the data is known."""
    folder = tmp_path_factory.mktemp("loop")
    write_idx_set(folder / "data", train=80, test=20)
    space: dict[str, Any] = {}
    exec(processes.write_config(folder, folder / "data").read_text(), space)
    config = space["get_config"]()
    config.data.pack_dir = str(folder / "pack")
    config.max_steps = STEPS
    return train.complete(config, prepare(config.data, progress=False))


def test_nothing_waits_for_the_step_that_runs(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches float(loss), block_until_ready or the like on what has just been dispatched, and
    batches that are placed on the device only when their step is due.

    While step n runs, the batch of n + 1 lies there already, the sums of n - 1 are fetched, and
    the sums of n are asked for only when n + 1 is dispatched.
    """
    events: list[Event] = []
    shard_batch = parallel.shard_batch

    def place(batch: dict[str, Any], sharding: Any) -> Any:
        events.append(("place", int(batch["example"][0]) // config.batch_size))
        return shard_batch(batch, sharding)

    def make_train_step(*_: Any) -> Any:
        def step(state: int, mean: Any, batch: Any) -> tuple[int, dict[str, Sum]]:
            events.append(("dispatch", state))
            names = ("loss", "top1", "top5", "count", "learning_rate")
            return state + 1, {name: Sum(events, state) for name in names}

        return step

    monkeypatch.setattr(parallel, "shard_batch", place)
    monkeypatch.setattr(train, "make_train_step", make_train_step)
    monkeypatch.setattr(train._Run, "_due", lambda *_: False)  # nothing to say, measure or save
    pack, mesh = prepare(config.data), parallel.make_mesh(config)
    state: Any = 0  # the number of steps done
    nothing: Any = None  # no checkpoints: nothing is saved
    run = train._Run(config, pack, mesh, nothing, NullWriter(), metrics.Totals())
    assert run.go(state, 0) == 0

    order = list(dict.fromkeys(events))  # the five sums of a step are fetched together
    first = ("wait", 0)  # the first step compiles, and the clock starts when it is done
    assert order.index(first) == order.index(("dispatch", 0)) + 1
    order.remove(first)
    for n in range(1, STEPS - 1):
        assert order.index(("place", n + 1)) < order.index(("dispatch", n))
        assert order.index(("wait", n)) > order.index(("dispatch", n + 1))
    assert ("wait", STEPS - 1) not in order  # not due
