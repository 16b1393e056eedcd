"""Arithmetic that several layers share: float32 for normalization, matrix products, and biases."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def widen(x: Array) -> Array:
    """Return x as float32, or as it is if its type is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def matmul(x: Array, kernel: Array, sum_dtype: DTypeLike) -> Array:
    """Multiply x (batch, input units) by a kernel (input units, output units) of the same type.

    The gradient of the result is rounded to the type of the factors, so that the products of the
    backward pass have two factors of one type, too. JAX's own gradient multiplies a factor in
    bfloat16 by one in float32 where the sums are float32, which no matrix unit does.

    Args:
        x, kernel: the factors.
        sum_dtype: type in which products are added up, and of the result; at least as wide as that
            of the factors.
    """
    if x.dtype == sum_dtype:
        return x @ kernel
    product: Array = _matmul(x, kernel, sum_dtype)
    return product


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, kernel: Array, sum_dtype: DTypeLike) -> Array:
    """Return x @ kernel in `sum_dtype`; see `matmul`."""
    return jnp.matmul(x, kernel, preferred_element_type=sum_dtype)


def _forward(x: Array, kernel: Array, sum_dtype: DTypeLike) -> tuple[Array, tuple[Array, Array]]:
    """Return the product, and what the gradient needs."""
    return _matmul(x, kernel, sum_dtype), (x, kernel)


def _backward(
    _sum_dtype: DTypeLike, factors: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    """Return the gradients with respect to x and the kernel, in their type."""
    _, multiply_back = jax.vjp(jnp.matmul, *factors)
    x_gradient, kernel_gradient = multiply_back(gradient.astype(factors[0].dtype))
    return x_gradient, kernel_gradient


_matmul.defvjp(_forward, _backward)


def add_bias(x: Array, bias: Array) -> Array:
    """Add a bias (channels,) to activations (…, channels)."""
    return x + lax.expand_dims(bias, range(x.ndim - 1))
