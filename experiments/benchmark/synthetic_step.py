"""Training steps of a config on random images, ready to be timed."""

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch, ResidentCrops
from alexnet_jax.inputs import mean_of
from alexnet_jax.train_step import (
    TrainState,
    abstract_state,
    init_state,
    make_train_step,
    make_train_steps,
    stack_states,
)
from alexnet_jax.training_input import stack_seeds


class SyntheticTrainStep:
    """Training steps on the config's mesh, from the initial state, all on the same batch."""

    def __init__(self, config: Config) -> None:
        """Place state and batch on the devices; the first call compiles the step.

        Args:
            config: with its number of classes.

        Raises:
            InputError: too few devices.
        """
        mesh = sharding.make_mesh(config.parallel)
        self._step: jax.stages.Wrapped | jax.stages.Compiled
        self._step = make_train_step(config, mesh, num_images=10**6)
        self._batch = sharding.shard_batch(
            make_random_batch(config), sharding.batch_sharding(config, mesh)
        )
        self._mean = make_mean(config, mesh)
        self._state = make_initial_state(config, mesh)

    def compile(self) -> str:
        """Compile the step before its first call, and return the compiled program as text."""
        assert isinstance(self._step, jax.stages.Wrapped)
        self._step = self._step.lower(self._state, self._mean, self._batch).compile()
        return self._step.as_text() or ""

    def dispatch(self) -> None:
        """Begin a step after those before; return at once."""
        self._state, self._metrics = self._step(self._state, self._mean, self._batch)

    def finish(self) -> None:
        """Wait for the steps begun."""
        jax.block_until_ready(self._state)

    def loss(self) -> float:
        """Return the mean loss of the last step, before its update."""
        return self._metrics.sums.compute()["loss"]

    def __call__(self) -> None:
        """Take a step and wait for its end."""
        self.dispatch()
        self.finish()


class ResidentTrainSteps:
    """Several training steps in a dispatch, with random images on the devices."""

    def __init__(self, config: Config, length: int, images: int, seeds: int = 1) -> None:
        """Place state, images and draws on the devices; the first call compiles the steps.

        Args:
            config: with its number of classes; its crops are not scaled.
            length: number of steps in a dispatch.
            images: number of images.
            seeds: number of seeds that are trained together, from the same initial state.
        """
        mesh = sharding.make_mesh(config.parallel)
        numbers = range(seeds) if seeds > 1 else ()
        self._steps = make_train_steps(config, mesh, num_images=10**6, seeds=numbers)
        self._length = np.int32(length)
        random, side = np.random.default_rng(0), config.data.image_size
        shape = (images, side, side, config.model.channels)
        pixels = jax.device_put(random.integers(0, 256, shape, np.uint8), sharding.replicated(mesh))
        rows = config.batch_size
        index = random.integers(0, images, (length, rows), np.int32)
        draws = make_random_batch(config)
        stacked: Batch = jax.tree.map(lambda one: np.stack([one] * length), draws)
        batches = stacked.replace(image=ResidentCrops(pixels, index, config.data.crop))
        state = make_initial_state(config, mesh)
        if seeds > 1:
            batches = stack_seeds([batches] * seeds)
            state = stack_states(config, mesh, [state] * seeds)
        shardings = sharding.batch_sharding(config, mesh, stacked=2 if seeds > 1 else 1)
        self._batches = sharding.shard_batch(batches, shardings)
        self._mean, self._state = make_mean(config, mesh), state

    def dispatch(self) -> None:
        """Begin the steps of a dispatch after those before; return at once."""
        self._state, _ = self._steps(self._state, self._mean, self._batches, self._length)

    def finish(self) -> None:
        """Wait for the steps begun."""
        jax.block_until_ready(self._state)


def make_mean(config: Config, mesh: Mesh) -> Array:
    """Return the mean that `data.mean` selects from a gray image, on the devices."""
    side, channels = config.data.image_size, config.model.channels
    mean = mean_of(np.full((side, side, channels), 120, np.float32), config.data, channels)
    placed: Array = jax.device_put(mean, sharding.replicated(mesh))
    return placed


def make_initial_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the initial training state on the devices."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    state: TrainState = jax.jit(lambda: init_state(config), out_shardings=shardings)()
    return state


def make_random_batch(config: Config) -> Batch:
    """Return a training batch of random images, labels and draws, NumPy arrays."""
    crop, channels, rows = config.data.crop, config.model.channels, config.batch_size
    random = np.random.default_rng(0)
    return Batch(
        image=random.integers(0, 256, (rows, crop, crop, channels), np.uint8),
        label=random.integers(0, config.model.num_classes, rows, np.int32),
        offset=random.integers(0, config.data.image_size - crop + 1, (rows, 2), np.int32),
        flip=random.integers(0, 2, rows).astype(bool),
        shift=random.normal(0, 5, (rows, channels)).astype(np.float32),
        gain=np.ones(rows, np.float32),
        example=np.arange(rows, dtype=np.uint32),
    )
