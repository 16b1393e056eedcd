"""Local response normalization: across channels (section 3.3) and within a channel."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax


def lrn(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """Divide each activation by a power of the squares in neighboring channels.

        b_i = a_i / (k + alpha * sum_j a_j^2) ^ beta,   |i - j| <= size // 2

    with the sum cut off at the first and the last channel. The paper has size 5, k 2, alpha
    1e-4, beta 0.75. Caffe, cuda-convnet, ONNX and PyTorch name alpha what is here
    alpha * size; TensorFlow's depth_radius is size // 2.

    Args:
        x: activations (..., channels) of any float type; the arithmetic is float32 or wider.
        size: channels in a window, odd.

    Returns:
        The normalized activations, shape and type of x.

    Raises:
        ValueError: an even size, whose window has no center.
    """
    return _divide(x, (-1,), size, k, alpha, beta)


def within_channel_lrn(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """Divide each activation by a power of the squares around it in its own channel.

    As `lrn`, but the sum is over the size × size activations around each, cut off at the edges.
    The 2012 program has it in layer 2 (`rnorm`, layers/layers-145.cfg), the paper does not.

    Args:
        x: activations (..., height, width, channels) of any float type.
        size: pixels a side of the window, odd.

    Returns and raises as `lrn`.
    """
    return _divide(x, (-3, -2), size, k, alpha, beta)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _divide(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> Array:
    return _forward(x, axes, size, k, alpha, beta)[0]


def _forward(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> tuple[Array, Array]:
    if size % 2 == 0:
        raise ValueError(f"LRN size must be odd, got {size}")
    scale = _scale(x, axes, size, k, alpha)
    return (_wide(x) * _power(scale, -beta)).astype(x.dtype), x


def _backward(
    axes: tuple[int, ...],
    size: int,
    k: float,
    alpha: float,
    beta: float,
    x: Array,
    gradient: Array,
) -> tuple[Array]:
    """d_i = g_i s_i^-beta - 2 alpha beta a_i sum_j g_j a_j s_j^-(beta + 1), s = k + alpha sum a².

    Only x is kept from the forward pass: s costs less to compute again than to store.
    """
    wide, g = _wide(x), _wide(gradient)
    scale = _scale(x, axes, size, k, alpha)
    direct = g * _power(scale, -beta)
    through = _window_sum(direct * wide / scale, axes, size)
    return ((direct - 2 * alpha * beta * wide * through).astype(x.dtype),)


_divide.defvjp(_forward, _backward)


def _scale(x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float) -> Array:
    return k + alpha * _window_sum(jnp.square(_wide(x)), axes, size)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _window_sum(x: Array, axes: tuple[int, ...], size: int) -> Array:
    """Sum over windows of `size` along each of the axes, smaller at both ends."""
    return reduce(lambda total, axis: _sum_along(total, axis % x.ndim, size), axes, x)


def _sum_along(x: Array, axis: int, size: int) -> Array:
    count, reach = x.shape[axis], size // 2
    padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)])
    total = x
    for shift in range(size):
        if shift != reach:
            total = total + lax.slice_in_dim(padded, shift, shift + count, axis=axis)
    return total


def _power(x: Array, exponent: float) -> Array:
    """x ** exponent; the paper's -0.75 by two reciprocal square roots, far cheaper than pow."""
    if exponent == -0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**exponent
