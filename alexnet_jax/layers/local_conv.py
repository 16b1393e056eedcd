"""Locally-connected layers: convolutions whose weights and biases differ from place to place."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.layers.conv import KernelInit
from alexnet_jax.layers.parameter import parameter


class LocalConv(nn.Module):
    """A locally-connected layer.

    The kernel is (output height, output width, height, width, input channels, output channels), and
    the bias (output height, output width, output channels).

    Attributes:
        features: number of output channels.
        kernel: side of the kernels in pixels.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.
        kernel_init: initializer of the kernel; its fan-in is that of one window.
        bias: initial value of the biases.
        dtype: type of the arithmetic; parameters are float32.
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
        """Return (batch, output height, output width, output channels)."""
        windows = (self.kernel, self.kernel, x.shape[-1])
        places = tuple(
            1 + (side + sum(self.padding) - self.kernel) // self.stride for side in x.shape[1:3]
        )
        axes = ("local_height", "local_width")
        kernel_axes = (*axes, "conv_height", "conv_width", "conv_inputs", "conv_outputs")
        kernel = parameter(
            self,
            "kernel",
            kernel_axes,
            self.kernel_init,
            (*places, *windows, self.features),
            self.kernel**2 * x.shape[-1],
        )
        bias_axes = (*axes, "conv_outputs")
        bias = parameter(self, "bias", bias_axes, constant(self.bias), (*places, self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        outputs = convolve_locally(x, kernel, self.stride, self.padding)
        return outputs + bias.astype(self.dtype)[None]


def convolve_locally(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Apply to every window of x a kernel of its own, as one matrix product for each place.

    Args:
        x: (batch, height, width, input channels).
        kernel: (output height, output width, side, side, input channels, output channels), with the
            type of x.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.

    Returns:
        (batch, output height, output width, output channels).
    """
    height, width, side, _, channels, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    shifted = [
        padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
        for i in range(side)
        for j in range(side)
    ]
    windows = jnp.stack(shifted, axis=3).reshape(len(x), height, width, side**2 * channels)
    weights = kernel.reshape(height, width, side**2 * channels, features)
    places = ((1, 2), (0, 1))  # the batch axes of the product
    product = lax.dot_general(windows, weights, (((3,), (2,)), places))
    return product.transpose(2, 0, 1, 3)
