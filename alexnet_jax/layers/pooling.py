"""Overlapping max pooling (section 3.4 of the paper) with a custom gradient; average pooling."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.layers.forms import PlatformForms


def max_pool(
    x: Array, window: int, stride: int, *, ceil_mode: bool = True, padding: int = 0
) -> Array:
    """Return the maxima over windows of window × window pixels that are `stride` pixels apart.

    In ceil mode the side of the output is 1 + ceil((size - window) / stride), as in the 2012
    program and Caffe: a last window that overhangs is cut off at the edge, so no zeros enter a
    maximum. Otherwise windows that overhang are omitted, as PyTorch does by default.

    The gradient of a window goes to its first maximum in row-major order, as in PyTorch. NaN
    counts as larger than any number.

    No form of it uses XLA's select-and-scatter, which is slow on CPUs and rejected under
    deterministic execution on GPUs.

    Args:
        x: activations (batch, height, width, channels).
        window: side of the windows in pixels.
        stride: distance between windows in pixels, at most `window`.
        ceil_mode: whether to keep windows that overhang.
        padding: pixels around the activations that are part of windows, but of no maximum.

    Raises:
        ValueError: the activations are smaller than the window, or the stride skips pixels.
    """
    if padding:
        sides = (padding, padding)
        pads = ((0, 0), sides, sides, (0, 0))
        x = jnp.pad(x, pads, constant_values=_lowest(x))
    if stride > window or min(x.shape[1:3]) < window:
        raise ValueError(
            f"cannot pool {x.shape[1]}×{x.shape[2]} by windows of {window} at stride {stride}: "
            "expected activations as large as the window, and a stride of at most the window"
        )
    if not ceil_mode:
        height, width = (size - (size - window) % stride for size in x.shape[1:3])
        x = x[:, :height, :width]
    maxima: Array = MAX_POOL(x, window=window, stride=stride)
    return maxima


def average_pool(x: Array, window: int, stride: int, *, ceil_mode: bool = False) -> Array:
    """Return the means over windows of window × window pixels that are `stride` pixels apart.

    Args:
        x: activations (batch, height, width, channels).
        window: side of the windows in pixels, at most that of the activations.
        stride: distance between windows in pixels.
        ceil_mode: keep windows that overhang, as `max_pool` does, and divide their sum by the
            number of pixels in them, as cuda-convnet does; False omits them.
    """
    counts, pads = [], []
    for size in x.shape[1:3]:
        extent = size - window
        count = 1 + (-(-extent // stride) if ceil_mode else extent // stride)
        starts = stride * np.arange(count)
        counts.append(np.minimum(starts + window, size) - starts)
        pads.append((0, int(starts[-1]) + window - size))  # negative: pixels of no window
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    for axis in (2, 1):
        outputs = len(counts[axis - 1])
        slices = [_strided_slice(x, k, outputs, stride, axis) for k in range(window)]
        x = reduce(jnp.add, slices)
    pixels = (counts[0][:, None] * counts[1]).astype(x.dtype)
    return x / pixels[None, :, :, None]


def adaptive_average_pool(x: Array, size: int) -> Array:
    """Return size × size means over windows that cover the activations, as in PyTorch.

    Window i of n pixels extends from pixel floor(i n / size) to ceil((i + 1) n / size), exclusive.

    Args:
        x: activations (batch, height, width, channels).
        size: side of the output.
    """
    height, width = (_window_means(n, size).astype(x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", height, width, x)


def _window_means(n: int, size: int) -> np.ndarray:
    """Return the matrix (size, n) that takes the means of `adaptive_average_pool`."""
    matrix = np.zeros((size, n))
    for i in range(size):
        first, last = i * n // size, -(-(i + 1) * n // size)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


def pool_by_axis(x: Array, *, window: int, stride: int) -> Array:
    """Take maxima along the width and then along the height.

    This finds the same first maximum as row-major order, with fewer comparisons, and computes each
    pixel of the gradient from those that it needs. It reads and writes an array between the axes.

    Args:
        x, window, stride: see `max_pool`.
    """
    for axis in (2, 1):
        x = _pool_axis(x, window, stride, axis, x.shape[axis])
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _pool_axis(x: Array, window: int, stride: int, axis: int, size: int) -> Array:
    """Return the maxima along an axis of `size` pixels; see `pool_by_axis`."""
    return _axis_forward(x, window, stride, axis, size)[0]


def _axis_forward(x: Array, window: int, stride: int, axis: int, _: int) -> tuple[Array, Array]:
    """Return the maxima, and the offsets that the gradient needs."""
    return _find_maxima(x, window, stride, (axis,))


def _axis_backward(
    window: int, stride: int, axis: int, size: int, offsets: Array, gradient: Array
) -> tuple[Array]:
    """Return the gradient with respect to the input.

    The pixels at distance `stride` from each other, a phase, are computed together, and then the
    phases are interleaved.
    """
    count, blocks = gradient.shape[axis], -(-size // stride)
    phases = []
    for phase in range(stride):
        terms = []
        for offset in range(phase, window, stride):
            term = jnp.where(offsets == offset, gradient, 0)
            pads = [(0, 0, 0)] * gradient.ndim
            shift = offset // stride
            pads[axis] = (shift, blocks - count - shift, 0)  # negative: cut off
            terms.append(lax.pad(term, jnp.zeros((), gradient.dtype), pads))
        phases.append(reduce(jnp.add, terms))
    shape = [*gradient.shape[:axis], blocks * stride, *gradient.shape[axis + 1 :]]
    interleaved = jnp.stack(phases, axis + 1).reshape(shape)
    return (lax.slice_in_dim(interleaved, 0, size, axis=axis),)


_pool_axis.defvjp(_axis_forward, _axis_backward)


def pool_at_once(x: Array, *, window: int, stride: int) -> Array:
    """Take maxima along both axes in one pass over memory, and another one for the gradient.

    Compilers for accelerators fuse all of its comparisons; on CPUs it is slower than by axis.

    Args:
        x, window, stride: see `max_pool`.
    """
    return _pool_axes(x, window, stride, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _pool_axes(x: Array, window: int, stride: int, size: tuple[int, int]) -> Array:
    """Return the maxima along both axes, of `size` pixels; see `pool_at_once`."""
    return _axes_forward(x, window, stride, size)[0]


def _axes_forward(x: Array, window: int, stride: int, _: tuple[int, int]) -> tuple[Array, Array]:
    """Return the maxima, and the offsets that the gradient needs."""
    return _find_maxima(x, window, stride, (1, 2))


def _axes_backward(
    window: int, stride: int, size: tuple[int, int], offsets: Array, gradient: Array
) -> tuple[Array]:
    """Return the gradient with respect to the input: the windows' gradients, spread and added."""
    terms = []
    for number, starts in enumerate(np.ndindex(window, window)):
        term = jnp.where(offsets == number, gradient, 0)
        pads = [
            (start, side - start - (stride * (count - 1) + 1), stride - 1)  # negative: cut off
            for start, side, count in zip(starts, size, gradient.shape[1:3], strict=True)
        ]
        zero = jnp.zeros((), gradient.dtype)
        terms.append(lax.pad(term, zero, [(0, 0, 0), *pads, (0, 0, 0)]))
    return (reduce(jnp.add, terms),)


_pool_axes.defvjp(_axes_forward, _axes_backward)

# The forms of max pooling for windows that cover the activations.
MAX_POOL = PlatformForms(cpu=pool_by_axis, accelerator=pool_at_once)


def _find_maxima(x: Array, window: int, stride: int, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the maxima over windows along axes, and the offset of each in its window.

    An offset is the number of the first maximum in row-major order, an unsigned integer.
    """
    counts = [1 + -(-(x.shape[axis] - window) // stride) for axis in axes]
    pads = [(0, 0)] * x.ndim
    for axis, count in zip(axes, counts, strict=True):
        pads[axis] = (0, max(0, stride * (count - 1) + window - x.shape[axis]))
    padded = jnp.pad(x, pads, constant_values=_lowest(x)) if any(map(any, pads)) else x

    def slices(starts: tuple[int, ...]) -> Array:
        sliced = padded
        for axis, start, count in zip(axes, starts, counts, strict=True):
            sliced = _strided_slice(sliced, start, count, stride, axis)
        return sliced

    first, *others = np.ndindex(*[window] * len(axes))
    maxima = slices(first)
    number_type = np.min_scalar_type(len(others))
    offsets = jnp.zeros(maxima.shape, number_type)
    for number, starts in enumerate(others, start=1):
        candidate = slices(starts)
        larger = (candidate > maxima) | jnp.isnan(candidate)  # NaN must not disappear
        maxima = jnp.where(larger, candidate, maxima)
        offsets = jnp.where(larger, number_type.type(number), offsets)
    return maxima, offsets


def _lowest(x: Array) -> float:
    """Return the lowest number of the type of x."""
    return -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min


def _strided_slice(x: Array, start: int, count: int, stride: int, axis: int) -> Array:
    """Return `count` slices of x along an axis, from `start` on and `stride` apart."""
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
