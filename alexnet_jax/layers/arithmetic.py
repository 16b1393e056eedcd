"""Arithmetic that several layers share: float32 for normalization, and biases."""

import jax.numpy as jnp
from jax import Array, lax


def widen(x: Array) -> Array:
    """Return x as float32, or as it is if its type is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(x: Array, bias: Array) -> Array:
    """Add a bias (channels,) to activations (…, channels)."""
    return x + lax.expand_dims(bias, range(x.ndim - 1))
