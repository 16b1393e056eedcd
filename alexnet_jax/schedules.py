"""The schedule of the learning rate, and of the steps that log, validate and save."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config import Config, ScheduleConfig, with_changes
from alexnet_jax.data.epochs import LAST_STEP, Epochs, make_epochs
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import MetricSums
from alexnet_jax.pytree import KeyPath, PyTree, leaves_by_path, path_name


class PlateauState(flax.struct.PyTreeNode):
    """The state of rule "plateau", which drops the rate when the error stops improving.

    Attributes, all scalars:
        drops: number of drops so far.
        best: lowest validation error so far, a fraction.
        stale: number of validations since the lowest error or the last drop.
    """

    drops: Array
    best: Array
    stale: Array

    def observe(self, error: float, patience: int) -> "PlateauState":
        """Return the state after a validation; after `patience` stale ones the rate drops.

        Args:
            error: validation error, a fraction.
            patience: number of stale validations before a drop.
        """
        # Compare in the type of `best`, or an equal error could count as lower.
        if jnp.float32(error) < self.best:
            return self.replace(best=jnp.float32(error), stale=jnp.zeros_like(self.stale))
        stale = self.stale + 1
        if int(stale) < patience:
            return self.replace(stale=stale)
        return self.replace(drops=self.drops + 1, stale=jnp.zeros_like(stale))


def init_schedule_state(schedule: ScheduleConfig) -> PlateauState | None:
    """Return the state before the first validation; None if the rule has no state."""
    if schedule.rule != "plateau":
        return None
    return PlateauState(jnp.int32(0), jnp.float32(jnp.inf), jnp.int32(0))


def learning_rate(
    config: Config, num_images: int, step: Array | int, state: PlateauState | None
) -> Array:
    """Return the rate at a step: learning_rate × schedule.factor ^ number of drops so far.

    With rule "epochs" the rate drops at the start of each epoch in `drop_epochs`, which count
    from 1 as in the logs of the 2012 program. With rule "period" it drops after every `period`
    epochs. With rule "plateau" `state` has the number of drops, of which at most `schedule.drops`
    take effect. In the first `warmup_steps` the rate is multiplied by `warmup_factor`.

    Args:
        config: the config.
        num_images: number of images in the training split.
        step: number of completed updates.
        state: state of rule "plateau"; None for the other rules.
    """
    schedule = config.schedule
    if state is None:
        starts = [_first_step(epoch, num_images, config) for epoch in _drop_epochs(config)]
        drops = jnp.sum(jnp.asarray(step) >= jnp.asarray(starts, jnp.int32), dtype=jnp.int32)
    else:
        drops = jnp.minimum(state.drops, min(schedule.drops, LAST_STEP))
    rate: Array = config.learning_rate * jnp.float32(schedule.factor) ** drops
    if schedule.warmup_steps:
        steps = min(schedule.warmup_steps, LAST_STEP)
        rate *= jnp.where(step < steps, jnp.float32(schedule.warmup_factor), 1)
    return rate


def _drop_epochs(config: Config) -> Sequence[float]:
    """Return the epochs, counted from 1, at whose start the rate drops by the config's rule."""
    schedule = config.schedule
    if schedule.rule == "epochs":
        return schedule.drop_epochs
    return [1 + n * schedule.period for n in range(1, math.ceil(config.epochs / schedule.period))]


def learning_rates(
    config: Config, num_images: int, step: Array | int, rate: Array, params: PyTree
) -> PyTree:
    """Return the learning rate of each parameter at a step, with its multipliers.

    The factor of a pattern is that of its last entry in `schedule.multipliers` whose epoch has
    begun, or 1 before the first. If several patterns match a parameter, their factors are
    multiplied.

    Args:
        config: the config.
        num_images: number of images in the training split.
        step: number of completed updates.
        rate: the rate from `learning_rate`.
        params: parameters, of which only the structure is used.

    Returns:
        A tree of scalars with the structure of `params`.
    """
    entries = sorted(config.schedule.multipliers, key=lambda entry: entry[1])
    patterns = list(dict.fromkeys(pattern for pattern, _, _ in config.schedule.multipliers))

    def parameter_rate(path: KeyPath, _: PyTree) -> Array:
        name, multiplied = path_name(path), rate
        for pattern in patterns:
            if not re.fullmatch(pattern, name):
                continue
            factor: Array | float = 1.0
            for listed, epoch, value in entries:
                if listed == pattern:
                    start = _first_step(epoch, num_images, config)
                    factor = jnp.where(step >= start, jnp.float32(value), factor)
            multiplied = multiplied * factor
        return multiplied

    return jax.tree_util.tree_map_with_path(parameter_rate, params)


def check_patterns(config: Config, params: PyTree) -> None:
    """Raise InputError for a pattern of the config that matches no parameter.

    Args:
        config: the config.
        params: parameters, of which only the structure is used.
    """
    paths = list(leaves_by_path(params))
    for field, entries in (
        ("schedule.multipliers", config.schedule.multipliers),
        ("optimizer.decay_multipliers", config.optimizer.decay_multipliers),
    ):
        for pattern, *_ in entries:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise InputError(
                    f"{field} has the pattern {pattern!r}, which matches no parameter; expected a "
                    f'regular expression such as "{paths[0].rpartition("/")[0]}/.*" for paths of '
                    f"{', '.join(paths)}"
                )


def _first_step(epoch: float, num_images: int, config: Config) -> int:
    """Return the first step that begins at or after the start of an epoch, counted from 1."""
    return make_epochs(config, num_images).first_step(epoch - 1)


def total_steps(config: Config, num_images: int) -> int:
    """Return the number of steps of a run, from config.epochs and config.max_steps."""
    steps = make_epochs(config, num_images).first_step(config.epochs)
    return min(steps, config.max_steps) if config.max_steps else steps


@dataclass(frozen=True)
class StepSchedule:
    """The steps after which to log, to validate and to save.

    Attributes:
        config: the config.
        num_images: number of images in the training split.
    """

    config: Config
    num_images: int

    @property
    def last_step(self) -> int:
        """The last step of the run."""
        return total_steps(self.config, self.num_images)

    @cached_property
    def epochs(self) -> Epochs:
        """The epochs of the run."""
        return make_epochs(self.config, self.num_images)

    def epoch(self, step: int) -> float:
        """Return the number of passes through the training images after a step."""
        return self.epochs.passes(step)

    def ends_epoch(self, step: int) -> bool:
        """Return whether a step completes an epoch; no step, 0, does not."""
        return step > 0 and self.epochs.whole_epochs(step) > self.epochs.whole_epochs(step - 1)

    def ends_validated_epoch(self, step: int) -> bool:
        """Return whether a step completes an epoch after which to validate."""
        completed = self.epochs.whole_epochs(step)
        return self.ends_epoch(step) and completed % self.config.evaluate_every == 0

    def is_validation_step(self, step: int) -> bool:
        """Return whether to validate after a step."""
        return step == self.last_step or self.ends_validated_epoch(step)

    def is_log_step(self, step: int) -> bool:
        """Return whether to record the training metrics after a step."""
        may_stop = self.config.stop_error > 0 and self.ends_epoch(step)
        return step % self.config.log_every == 0 or self.is_validation_step(step) or may_stop

    def is_reached(self, step: int, epoch_sums: MetricSums) -> bool:
        """Return whether a step completes an epoch whose training error is at most `stop_error`.

        Args:
            step: number of completed updates.
            epoch_sums: metric sums of the epoch's steps.
        """
        goal = self.config.stop_error
        if not goal or not self.ends_epoch(step):
            return False
        return epoch_sums.compute()["top1_error"] <= goal

    def last_log_step(self, step: int) -> int:
        """Return the last step up to `step` after which the metrics were recorded; 0 if none.

        The records at the ends of epochs that only `stop_error` causes do not count, since a run
        may have reached `step` without that field, which may change between two calls of main.
        """
        always = StepSchedule(with_changes(self.config, {"stop_error": 0.0}), self.num_images)
        return next((s for s in range(step, 0, -1) if always.is_log_step(s)), 0)

    def is_checkpoint_step(self, step: int) -> bool:
        """Return whether to save a checkpoint after a step."""
        return step % self.config.checkpoint_every == 0 or step == self.last_step

    def next_due(self, step: int, limit: int) -> int:
        """Return the first step after `step` that is due, or `step + limit` if that is sooner."""
        return next((s for s in range(step + 1, step + limit) if self.is_due(s)), step + limit)

    def is_due(self, step: int) -> bool:
        """Return whether to log, to validate or to save after a step."""
        return self.is_log_step(step) or self.is_checkpoint_step(step)
