"""Local response normalization: across channels (section 3.3) and within a channel."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.layers.arithmetic import widen
from alexnet_jax.layers.forms import PlatformForms


def lrn(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """Normalize each activation by the squared activations of neighboring channels.

        b_i = a_i / (k + alpha * sum_j a_j^2) ^ beta,   |i - j| <= size // 2

    The sum is cut off at the first and the last channel. The paper has size 5, k 2, alpha 1e-4
    and beta 0.75. In Caffe, cuda-convnet, ONNX and PyTorch, alpha stands for alpha * size of this
    function; depth_radius of TensorFlow is size // 2.

    Args:
        x: activations (..., channels) of any float type; the arithmetic is float32 or wider.
        size: number of channels in a window, odd.
        k, alpha, beta: parameters of the equation.

    Returns:
        The normalized activations, with the shape and type of x.

    Raises:
        ValueError: the size is even, so that a window has no center.
    """
    return _normalize(x, (-1,), size, k, alpha, beta)


def within_channel_lrn(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """Normalize each activation by the squared activations around it in its channel.

    The equation is that of `lrn`, with the sum over a window of size × size pixels, cut off at
    the edges. The 2012 program has it in layer 2 (`rnorm`, layers/layers-145.cfg); the paper does
    not mention it.

    Args:
        x: activations (..., height, width, channels) of any float type.
        size: side of the window in pixels, odd.
        k, alpha, beta: see `lrn`.

    Returns:
        The normalized activations, with the shape and type of x.

    Raises:
        ValueError: the size is even.
    """
    return _normalize(x, (-3, -2), size, k, alpha, beta)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _normalize(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> Array:
    """Normalize over windows along some axes; see `lrn`."""
    return _forward(x, axes, size, k, alpha, beta)[0]


def _forward(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> tuple[Array, Array]:
    """Return the normalized activations, and x, which the gradient needs."""
    if size % 2 == 0:
        raise ValueError(f"LRN size must be odd, got {size}")
    scale = _scale(x, axes, size, k, alpha)
    return (widen(x) * _power(scale, -beta)).astype(x.dtype), x


def _backward(
    axes: tuple[int, ...],
    size: int,
    k: float,
    alpha: float,
    beta: float,
    x: Array,
    gradient: Array,
) -> tuple[Array]:
    """Return the gradient with respect to the input.

        d_i = g_i s_i^-beta - 2 alpha beta a_i sum_j g_j a_j s_j^-(beta + 1),  s = k + alpha sum a²

    Only x is kept from the forward pass, since it is faster to recompute s than to store it.
    """
    wide, g = widen(x), widen(gradient)
    scale = _scale(x, axes, size, k, alpha)
    direct = g * _power(scale, -beta)
    through = _window_sum(direct * wide / scale, axes, size)
    return ((direct - 2 * alpha * beta * wide * through).astype(x.dtype),)


_normalize.defvjp(_forward, _backward)


def _scale(x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float) -> Array:
    """Return k + alpha · Σ x² over the windows, float32 or wider."""
    return k + alpha * _window_sum(jnp.square(widen(x)), axes, size)


def _window_sum(x: Array, axes: tuple[int, ...], size: int) -> Array:
    """Sum over windows of `size` along each of the axes, cut off at both ends."""
    return reduce(lambda total, axis: SUM_ALONG(total, axis=axis % x.ndim, size=size), axes, x)


def sum_shifted(x: Array, *, axis: int, size: int) -> Array:
    """Sum over windows of `size` along an axis, cut off at both ends, by adding shifted arrays."""
    count, radius = x.shape[axis], size // 2
    padded = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)])
    total = x
    for shift in range(size):
        if shift != radius:
            total = total + lax.slice_in_dim(padded, shift, shift + count, axis=axis)
    return total


# The forms of the sum over neighbors, in the forward pass and in the gradient. They are the same
# until the accelerator benchmark, which times others in their place, has been run.
SUM_ALONG = PlatformForms(cpu=sum_shifted, accelerator=sum_shifted)


def _power(x: Array, exponent: float) -> Array:
    """Return x ** exponent; for the paper's -0.75 by square roots, which are far faster."""
    if exponent == -0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**exponent
