"""Forms of the layers' ops that compute the same, to be timed on an accelerator.

`FORMS` holds, for each op of `CHOICES`, the forms in the layers and candidates that are in none.
The training step is timed with each in place of the layers' own; whether one is faster has not been
measured. `conv.IMAGE_CONV_TO_FEW` is not among them: the paper's model, in which they are timed,
does not use it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.layers import columns, conv, lrn, pooling
from alexnet_jax.layers.forms import Form, PlatformForms


def convolve_folded(x: Array, kernel: Array, *, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve with stride 1, after folding blocks of stride × stride pixels into channels.

    The kernel is folded alike, and padded with zeros to whole blocks.

    Args:
        x, kernel, stride, padding: see `layers.conv.convolve`.
    """
    size = kernel.shape[0]
    blocks = -(-size // stride)  # along a side of the kernel
    windows = [1 + (side + sum(padding) - size) // stride for side in x.shape[1:3]]
    sides = [(count + blocks - 1) * stride for count in windows]
    before = padding[0]
    zeros = jnp.zeros((), x.dtype)
    pads = [
        (before, side - before - length, 0)  # negative: no window has these pixels
        for side, length in zip(sides, x.shape[1:3], strict=True)
    ]
    x = lax.pad(x, zeros, [(0, 0, 0), *pads, (0, 0, 0)])
    missing = blocks * stride - size
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    return conv.convolve_plain(_fold(x, stride), _fold(kernel[None], stride)[0], 1, (0, 0))


def _fold(x: Array, stride: int) -> Array:
    """Fold blocks of axes 1 and 2 into axis 3, the channels; later axes stay."""
    batch, height, width, channels, *rest = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels, *rest)
    x = jnp.moveaxis(x, 2, 3)  # (batch, rows, columns, stride, stride, channels, …)
    return x.reshape(batch, height // stride, width // stride, stride * stride * channels, *rest)


def convolve_grouped(
    inputs: list[Array], kernel: Array, *, stride: int, padding: tuple[int, int]
) -> list[Array]:
    """Convolve all columns at once, by XLA's convolution with groups of channels.

    Args:
        inputs, kernel, stride, padding: see `layers.columns.convolve_separately`.
    """
    outputs = lax.conv_general_dilated(
        jnp.concatenate(inputs, axis=-1),
        jnp.concatenate(list(kernel), axis=-1),
        (stride, stride),
        (padding, padding),
        dimension_numbers=conv.LAYOUT,
        feature_group_count=len(inputs),
    )
    return jnp.split(outputs, len(inputs), axis=-1)


def sum_by_reduce_window(x: Array, *, axis: int, size: int) -> Array:
    """Sum over windows along an axis by XLA's own operation; see `layers.lrn.sum_shifted`."""
    dimensions = [size if a == axis else 1 for a in range(x.ndim)]
    total: Array = lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add, dimensions, (1,) * x.ndim, "SAME"
    )
    return total


def sum_by_product(x: Array, *, axis: int, size: int) -> Array:
    """Sum over windows along an axis by a product with a band matrix; see `sum_shifted`.

    The product has the highest precision, since the least one rounds what it multiplies.
    """
    position = np.arange(x.shape[axis])
    band = abs(position[:, None] - position) <= size // 2
    product = jnp.tensordot(
        x, band.astype(x.dtype), ((axis,), (0,)), precision=lax.Precision.HIGHEST
    )
    return jnp.moveaxis(product, -1, axis)


def pool_by_reduce_window(x: Array, *, window: int, stride: int) -> Array:
    """Take maxima by XLA's own operation, whose gradient is a select-and-scatter.

    Args:
        x, window, stride: see `layers.pooling.max_pool`.
    """
    overhangs = [-(size - window) % stride for size in x.shape[1:3]]
    maxima: Array = lax.reduce_window(
        x,
        np.array(-np.inf, x.dtype),
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *((0, overhang) for overhang in overhangs), (0, 0)),
    )
    return maxima


# What the layers choose from, and the forms of each by name, first that on accelerators.
CHOICES: dict[str, PlatformForms] = {
    "conv1": conv.IMAGE_CONV,
    "grouped_conv": columns.GROUPED_CONV,
    "kernel_gradient": conv.KERNEL_GRADIENT,
    "lrn": lrn.SUM_ALONG,
    "max_pool": pooling.MAX_POOL,
}
FORMS: dict[str, dict[str, Form]] = {
    "conv1": {
        "plain": conv.convolve_plain,
        # Three channels are 6 bytes of a pixel in bfloat16; GPUs may load 16 bytes at a time.
        "4_channels": partial(conv.convolve_padded, channels=4),
        "8_channels": partial(conv.convolve_padded, channels=8),
        "folded": convolve_folded,
    },
    "grouped_conv": {"separate": columns.convolve_separately, "feature_groups": convolve_grouped},
    "kernel_gradient": {
        "xla": conv.kernel_gradient_by_xla,
        "offsets": conv.kernel_gradient_by_offsets,
    },
    "lrn": {
        "shifted": lrn.sum_shifted,
        "reduce_window": sum_by_reduce_window,
        "product": sum_by_product,
    },
    "max_pool": {
        "at_once": pooling.pool_at_once,
        "by_axis": pooling.pool_by_axis,
        "reduce_window": pool_by_reduce_window,
    },
}


@contextmanager
def use_form(choice: str) -> Iterator[None]:
    """Make the layers use a form on all platforms, in what is traced meanwhile.

    Args:
        choice: op and form, such as "max_pool=by_axis"; "" changes nothing.
    """
    if not choice:
        yield
        return
    op, form = choice.split("=")
    layer = CHOICES[op]
    own = layer.cpu, layer.accelerator
    layer.cpu = layer.accelerator = FORMS[op][form]
    try:
        yield
    finally:
        layer.cpu, layer.accelerator = own
