"""The loop keeps the device busy: what it waits for, and what is ready for the next step."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import write_idx_set

from alexnet_jax import sharding, train
from alexnet_jax.config import Config, validated
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.pack import Pack
from alexnet_jax.metrics import MetricSums
from alexnet_jax.prepare import prepare
from alexnet_jax.progress import TrainingBar
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.train_step import StepMetrics
from alexnet_jax.training_input import TrainingInput
from alexnet_jax.training_run import TrainingRun
from alexnet_jax.writers import NullWriter
from configs.alexnet import get_config

STEPS = 6
Event = tuple[str, int]


class Sum:
    """A sum that a step returns, which records whenever somebody waits for its value."""

    def __init__(self, events: list[Event], step: int) -> None:
        self.record = lambda: events.append(("wait", step))

    def block_until_ready(self) -> "Sum":
        self.record()
        return self

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self.record()
        return np.ones(())

    def __float__(self) -> float:
        self.record()
        return 1.0


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder: Path = tmp_path_factory.mktemp("loop")
    write_idx_set(folder / "data", train=80, test=20)
    data = replace(config().data, dir=str(folder / "data"), pack_dir=str(folder / "pack"))
    return prepare(data, progress=False)


def config() -> Config:
    config = get_config("sample")
    config.batch_size = 8
    config.max_steps = STEPS
    config.data.name = "idx"
    return config


def test_nothing_waits_for_the_step_that_runs(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches float(loss), block_until_ready or the like on what has just been dispatched, and
    batches that are placed on the device only when their step is due.

    While step n runs, the batch of n + 1 lies there already, the sums of n - 1 are fetched, and
    the sums of n are asked for only when n + 1 is dispatched.
    """
    events: list[Event] = []
    shard_batch = sharding.shard_batch
    chosen = train.complete_config(validated(config()), pack)

    def place(batch: Batch, places: Any) -> Any:
        examples = np.asarray(batch.example)
        events.append(("place", int(examples[0]) // chosen.batch_size))
        return shard_batch(batch, places)

    def step(state: Any, _: Any, batch: Any) -> tuple[Any, StepMetrics]:
        number = state.step
        events.append(("dispatch", number))
        sums = MetricSums(*(Sum(events, number) for _ in range(4)))  # type: ignore[arg-type]
        metrics = StepMetrics(sums, Sum(events, number))  # type: ignore[arg-type]
        return SimpleNamespace(step=number + 1), metrics

    monkeypatch.setattr(sharding, "shard_batch", place)
    monkeypatch.setattr(StepSchedule, "is_due", lambda *_: False)  # nothing to record or to save
    nothing: Any = None
    mesh = sharding.make_mesh(chosen.parallel)
    schedule = StepSchedule(chosen, pack.splits["train"].count)
    feed = TrainingInput(chosen, pack, mesh, schedule)
    monkeypatch.setattr(feed, "_train_step", step)
    run = TrainingRun(
        config=chosen,
        workdir=nothing,
        pack=pack,
        schedule=schedule,
        checkpoints=nothing,
        writer=NullWriter(),
        step=0,
        sums=MetricSums(),
        epoch_sums=MetricSums(),
    )
    training = train._Training(
        runs=(run,),
        seeds=(),
        is_single=True,
        config=chosen,
        pack=pack,
        mesh=mesh,
        schedule=schedule,
        training_input=feed,
        predict=nothing,
        mean=nothing,
        bar=TrainingBar(0, STEPS, hidden=True),
    )
    state: Any = SimpleNamespace(step=0)
    assert train._train_steps(training, state, 0) == 0

    order = list(dict.fromkeys(events))  # the five sums of a step are fetched together
    first = ("wait", 0)  # the first step compiles, and the clock starts when it is done
    assert order.index(first) == order.index(("dispatch", 0)) + 1
    order.remove(first)
    for n in range(1, STEPS - 1):
        assert order.index(("place", n + 1)) < order.index(("dispatch", n))
        assert order.index(("wait", n)) > order.index(("dispatch", n + 1))
    assert ("wait", STEPS - 1) not in order  # not due
