"""Two-dimensional convolution, with a faster gradient of the kernels on CPUs than XLA's.

On CPUs the gradient of the kernels is computed as a sum of matrix products. XLA computes it as a
convolution of the inputs with the gradient of the outputs, which runs at a quarter to a half of
that rate there. Accelerators use XLA's.
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

from alexnet_jax.layers.arithmetic import add_bias
from alexnet_jax.layers.forms import Form, PlatformForms
from alexnet_jax.layers.parameter import parameter

KernelInit = Callable[[Array, tuple[int, ...], int], Array]  # (key, shape, fan-in) → kernel

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Number of windows in a matrix product: enough for it to run at its full rate, few enough for the
# activations to stay in the CPU's cache for all offsets.
WINDOWS = 1500

# A product with few weights takes more windows, up to this number of multiplications and of
# windows: fewer, larger products run at a higher rate.
MULTIPLICATIONS, MAX_WINDOWS = 2**24, 20_000

# With fewer windows in an image XLA's gradient is as fast. It is faster where rounding the side up
# to a multiple of the stride enlarges the kernels by more than this factor.
MIN_WINDOWS, MAX_ROUNDING = 100, 1.5

# With fewer weights per offset, one matrix product takes a row of offsets; 1×1 kernels, whose rows
# have one offset, take XLA's gradient.
MIN_WEIGHTS = 4096

IMAGE_CHANNELS = 4  # inputs with more channels are taken for activations

# On CPUs XLA convolves RGB to 32 features of 5×5 three times as fast with a fourth channel of
# zeros, and to 16 of 3×3 about as fast. To 48 features or more, and from gray images, it is slower
# so (docs/benchmarks.md, "What was tried").
FEW_FEATURES = 32


class Conv(nn.Module):
    """A convolution; the kernel is (height, width, input channels, output channels).

    Attributes:
        features: number of output channels.
        kernel: side of the kernels in pixels.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.
        kernel_init: initializer of the kernel.
        bias: initial value of the biases; None for a convolution without biases.
        dtype: type of the arithmetic; parameters are float32.
    """

    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    kernel_init: KernelInit
    bias: float | None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return (batch, height, width, output channels) for x with input channels."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        axes = ("conv_height", "conv_width", "conv_inputs", "conv_outputs")
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, prod(shape[:-1]))
        outputs = convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding
        )
        if self.bias is None:
            return outputs
        bias = parameter(self, "bias", axes[-1:], constant(self.bias), (self.features,))
        return add_bias(outputs, bias.astype(self.dtype))


def convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve images or activations with square kernels.

    Args:
        x: (batch, height, width, input channels).
        kernel: (side, side, input channels, output channels), with the type of x.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.

    Returns:
        (batch, height, width, output channels).
    """
    # Inside shard_map the batch is split and the kernels are not. Marking the kernels as varying
    # makes JAX sum their gradients over devices, whichever way the gradient is computed.
    x_axes, kernel_axes = (jax.typeof(array).manual_axis_type.varying for array in (x, kernel))
    if batch_axes := x_axes - kernel_axes:
        kernel = lax.pcast(kernel, tuple(batch_axes), to="varying")
    if kernel.shape[0] == 1 and padding == (0, 0):  # no window has the pixels in between
        x, stride = x[:, ::stride, ::stride], 1
    channels, features = x.shape[-1], kernel.shape[-1]
    form: Form = convolve_plain
    if channels == 3 and features <= FEW_FEATURES:
        form = IMAGE_CONV_TO_FEW
    elif channels <= IMAGE_CHANNELS:
        form = IMAGE_CONV
    outputs: Array = form(x, kernel, stride=stride, padding=padding)
    return outputs


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_plain(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve by XLA's convolution, whatever the number of channels; see `convolve`."""
    return _xla_convolution(x, kernel, stride, padding)


def convolve_padded(
    x: Array, kernel: Array, *, stride: int, padding: tuple[int, int], channels: int
) -> Array:
    """Convolve images after adding channels of zeros to them and to the kernels.

    Args:
        x, kernel, stride, padding: see `convolve`.
        channels: number of channels of the padded images, at least that of the images.
    """
    pads = ((0, 0), (0, 0), (0, channels - x.shape[-1]))
    x = jnp.pad(x, ((0, 0), *pads))
    outputs: Array = convolve_plain(x, jnp.pad(kernel, (*pads, (0, 0))), stride, padding)
    return outputs


def _xla_convolution(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Return XLA's convolution; see `convolve`."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=LAYOUT
    )


def _forward(
    x: Array, kernel: Array, stride: int, padding: tuple[int, int]
) -> tuple[Array, tuple[Array, Array]]:
    """Return the convolution, and what the gradient needs."""
    return _xla_convolution(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: tuple[int, int], residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    """Return the gradients with respect to x and the kernels."""
    x, kernel = residuals
    convolution = partial(_xla_convolution, kernel=kernel, stride=stride, padding=padding)
    (x_gradient,) = jax.linear_transpose(convolution, x)(gradient)
    size = kernel.shape[0]
    height, width, features = gradient.shape[1:]
    is_small = size == 1 and x.shape[-1] * features < MIN_WEIGHTS
    rounding = (-(-size // stride) * stride / size) ** 2
    by_xla = height * width < MIN_WINDOWS or is_small or rounding > MAX_ROUNDING
    form = kernel_gradient_by_xla if by_xla else KERNEL_GRADIENT
    return x_gradient, form(x, gradient, kernel, stride=stride, padding=padding)


convolve_plain.defvjp(_forward, _backward)


def kernel_gradient_by_xla(
    x: Array, gradient: Array, kernel: Array, *, stride: int, padding: tuple[int, int]
) -> Array:
    """Return the gradient of the kernels, from XLA's convolution of x with the gradient.

    Args:
        x, gradient, kernel, stride, padding: see `kernel_gradient_by_offsets`.
    """
    convolution = partial(_xla_convolution, x, stride=stride, padding=padding)
    kernel_gradient: Array = jax.linear_transpose(convolution, kernel)(gradient)[0]
    return kernel_gradient


def kernel_gradient_by_offsets(
    x: Array, gradient: Array, kernel: Array, *, stride: int, padding: tuple[int, int]
) -> Array:
    """Return the gradient of the kernels, from one matrix product for each offset in the window.

        dk[i, j] = sum over images and windows of x[stride · window + (i, j)] ⊗ gradient[window]

    With a stride above 1, blocks of stride × stride pixels are first folded into channels, so
    that windows are one block apart and there are fewer offsets, with more channels each. A few
    images are processed at a time, so that they stay in the CPU's cache for all offsets; more of
    them where the products are small. Where an offset has few weights, one product takes a row of
    offsets, whose pixels become channels. The result is that of `jax.grad` of a plain convolution,
    up to rounding.

    Args:
        x: (batch, height, width, input channels).
        gradient: (batch, output height, output width, output channels), with respect to the
            result of the convolution.
        kernel: the kernels, of which only the shape is used.
        stride, padding: see `convolve`.

    Returns:
        (size, size, input channels, output channels).
    """
    batch, _, _, channels = x.shape
    height, width, features = gradient.shape[1:]
    size = kernel.shape[0]
    blocks = -(-size // stride)  # offsets along a side
    folded = _fold(x, stride, padding, (height + blocks - 1, width + blocks - 1))
    folded_channels = folded.shape[-1]

    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    joined = blocks if folded_channels * features < MIN_WEIGHTS else 1  # offsets per product
    weights = joined * folded_channels * features
    windows = max(WINDOWS, min(MAX_WINDOWS, MULTIPLICATIONS // weights))
    chunk = _largest_divisor(batch, windows // (height * width))

    def add_products(index: Array, total: Array) -> Array:
        pixels = lax.dynamic_slice_in_dim(folded, index * chunk, chunk)
        g = lax.dynamic_slice_in_dim(gradient, index * chunk, chunk).reshape(-1, features)
        if joined > 1:
            pixels = jnp.concatenate([pixels[:, :, j : j + width] for j in range(blocks)], axis=-1)
        products = [
            lax.dot_general(
                pixels[:, i : i + height, j : j + width].reshape(-1, joined * folded_channels),
                g,
                (((0,), (0,)), ((), ())),
                preferred_element_type=sum_dtype,
            )
            for i in range(blocks)
            for j in range(blocks - joined + 1)
        ]
        return total + jnp.stack(products)

    zeros = jnp.zeros((blocks**2 // joined, joined * folded_channels, features), sum_dtype)
    if batch_axes := jax.typeof(gradient).manual_axis_type.varying:  # inside shard_map
        zeros = lax.pcast(zeros, tuple(batch_axes), to="varying")
    total: Array = lax.fori_loop(0, batch // chunk, add_products, zeros)
    return _unfold(total, blocks, stride, channels)[:size, :size].astype(x.dtype)


def _fold(x: Array, stride: int, padding: tuple[int, int], blocks: tuple[int, int]) -> Array:
    """Pad or cut x to `blocks` of stride × stride pixels, and turn each block into a pixel.

    Returns:
        (batch, *blocks, stride² × channels).
    """
    before = padding[0]
    sizes = zip(blocks, x.shape[1:3], strict=True)
    pads = [(before, side * stride - size - before, 0) for side, size in sizes]  # negative: cut off
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    batch, _, _, channels = x.shape
    x = x.reshape(batch, blocks[0], stride, blocks[1], stride, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *blocks, stride**2 * channels)


def _unfold(folded: Array, blocks: int, stride: int, channels: int) -> Array:
    """Return kernels (blocks · stride, blocks · stride, channels, features) of folded pixels.

    Args:
        folded: kernels of blocks × blocks pixels with stride² × channels channels, in any shape
            whose last axis is that of the features.
    """
    features = folded.shape[-1]
    pixels = folded.reshape(blocks, blocks, stride, stride, channels, features)
    side = blocks * stride
    return pixels.transpose(0, 2, 1, 3, 4, 5).reshape(side, side, channels, features)


def _largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is at most `limit`, or 1."""
    return max(d for d in range(1, max(1, min(number, limit)) + 1) if number % d == 0)


# The forms of a convolution of images, which have too few channels for wide loads, of one from RGB
# to few features, and of the gradient of the kernels. Those of IMAGE_CONV are the same until the
# accelerator benchmark, which times others in their place, has been run.
IMAGE_CONV = PlatformForms(cpu=convolve_plain, accelerator=convolve_plain)
IMAGE_CONV_TO_FEW = PlatformForms(
    cpu=partial(convolve_padded, channels=4), accelerator=convolve_plain
)
KERNEL_GRADIENT = PlatformForms(cpu=kernel_gradient_by_offsets, accelerator=kernel_gradient_by_xla)
