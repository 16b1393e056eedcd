"""The training step of a config on random images, ready to be timed."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import parallel, train


class TrainStep:
    """One step after another on the config's mesh, from the initial state, on the same batch."""

    def __init__(self, config: ConfigDict) -> None:
        """Place state and batch; the step itself compiles at its first call.

        Args:
            config: with its number of classes.

        Raises:
            InputError: too few devices, or a batch that they cannot share.
        """
        mesh = parallel.make_mesh(config)
        self._step = train.make_train_step(config, mesh, images=10**6)
        crop, channels, rows = config.data.crop, config.model.channels, config.batch_size
        random = np.random.default_rng(0)
        side = config.data.image_size
        self._batch = parallel.shard_batch(
            {
                "image": random.integers(0, 256, (rows, crop, crop, channels), np.uint8),
                "label": random.integers(0, config.model.classes, rows, np.int32),
                "offset": random.integers(0, side - crop + 1, (rows, 2), np.int32),
                "flip": random.integers(0, 2, rows).astype(bool),
                "shift": random.normal(0, 5, (rows, channels)).astype(np.float32),
                "gain": np.ones(rows, np.float32),
                "example": np.arange(rows, dtype=np.uint32),
            },
            parallel.batch_sharding(config, mesh),
        )
        mean = np.full((side, side, channels), 120, np.float32)
        self._mean = jax.device_put(mean, NamedSharding(mesh, P()))
        abstract = jax.eval_shape(lambda: train.init_state(config))
        places = parallel.shardings(abstract, mesh, parallel.whole_layers(config))
        self._state: Any = jax.jit(lambda: train.init_state(config), out_shardings=places)()

    def dispatch(self) -> None:
        """Begin a step, after those before; returns at once."""
        self._state, _ = self._step(self._state, self._mean, self._batch)

    def finish(self) -> None:
        """Wait for the steps begun."""
        jax.block_until_ready(self._state)

    def __call__(self) -> None:
        """A step to its end."""
        self.dispatch()
        self.finish()
