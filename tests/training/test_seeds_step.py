"""One step for several seeds: each as in a step of its own."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.image_sets import write_idx_set
from helpers.tiny_model import tiny_config

from alexnet_jax import sharding, training_input
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.data.batch import Batch, consecutive_examples
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.resident import load_pixels, make_draw_fn
from alexnet_jax.inputs import mean_of
from alexnet_jax.prepare import prepare
from alexnet_jax.run_config import complete_config
from alexnet_jax.train_step import (
    TrainState,
    init_state,
    make_train_step,
    make_train_steps,
    stack_states,
)
from configs import alexnet, resnet

SEEDS = (3, 0)
STEPS = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_idx_set(folder, train=40, test=10)
    return folder


def tiny(images: Path) -> Config:
    """Return a model of a few hundred parameters with dropout, in two columns."""
    return tiny_config(images)


def sample(images: Path) -> Config:
    """Return the sample's model, with LRN, overlapping pooling and dropout."""
    return with_changes(alexnet.get_config("sample"), {"data.name": "idx", "data.dir": str(images)})


def residual(images: Path) -> Config:
    """Return a residual network, with batch normalization, padding and averaged parameters."""
    changes = {
        "data.name": "idx",
        "data.dir": str(images),
        "model.stage_sizes": (1, 1),
        "model.width": 4,
        "optimizer.ema_decay": 0.9,
    }
    return with_changes(resnet.get_config("cifar20,sample"), changes)


def prepared(config: Config) -> tuple[Config, Pack]:
    """Return the config with batches of eight images and lighting, and its images."""
    changes = {"batch_size": 8, "data.resident": "on", "data.lighting": "source2012"}
    config = with_changes(validated(config), changes)
    pack = prepare(config.data, progress=False)
    return complete_config(config, pack), pack


class Seeds:
    """The draws of each seed, and the arguments of the steps."""

    def __init__(self, config: Config, pack: Pack) -> None:
        self.mesh = sharding.make_mesh(config.parallel)
        self.count = pack.splits["train"].count
        replicated = sharding.replicated(self.mesh)
        mean = mean_of(pack.mean_image, config.data, config.model.channels)
        self.mean = jax.device_put(mean, replicated)
        self.configs = [with_changes(config, {"seed": seed}) for seed in SEEDS]
        pixels = load_pixels(pack, "train", replicated)
        examples, rows = consecutive_examples(8, self.count), np.arange(8)
        self.draws = [make_draw_fn(pack, c, examples, pixels, rows) for c in self.configs]

    def initial_states(self) -> list[TrainState]:
        """Return the states before the first step."""
        quickly = {"xla_backend_optimization_level": 0}
        return [
            jax.jit(lambda c=c: init_state(c), compiler_options=quickly)() for c in self.configs
        ]

    def batches(self, steps: range) -> Batch:
        """Return the batches of all seeds."""
        return training_input.stack_seeds([draw(steps) for draw in self.draws])

    def train_alone(self, steps: int) -> list[tuple[Any, list[Any]]]:
        """Return the state and the metrics of each seed after steps of its own."""
        ended = []
        for config, state, draw in zip(
            self.configs, self.initial_states(), self.draws, strict=True
        ):
            step, metrics = make_train_step(config, self.mesh, self.count), []
            for number in range(steps):
                state, of_step = step(state, self.mean, draw(range(number, number + 1)).step(0))
                metrics.append(jax.device_get(of_step))
            ended.append((jax.device_get(state), metrics))
        return ended


def assert_close(found: Any, expected: Any) -> None:
    """Assert that arrays agree within 1e-5 of each number, and of the largest in an array."""

    def compare(path: Any, array: Any, wanted: Any) -> None:
        array, wanted = np.asarray(array), np.asarray(wanted)
        assert array.dtype == wanted.dtype
        bound = 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(
            array, wanted, rtol=1e-5, atol=bound, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(compare, found, expected)


@pytest.mark.parametrize("model", [tiny, pytest.param(sample, marks=pytest.mark.slow), residual])
def test_each_seed_as_alone(images: Path, quick_to_compile: None, model: Any) -> None:
    """Three steps of two seeds, on images of which an epoch has fewer than five batches.

    Catches: draws, dropout masks or a state of another seed; statistics of a batch over all seeds;
    a gradient that is the sum or the mean over seeds; a program for the second step.
    """
    config, pack = prepared(model(images))
    seeds = Seeds(config, pack)
    step: Any = make_train_step(config, seeds.mesh, seeds.count, SEEDS)
    state, found = stack_states(config, seeds.mesh, seeds.initial_states()), []
    for number in range(STEPS):
        batch = seeds.batches(range(number, number + 1)).step(0)
        state, metrics = step(state, seeds.mean, batch)
        found.append(jax.device_get(metrics))
    assert step._cache_size() == 1
    for number, (expected, metrics) in enumerate(seeds.train_alone(STEPS)):
        assert_close(jax.tree.map(lambda array, n=number: array[n], (state, found)),
                     (expected, metrics))  # fmt: skip


def test_several_steps_of_several_seeds(images: Path, quick_to_compile: None) -> None:
    """Catches: the axes of steps and of seeds exchanged; the padding of a short dispatch taken."""
    config, pack = prepared(tiny(images))
    seeds = Seeds(config, pack)
    loop: Any = make_train_steps(config, seeds.mesh, seeds.count, SEEDS)
    state, found = stack_states(config, seeds.mesh, seeds.initial_states()), []
    for steps in (range(2), range(2, 3)):
        batches = training_input.pad_steps(seeds.batches(steps), 4)
        state, metrics = loop(state, seeds.mean, batches, np.int32(len(steps)))
        assert metrics.sums.loss.shape == (4, len(SEEDS))
        found += [jax.tree.map(lambda array, n=n: array[n], metrics) for n in range(len(steps))]
    assert loop._cache_size() == 1
    for number, (expected, metrics) in enumerate(seeds.train_alone(STEPS)):
        assert_close(jax.tree.map(lambda array, n=number: array[n], (state, found)),
                     (expected, metrics))  # fmt: skip
