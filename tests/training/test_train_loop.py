"""The loop keeps the device busy: what it waits for, and what is ready for the next step."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import write_idx_set

from alexnet_jax import memory, run_config, sharding, train
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


def make_training(pack: Pack, chosen: Config, step: Any) -> train._Training:
    """Return a training of one run whose compiled step is a function of the test's."""
    nothing: Any = None
    mesh = sharding.make_mesh(chosen.parallel)
    schedule = StepSchedule(chosen, pack.splits["train"].count)
    feed = TrainingInput(chosen, pack, mesh, schedule)
    feed._train_step = step
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
    return train._Training(
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


def test_nothing_waits_for_the_step_that_runs(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches float(loss), block_until_ready or the like on what has just been dispatched, and
    batches that are placed on the device only when their step is due.

    While step n runs, the batch of n + 1 lies there already, the sums of n - 1 are fetched, and
    the sums of n are asked for only when n + 1 is dispatched.
    """
    events: list[Event] = []
    shard_batch = sharding.shard_batch
    chosen = run_config.complete_config(validated(config()), pack)

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
    training = make_training(pack, chosen, step)
    state: Any = SimpleNamespace(step=0)
    assert train._train_steps(training, state) == 0

    order = list(dict.fromkeys(events))  # the five sums of a step are fetched together
    first = ("wait", 0)  # the first step compiles, and the clock starts when it is done
    assert order.index(first) == order.index(("dispatch", 0)) + 1
    order.remove(first)
    for n in range(1, STEPS - 1):
        assert order.index(("place", n + 1)) < order.index(("dispatch", n))
        assert order.index(("wait", n)) > order.index(("dispatch", n + 1))
    assert ("wait", STEPS - 1) not in order  # not due


def test_the_clock_starts_after_a_first_step_that_is_recorded(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is due, the first too. Catches: a speed with the time of compilation; a bar that
    counts it; memory of the compiler that is kept."""
    events: list[str] = []
    speeds: list[float] = []
    chosen = run_config.complete_config(validated(config()), pack)

    def step(state: Any, _: Any, __: Any) -> tuple[Any, StepMetrics]:
        sums = MetricSums(*(Sum([], 0) for _ in range(4)))  # type: ignore[arg-type]
        return state, StepMetrics(sums, Sum([], 0))  # type: ignore[arg-type]

    def record(_: Any, images_per_second: float) -> None:
        events.append("record")
        speeds.append(images_per_second)

    for name in ("is_due", "is_log_step"):
        monkeypatch.setattr(StepSchedule, name, lambda *_: True)
    monkeypatch.setattr(train, "_record", record)
    monkeypatch.setattr(train, "_validate", lambda _, state, **__: state)
    monkeypatch.setattr(train, "_save", lambda *_, **__: None)
    monkeypatch.setattr(TrainingBar, "compiled", lambda _: events.append("compiled"))
    monkeypatch.setattr(memory, "return_freed_memory", lambda: events.append("memory"))
    assert train._train_steps(make_training(pack, chosen, step), SimpleNamespace()) == 0  # type: ignore[arg-type]
    assert events == ["memory", "compiled", *STEPS * ["record"]]
    assert speeds[0] == 0
    assert min(speeds[1:]) > 0
