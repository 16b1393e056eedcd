"""Two-dimensional convolution, with its own gradient on CPUs, where XLA's is slow.

On CPUs the gradient of the kernels is a sum of matrix products. XLA's own form of it slides feature
maps as large as the layer's over each other, at a quarter to a half of that rate.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.layers.parameter import parameter

# (key, shape of a layer's kernels, number of inputs that one of its units sums) → kernels
KernelInit = Callable[[Array, tuple[int, ...], int], Array]

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Windows whose products are added up at a time: enough for a matrix product to run at its full
# rate, few enough for their maps to stay in the cache for all offsets.
WINDOWS = 1500

# Below either, XLA's own gradient is as fast: windows of an image, weights of an offset.
MANY_WINDOWS, MANY_WEIGHTS = 100, 4096


class Conv(nn.Module):
    """A convolution with a bias; kernel (height, width, input channels, output channels).

    Attributes:
        features: output channels.
        kernel: pixels a side; stride: pixels between windows.
        padding: pixels of zeros before and after, in both directions.
        kernel_init: of the kernel; `bias` is the initial bias.
        dtype: of the arithmetic; parameters are float32.
    """

    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    kernel_init: KernelInit
    bias: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (batch, height, width, input channels) to the same with output channels."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        axes = ("conv_height", "conv_width", "conv_inputs", "conv_outputs")
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, prod(shape[:-1]))
        bias = parameter(self, "bias", axes[-1:], constant(self.bias), (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return convolve(x, kernel, self.stride, self.padding) + bias


def convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve images or feature maps with square kernels.

    Args:
        x: (batch, height, width, input channels).
        kernel: (side, side, input channels, output channels), of the same type.
        stride: pixels between windows.
        padding: pixels of zeros before and after, in both directions.

    Returns:
        (batch, height, width, output channels).
    """
    # Inside shard_map the batch is split and the kernels are not. Marking the kernels as varying
    # here adds up their gradients over devices once, for every form of the gradient.
    if (
        split := jax.typeof(x).manual_axis_type.varying
        - jax.typeof(kernel).manual_axis_type.varying
    ):
        kernel = lax.pcast(kernel, tuple(split), to="varying")
    return _convolve(x, kernel, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=LAYOUT
    )


def _forward(
    x: Array, kernel: Array, stride: int, padding: tuple[int, int]
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: tuple[int, int], kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    plain = partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=LAYOUT,
    )
    (to_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
    size = kernel.shape[0]

    def by_xla(x: Array, gradient: Array) -> Array:
        transpose = jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)
        to_kernel: Array = transpose(gradient)[0]
        return to_kernel

    def by_offsets(x: Array, gradient: Array) -> Array:
        return kernel_gradient_by_offsets(x, gradient, size, stride, padding)

    rows, columns, outputs = gradient.shape[1:]
    weights = stride**2 * x.shape[-1] * outputs
    if rows * columns < MANY_WINDOWS or weights < MANY_WEIGHTS:
        return to_x, by_xla(x, gradient)
    return to_x, lax.platform_dependent(x, gradient, cpu=by_offsets, default=by_xla)


_convolve.defvjp(_forward, _backward)


def kernel_gradient_by_offsets(
    x: Array, gradient: Array, size: int, stride: int, padding: tuple[int, int]
) -> Array:
    """The gradient of the kernels: one matrix product for each offset in the window.

        dk[i, j] = sum over images and windows of x[stride · window + (i, j)] ⊗ gradient[window]

    With a stride, blocks of stride × stride pixels are first folded into maps, so that the windows
    move by one block and the offsets are fewer and have more maps. The images are taken a few at
    a time, which then stay in the cache for all offsets. Elsewhere `jax.grad` of the plain
    convolution says the same in one operation.

    Args:
        x: (batch, height, width, maps in).
        gradient: (batch, rows, columns, maps out), of the convolution's result.
        size: pixels a side of the kernels; the others as for `convolve`.

    Returns:
        (size, size, maps in, maps out).
    """
    batch, _, _, inputs = x.shape
    rows, columns, outputs = gradient.shape[1:]
    blocks = -(-size // stride)  # offsets a side
    folded = _fold(x, stride, padding, (rows + blocks - 1, columns + blocks - 1))
    maps = folded.shape[-1]

    exact = jnp.promote_types(x.dtype, jnp.float32)  # in which the many products are added up
    some = _divisor(batch, WINDOWS // (rows * columns))  # images at a time

    def of_images(number: int | Array) -> Array:
        pixels = lax.dynamic_slice_in_dim(folded, number * some, some)
        g = lax.dynamic_slice_in_dim(gradient, number * some, some).reshape(-1, outputs)
        products = [
            lax.dot_general(
                pixels[:, i : i + rows, j : j + columns].reshape(-1, maps),
                g,
                (((0,), (0,)), ((), ())),
                preferred_element_type=exact,
            )
            for i in range(blocks)
            for j in range(blocks)
        ]
        return jnp.stack(products)

    total: Array = lax.fori_loop(
        1, batch // some, lambda number, total: total + of_images(number), of_images(0)
    )
    total = total.reshape(blocks, blocks, stride, stride, inputs, outputs)
    whole = total.transpose(0, 2, 1, 3, 4, 5).reshape(
        blocks * stride, blocks * stride, inputs, outputs
    )
    return whole[:size, :size].astype(x.dtype)


def _fold(x: Array, stride: int, padding: tuple[int, int], blocks: tuple[int, int]) -> Array:
    """Padded and cut to `blocks` of stride × stride pixels, each of which becomes a pixel.

    Returns:
        (batch, *blocks, stride² × maps).
    """
    pads = [(padding[0], side * stride - size - padding[0], 0)
            for side, size in zip(blocks, x.shape[1:3], strict=True)]  # fmt: skip
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])  # negative: cut off
    batch, _, _, maps = x.shape
    x = x.reshape(batch, blocks[0], stride, blocks[1], stride, maps)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *blocks, stride**2 * maps)


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is not above `most`, at least 1."""
    return max(d for d in range(1, max(1, min(number, most)) + 1) if number % d == 0)
