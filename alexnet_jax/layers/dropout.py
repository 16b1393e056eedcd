"""Dropout as in the paper (section 4.2): a mask while training, a factor at test time."""

import jax
import jax.numpy as jnp
from jax import Array


def dropout(x: Array, rate: float, key: Array, examples: Array) -> Array:
    """Set each activation to zero with probability `rate`, and leave the others unscaled.

    The mask of an example is a function of the key and the number of the example only. Hence it
    does not depend on the batch or the device of the example.

    Args:
        x: activations (batch, …).
        rate: probability of dropping an activation.
        key: key of the op and the column.
        examples: (batch,) integers, number of each example in the run.
    """

    def keep(example: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, example), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep)(examples), x, 0)


def scale_by_keep_prob(x: Array, rate: float) -> Array:
    """Multiply by the probability of being kept, as the paper does at test time."""
    return x * jnp.asarray(1 - rate, x.dtype)


def rescale_kept(x: Array, rate: float) -> Array:
    """Divide the output of `dropout` by the probability of being kept (inverted dropout).

    Inverted dropout needs no factor at test time. Weights of Caffe and PyTorch are trained with
    it.
    """
    return x / jnp.asarray(1 - rate, x.dtype)
