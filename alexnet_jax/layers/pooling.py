"""Overlapping max pooling (paper, section 3.4), with its own gradient."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def max_pool(x: Array, window: int, stride: int, *, ceil_mode: bool = True) -> Array:
    """Maximum over windows of window × window, `stride` apart.

    In ceil mode the output is 1 + ceil((size - window) / stride) wide, as in the 2012 program and
    Caffe: a last window that overhangs the edge is cut off there, so no zeros enter a maximum.
    Otherwise windows that overhang are left out, as PyTorch does by default.

    The gradient of a window goes to its first maximum in reading order, as in PyTorch; what is
    not a number counts as larger than any.
    The maximum is taken along the width and then along the height, which finds the same
    first maximum, reads less and never uses XLA's select-and-scatter: that is slow on CPU
    and refused under deterministic execution on GPU.

    Args:
        x: activations (batch, height, width, channels).
        window: pixels a side; stride: pixels between windows, at most `window`.

    Raises:
        ValueError: an image smaller than the window, or a stride that skips pixels.
    """
    if stride > window or min(x.shape[1:3]) < window:
        raise ValueError(
            f"cannot pool {x.shape[1]}×{x.shape[2]} by windows of {window} at stride {stride}: "
            "expected an image as large as the window, and stride at most window"
        )
    if not ceil_mode:
        height, width = (size - (size - window) % stride for size in x.shape[1:3])
        x = x[:, :height, :width]
    for axis in (2, 1):
        x = _pool_axis(x, window, stride, axis, x.shape[axis])
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _pool_axis(x: Array, window: int, stride: int, axis: int, size: int) -> Array:
    return _forward(x, window, stride, axis, size)[0]


def _forward(x: Array, window: int, stride: int, axis: int, size: int) -> tuple[Array, Array]:
    """The maxima along an axis of `size`, and the offset of each in its window (uint8)."""
    count = 1 + -(-(size - window) // stride)
    overhang = (count - 1) * stride + window - size
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min
    pads = [(0, overhang if a == axis else 0) for a in range(x.ndim)]
    padded = jnp.pad(x, pads, constant_values=lowest) if overhang > 0 else x
    maxima = _every(padded, 0, count, stride, axis)
    offsets = jnp.zeros(maxima.shape, jnp.uint8)
    for offset in range(1, window):
        candidate = _every(padded, offset, count, stride, axis)
        larger = (candidate > maxima) | jnp.isnan(candidate)  # so that no NaN disappears
        maxima = jnp.where(larger, candidate, maxima)
        offsets = jnp.where(larger, jnp.uint8(offset), offsets)
    return maxima, offsets


def _backward(
    window: int, stride: int, axis: int, size: int, offsets: Array, gradient: Array
) -> tuple[Array]:
    """The pixels of one phase, those `stride` apart, together; then the phases in turn."""
    count, blocks = gradient.shape[axis], -(-size // stride)
    phases = []
    for phase in range(stride):
        shares = []
        for offset in range(phase, window, stride):
            share = jnp.where(offsets == offset, gradient, 0)
            pads = [(0, 0, 0)] * gradient.ndim
            before = offset // stride
            pads[axis] = (before, blocks - count - before, 0)  # negative: cut off
            shares.append(lax.pad(share, jnp.zeros((), gradient.dtype), pads))
        phases.append(reduce(jnp.add, shares))
    shape = [*gradient.shape[:axis], blocks * stride, *gradient.shape[axis + 1 :]]
    in_turn = jnp.stack(phases, axis + 1).reshape(shape)
    return (lax.slice_in_dim(in_turn, 0, size, axis=axis),)


_pool_axis.defvjp(_forward, _backward)


def _every(x: Array, start: int, count: int, stride: int, axis: int) -> Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
