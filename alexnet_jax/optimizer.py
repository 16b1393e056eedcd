"""The paper's update rule and its learning rate (section 5)."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from alexnet_jax.errors import InputError


class Plateau(flax.struct.PyTreeNode):
    """What the rule "divide by 10 when the validation error stops improving" remembers.

    Attributes, all scalars:
        drops: how often the rate has been divided.
        best: the lowest validation error so far, a fraction.
        stale: validations since then, or since the last division.
    """

    drops: Array
    best: Array
    stale: Array

    @classmethod
    def start(cls) -> "Plateau":
        """Before the first validation."""
        return cls(jnp.int32(0), jnp.float32(jnp.inf), jnp.int32(0))

    def observe(self, error: float, patience: int) -> "Plateau":
        """After a validation with this error; `patience` stale ones divide the rate."""
        if jnp.float32(error) < self.best:  # in the type of `best`, or 0.4 would beat 0.4
            return self.replace(best=jnp.float32(error), stale=jnp.zeros_like(self.stale))
        stale = self.stale + 1
        if int(stale) < patience:
            return self.replace(stale=stale)
        return self.replace(drops=self.drops + 1, stale=jnp.zeros_like(stale))


def learning_rate(
    config: Mapping[str, Any], images: int, step: Array | int, plateau: Plateau
) -> Array:
    """The rate at a step: config.learning_rate × schedule.factor ^ drops so far.

    Rule "epochs": one drop at the start of each epoch in `drop_epochs`, counted from 1 as in
    the 2012 program's logs. Rule "plateau": as many as it saw fit, at most `drops`.

    Args:
        config: the whole config.
        images: in the training split.
        step: number of updates done.
        plateau: read by the rule "plateau" only.

    Raises:
        InputError: a rule of another name.
    """
    schedule = config["schedule"]
    if schedule["rule"] == "epochs":
        starts = [-(-(e - 1) * images // config["batch_size"]) for e in schedule["drop_epochs"]]
        drops = sum((jnp.asarray(step >= start, jnp.int32) for start in starts), jnp.int32(0))
    elif schedule["rule"] == "plateau":
        drops = jnp.minimum(plateau.drops, schedule["drops"])
    else:
        raise InputError(f"schedule.rule is {schedule['rule']!r}; expected 'epochs' or 'plateau'")
    return config["learning_rate"] * jnp.float32(schedule["factor"]) ** drops


def make_optimizer(momentum: float, weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """The update rule of section 5, with the learning rate ε inside the velocity:

        v ← momentum · v − weight_decay · ε · w − ε · ∂L/∂w
        w ← w + v

    `optax.sgd` keeps ε outside v instead: the same at a constant rate, another step after
    every drop. The decay is on all parameters, biases too; the paper does not spare them.

    The result's `update` takes ε as `learning_rate=`; its state is v.
    """

    def update(updates, state, params=None, *, learning_rate, **_):
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    by_rate = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    return optax.chain(
        optax.add_decayed_weights(weight_decay), by_rate, optax.trace(decay=momentum)
    )
