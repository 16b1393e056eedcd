"""Dropout as in the paper (section 4.2): a mask while training, a factor at test."""

import jax
import jax.numpy as jnp
from jax import Array


def dropout(x: Array, rate: float, key: Array, examples: Array) -> Array:
    """Zero each activation with probability `rate`; what survives is not scaled up.

    The mask of an example is a function of the key and its number alone, so it is the same
    in whatever batch and on whatever device the example comes.

    Args:
        x: activations (batch, …).
        key: one key for the op and the column.
        examples: (batch,) integers, the number of each example in the run.
    """

    def keep(example: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, example), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep)(examples), x, 0)


def scale_by_keep_prob(x: Array, rate: float) -> Array:
    """Multiply by the probability of staying: the paper's form of dropout at test."""
    return x * jnp.asarray(1 - rate, x.dtype)


def rescale_kept(x: Array, rate: float) -> Array:
    """Divide what survived `dropout` by the probability of staying: inverted dropout.

    Then nothing is multiplied at test; Caffe's and PyTorch's weights were trained so.
    """
    return x / jnp.asarray(1 - rate, x.dtype)
