"""The training step of a config on random images, ready to be timed."""

import jax
import numpy as np

from alexnet_jax import sharding
from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch
from alexnet_jax.inputs import mean_of
from alexnet_jax.train_step import TrainState, abstract_state, init_state, make_train_step


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
        side, channels = config.data.image_size, config.model.channels
        mean = mean_of(np.full((side, side, channels), 120, np.float32), config.data, channels)
        self._mean = jax.device_put(mean, sharding.replicated(mesh))
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
        self._state: TrainState = jax.jit(lambda: init_state(config), out_shardings=places)()

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
