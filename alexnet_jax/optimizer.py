"""The update rule of the paper (section 5)."""

import re

import jax
import jax.numpy as jnp
import optax
from jax import Array

from alexnet_jax.config import OptimizerConfig
from alexnet_jax.pytree import KeyPath, PyTree, path_name


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Return the update rule of section 5, with the learning rate ε inside the momentum buffer:

        v ← momentum · v − weight_decay · ε · w − ε · ∂L/∂w
        w ← w + v

    `optax.sgd` keeps ε outside v instead: the same at a constant rate, another step after
    every drop.

    Where ε is 0, w stays as it is from that step on, whatever v still holds: so the 2012 program
    freezes a layer (src/weights.cu).

    The result's `update` takes ε as `learning_rate=`, a scalar for each parameter; its state
    holds v.
    """
    momentum = optax.trace(decay=config.momentum)

    def scaled(path: KeyPath, gradient: Array, param: Array, rate: Array) -> Array:
        decay = weight_decay(config, path_name(path))
        return -rate * (gradient + decay * param if decay else gradient)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        learning_rate: PyTree,
        **_: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        steps = jax.tree_util.tree_map_with_path(scaled, updates, params, learning_rate)
        steps, state = momentum.update(steps, state)
        frozen = jax.tree.map(lambda rate, v: jnp.where(rate > 0, v, 0), learning_rate, steps)
        return frozen, state

    return optax.GradientTransformationExtraArgs(momentum.init, update)


def weight_decay(config: OptimizerConfig, path: str) -> float:
    """Return the weight decay of the parameter at a path such as "conv1/kernel"."""
    decay = config.weight_decay
    for pattern, factor in config.decay_multipliers:
        if re.fullmatch(pattern, path):
            decay *= factor
    return decay
