"""The optimizer: momentum with weight decay as in the paper (section 5), and a limit of filters."""

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

    `optax.sgd` multiplies by ε after the momentum buffer instead. Both are the same at a constant
    rate, but differ after a drop of the rate.

    If ε is 0, w does not change, whatever the value of v; the 2012 program freezes layers in this
    way (src/weights.cu).

    The `update` function of the result takes ε as `learning_rate=`, a tree of scalars, one for
    each parameter. The optimizer state is v.
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


def update_average(config: OptimizerConfig, average: PyTree, params: PyTree, step: Array) -> PyTree:
    """Return the moving average a of the parameters w after a step, a ← d · a + (1 - d) · w.

    The decay d is min(ema_decay, (1 + step) / (10 + step)), less than `ema_decay` in the first
    steps, so that the initial parameters are soon forgotten; TensorFlow's
    ExponentialMovingAverage does the same with `num_updates`.

    Args:
        config: config.optimizer.
        average: the average before the step; empty without averaging.
        params: parameters after the step.
        step: number of steps before it.
    """
    decay = jnp.minimum(jnp.float32(config.ema_decay), (1 + step) / (10 + step))
    return jax.tree.map(lambda a, w: a + (1 - decay) * (w - a), average, params if average else {})


def weight_decay(config: OptimizerConfig, path: str) -> float:
    """Return the weight decay of the parameter at a path such as "conv1/kernel"."""
    decay = config.weight_decay
    for pattern, factor in config.decay_multipliers:
        if re.fullmatch(pattern, path):
            decay *= factor
    return decay


def limit_filters(params: PyTree, max_rms: float, learning_rates: PyTree) -> PyTree:
    """Scale the filters of convolutions whose root mean square exceeds a limit down to it.

    This is the renormalization of Zeiler and Fergus (2013, section 3), which keeps a few filters
    of the first layer from dominating. A filter is the weights of one output channel. Other
    filters, biases, fully-connected layers, and parameters with a learning rate of 0 are returned
    unchanged.

    Args:
        params: parameters. Kernels of convolutions are (height, width, input, output channels),
            or the same with a first axis of columns.
        max_rms: largest root mean square, config.optimizer.max_filter_rms.
        learning_rates: the learning rate of each parameter.
    """

    def limited(kernel: Array, rate: Array) -> Array:
        if kernel.ndim not in (4, 5):
            return kernel
        axes = (-4, -3, -2)
        rms = jnp.sqrt(jnp.mean(jnp.square(kernel), axes, keepdims=True))
        return jnp.where((rms > max_rms) & (rate > 0), kernel * (max_rms / rms), kernel)

    return jax.tree.map(limited, params, learning_rates)
