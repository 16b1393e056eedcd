"""Feed the training steps: batches from the host, or draws for images that are on the devices."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import distributed, sharding
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data import resident
from alexnet_jax.data.batch import Batch, BatchArray
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import train_batches
from alexnet_jax.placement import place_images
from alexnet_jax.schedules import StepSchedule
from alexnet_jax.train_step import StepMetrics, TrainState, make_train_step, make_train_steps

MAX_STEPS = 64  # of a dispatch; more would save less than 1 % of the time of the fastest models
MAX_SECONDS = 0.5  # of a dispatch, so that signals are soon answered


def largest_dispatch(device: jax.Device) -> int:
    """Return the largest number of steps of a dispatch, by kind of device.

    CPUs take one, since they run the gradients of convolutions in a loop many times slower.
    """
    return 1 if device.platform == "cpu" else MAX_STEPS


class Dispatch(NamedTuple):
    """The inputs of training steps that are dispatched together.

    Attributes:
        steps: number of steps.
        inputs: arguments of the compiled function after the state and the mean.
    """

    steps: int
    inputs: tuple[Any, ...]


class TrainingInput:
    """The compiled training step, and its inputs on the devices.

    Attributes:
        pixels: images on the devices by name of their split; {} if the host cuts the crops.
        description: a line for the log that states which of them does.
    """

    def __init__(
        self,
        config: Config,
        pack: Pack,
        mesh: Mesh,
        schedule: StepSchedule,
        seeds: Sequence[int] = (),
    ) -> None:
        """Place the images on the devices if they are to be there.

        Args:
            config: config with the number of classes.
            pack: the prepared images.
            mesh: the mesh of devices.
            schedule: the steps of the run, and those after which it logs, validates or saves.
            seeds: see `train_step.make_train_step`; only for images that are on the devices.

        Raises:
            InputError: data.resident=on, and the images do not fit; or a record is damaged.
        """
        self._config, self._pack, self._mesh, self._schedule = config, pack, mesh, schedule
        self._seeds = seeds
        splits = [name for name in ("train", "validation") if name in pack.splits]
        self.pixels, self.description = place_images(config.data, pack, splits, mesh)
        self._max_steps = largest_dispatch(mesh.local_devices[0]) if self.pixels else 1
        self._length = 1  # number of steps of the next dispatch, where nothing is due
        self._dispatched = 0
        make_step = make_train_step if self._max_steps == 1 else make_train_steps
        self._train_step = make_step(config, mesh, schedule.num_images, seeds)
        assert self.pixels or not seeds

    def begin_steps(
        self, state: TrainState, mean: Array, dispatch: Dispatch
    ) -> tuple[TrainState, StepMetrics]:
        """Begin the steps of a dispatch; return the new state and the metrics.

        If there may be several steps, the metrics have an axis of steps, and the second dispatch
        is waited for: it compiles nothing, and its time determines how many steps are dispatched.
        """
        begin = time.perf_counter()
        result: tuple[TrainState, StepMetrics] = self._train_step(state, mean, *dispatch.inputs)
        self._dispatched += 1
        if self._dispatched == 2 and self._max_steps > 1:
            jax.block_until_ready(result[1])
            within = int(MAX_SECONDS * dispatch.steps / (time.perf_counter() - begin))
            self._length = distributed.broadcast_int(min(max(1, within), self._max_steps))
        return result

    def dispatches(self, step: int) -> Iterator[Dispatch]:
        """Yield the dispatches after a step, each while the next is on its way to the devices."""
        current: Dispatch | None = None
        make_dispatches = self._resident_dispatches if self.pixels else self._host_dispatches
        for dispatch in make_dispatches(step):
            if current is not None:
                yield current
            current = dispatch
        if current is not None:
            yield current

    def _host_dispatches(self, step: int) -> Iterator[Dispatch]:
        """Yield dispatches of one step, whose crops the host cuts."""
        config, batch_sharding = self._config, sharding.batch_sharding(self._config, self._mesh)
        for batch in train_batches(
            self._pack,
            config,
            self._schedule.epochs.examples,
            first_step=step,
            last_step=self._schedule.last_step,
            rows=sharding.local_rows(config.batch_size, batch_sharding),
        ):
            yield Dispatch(1, (sharding.shard_batch(batch, batch_sharding),))

    def _resident_dispatches(self, step: int) -> Iterator[Dispatch]:
        """Yield dispatches on resident images, which end where something is due."""
        config, axes = self._config, int(len(self._seeds) > 0)  # of seeds
        of_step, of_steps = (
            sharding.batch_sharding(config, self._mesh, stacked) for stacked in (axes, axes + 1)
        )
        draw = self._make_draw_fn()
        while step < self._schedule.last_step:
            end = self._schedule.next_due(step, self._length)
            batches = draw(range(step, end))
            if self._max_steps == 1:
                yield Dispatch(1, (sharding.shard_batch(batches.step(0), of_step),))
            else:
                padded = pad_steps(batches, self._max_steps)
                placed = sharding.shard_batch(padded, of_steps)
                yield Dispatch(end - step, (placed, np.int32(end - step)))
            step = end

    def _make_draw_fn(self) -> Callable[[range], Batch]:
        """Return the function from steps to their stacked batches, see `resident`."""
        config = self._config
        rows = sharding.local_rows(config.batch_size, sharding.batch_sharding(config, self._mesh))
        draws = [
            resident.make_draw_fn(
                self._pack,
                with_changes(config, {"seed": seed}),
                self._schedule.epochs.examples,
                self.pixels["train"],
                rows,
            )
            for seed in self._seeds or (config.seed,)
        ]
        if not self._seeds:
            return draws[0]
        return lambda steps: stack_seeds([draw(steps) for draw in draws])


def stack_seeds(batches: Sequence[Batch]) -> Batch:
    """Return stacked batches of several seeds as one, with an axis of seeds after that of steps."""

    def stack(*arrays: BatchArray) -> BatchArray:
        if isinstance(arrays[0], Array):  # the resident images
            return arrays[0]
        return np.stack([np.asarray(array) for array in arrays], axis=1)

    stacked: Batch = jax.tree.map(stack, *batches)
    return stacked


def pad_steps(batches: Batch, length: int) -> Batch:
    """Return stacked batches with zeros for steps that are not taken, up to `length` steps."""

    def pad(array: np.ndarray | Array) -> np.ndarray | Array:
        if isinstance(array, Array):  # the resident images
            return array
        zeros = np.zeros((length - len(array), *array.shape[1:]), array.dtype)
        return np.concatenate([array, zeros])

    padded: Batch = jax.tree.map(pad, batches)
    return padded
