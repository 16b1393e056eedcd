"""Which images a step takes: epochs in parts, stages of the training set, and times in epochs."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax import fields
from alexnet_jax.config import Config, validated
from alexnet_jax.data.epochs import make_epochs
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.schedules import StepSchedule, learning_rate, total_steps
from configs import cifar


def parted(**changes: Any) -> Config:
    """Return a config of the authors' networks for CIFAR-10 with some fields changed."""
    return fields.replace(cifar.get_config("80sec"), changes)


def taken(config: Config, count: int, steps: int) -> list[list[tuple[int, int]]]:
    """Return the (epoch, position) of the examples of each step, without masked rows."""
    epochs, rows = make_epochs(config, count), np.arange(config.batch_size)
    found = []
    for step in range(steps):
        examples = epochs.examples(step, rows)
        assert examples.mask is not None
        assert epochs.examples_before(step) == examples.number[0]
        pairs = np.stack([examples.epoch, examples.position], axis=1)[examples.mask]
        found.append([tuple(pair) for pair in pairs.tolist()])
    return found


def test_minibatches_of_the_authors_files() -> None:
    """An epoch is five files of 78 minibatches of 128 images and one of 16, in the files' order.

    Catches: batches that continue in the next file, the remainder dropped, or moved to the end of
    the epoch.
    """
    steps = taken(parted(), 50_000, 2 * 395)
    sizes = [len(step) for step in steps]
    assert sizes == 2 * 5 * ([128] * 78 + [16])
    assert [pair for step in steps for pair in step] == [
        (epoch, position) for epoch in range(2) for position in range(50_000)
    ]
    assert steps[79][0] == (0, 10_000)  # the second file begins a minibatch


def stages_of(draw_from: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return stages from numbers of epochs and of images."""
    starts = np.cumsum([1, *(epochs for epochs, _ in draw_from)])
    return tuple(
        (int(start), images) for start, (_, images) in zip(starts, draw_from, strict=False)
    )


STAGES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(batch=st.integers(1, 9), part=st.integers(1, 12), lengths=STAGES)
def test_stages_take_the_first_images_in_order(
    batch: int, part: int, lengths: list[tuple[int, int]]
) -> None:
    """Each epoch of a stage takes each of its images once, in order, by steps within one part.

    Catches: an image missed or repeated where a stage or a part ends, epochs counted anew in a
    stage, numbers of examples that repeat, and a step that has no image.
    """
    config = parted(
        **{"batch_size": batch, "data.part_images": part, "data.stages": stages_of(lengths)}
    )
    count = max(images for _, images in lengths)
    expected, epoch = [], 0
    for length, images in lengths:
        for _ in range(length):
            expected += [(epoch, position) for position in range(images)]
            epoch += 1
    epochs = make_epochs(config, count)
    last = epochs.first_step(epoch)
    steps = taken(config, count, last)
    assert [pair for pairs in steps for pair in pairs] == expected
    for pairs in steps:
        assert pairs
        assert len({position // part for _, position in pairs}) == 1
    numbers = list[int]()
    of_epoch = [images for length, images in lengths for _ in range(length)]
    for step, pairs in enumerate(steps):
        examples, (current, position) = epochs.examples(step, np.arange(batch)), pairs[0]
        numbers += examples.number[examples.mask].tolist()
        assert epochs.whole_epochs(step) == current
        assert epochs.passes(step) == current + position / of_epoch[current]
    assert numbers == list(range(len(expected)))
    starts = [0, *(s for s in range(1, last) if steps[s][0][1] == 0)]
    assert [epochs.first_step(e) for e in range(epoch)] == starts


@settings(deadline=None, max_examples=50)
@given(time=st.floats(0, 5), batch=st.integers(1, 9), part=st.integers(1, 12))
def test_first_step_at_a_time_within_an_epoch(time: float, batch: int, part: int) -> None:
    """Catches: a rate that drops a step early or late within an epoch in parts."""
    config = parted(**{"batch_size": batch, "data.part_images": part})
    epochs = make_epochs(config, 30)
    step = epochs.first_step(time)
    # Within an epoch, its images divide it evenly.
    assert epochs.passes(step) >= time - 1e-9
    assert step == 0 or epochs.passes(step - 1) < time + 1e-9


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 9),
    part=st.integers(1, 12),
    step=st.integers(0, 60),
    rows=st.sets(st.integers(0, 8), min_size=1),
)
def test_rows_of_a_process_are_those_of_the_batch(
    batch: int, part: int, step: int, rows: set[int]
) -> None:
    """Catches: examples that depend on which rows a process asks for, also where all are masked."""
    config = parted(**{"batch_size": batch, "data.part_images": part})
    epochs, some = make_epochs(config, 30), np.array(sorted(row % batch for row in rows))
    some = np.unique(some)
    whole, chosen = epochs.examples(step, np.arange(batch)), epochs.examples(step, some)
    for name in ("epoch", "position", "number", "mask"):
        np.testing.assert_array_equal(getattr(whole, name)[some], getattr(chosen, name))


@pytest.mark.parametrize(
    ("word", "epochs", "steps"),
    [
        ("80sec", 10, 10 * 395),
        ("18pct", 140, 140 * 395),
        ("13pct", 160, 100 * 316 + 60 * 395),
        ("11pct", 520, 350 * 316 + 170 * 395),
    ],
)
def test_stages_and_rates_of_the_authors(word: str, epochs: int, steps: int) -> None:
    """Rates drop, and the fifth file is added, at the epochs of the authors' files.

    Catches: a drop counted in steps of another stage, or one epoch off; an epoch before the first.
    """
    config = validated(cifar.get_config(word))
    assert config.epochs == epochs
    assert total_steps(config, 50_000) == steps
    rates = [config.learning_rate * factor for factor in (1, 0.1, 0.01)]
    last = {"80sec": (8,), "18pct": (120, 130), "13pct": (140, 150), "11pct": (500, 510)}[word]
    plan, schedule = make_epochs(config, 50_000), StepSchedule(config, 50_000)
    assert not schedule.ends_epoch(0)
    for drop, before, after in zip(last, rates, rates[1:], strict=False):
        first = steps - (epochs - drop) * 395
        assert math.isclose(learning_rate(config, 50_000, first - 1, None), before, rel_tol=1e-6)
        assert math.isclose(learning_rate(config, 50_000, first, None), after, rel_tol=1e-6)
        assert schedule.ends_validated_epoch(first)
        assert schedule.epoch(first) == drop
    if word in ("13pct", "11pct"):
        alone = {"13pct": 100, "11pct": 350}[word]
        rows = np.arange(128)
        for step, expected in ((alone * 316 - 1, 39_999), (alone * 316 + 394, 49_999)):
            assert plan.examples(step, rows).position.max() == expected
        assert plan.examples(alone * 316, rows).epoch[0] == alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.stages": ((1, 10), (3, 20)), "data.shuffle": True}, "expected data.shuffle=False"),
        ({"data.stages": ((1, 10),), "data.part_images": 0}, "data.part_images of 1 or more"),
        ({"data.stages": ((2, 10),)}, "ascending epochs, the first one 1"),
        ({"data.stages": ((1, 10), (1, 20))}, "ascending epochs"),
        ({"data.stages": ((1, 0),)}, "1 image or more"),
        ({"data.part_images": -1}, "data.part_images=-1; expected 0 or more"),
        ({"model": ResNetConfig()}, "batch normalization of the ResNetConfig would average"),
        (
            {"model": GoogLeNetConfig(stem="small", normalization="batch_norm")},
            "batch normalization of the GoogLeNetConfig would average",
        ),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    """Catches: a check removed, so that a run fails later or averages over padding."""
    with pytest.raises(InputError, match=message):
        validated(parted(**changes))


def test_parts_suit_every_model_without_batch_normalization() -> None:
    """Catches parts refused for a GoogLeNet whose normalization does not average over the batch."""
    for normalization in ("lrn", "none"):
        validated(parted(model=GoogLeNetConfig(stem="small", normalization=normalization)))
