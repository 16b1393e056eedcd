"""Fully-connected layers."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.layers.arithmetic import add_bias, matmul
from alexnet_jax.layers.conv import KernelInit, convolve
from alexnet_jax.layers.parameter import parameter


class Dense(nn.Module):
    """A fully-connected layer with a bias; the kernel is (input units, output units).

    Attributes:
        features: number of output units.
        kernel_init: initializer of the kernel.
        bias: initial value of the biases.
        dtype: type of the factors of the matrix product; parameters are float32.
        output_dtype: type of the product, of its sum with the bias and of the output. With a
            window, the product is first rounded to `dtype`.
        window: side of the squares of pixels to which the layer is applied at every position, as a
            convolution with the same kernel; 0 for flattened inputs.
    """

    features: int
    kernel_init: KernelInit
    bias: float
    dtype: DTypeLike = jnp.float32
    output_dtype: DTypeLike = jnp.float32
    window: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return (batch, output units) for x of shape (batch, input units).

        With a window, x is (batch, height, width, channels), and so is the result.
        """
        axes = ("dense_inputs", "dense_outputs")
        shape = (x.shape[-1] * max(self.window, 1) ** 2, self.features)
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, shape[0])
        bias = parameter(self, "bias", axes[-1:], constant(self.bias), shape[1:])
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.window:
            kernel = kernel.reshape(self.window, self.window, x.shape[-1], self.features)
            product = convolve(x, kernel, stride=1, padding=(0, 0))
        else:
            product = matmul(x, kernel, jnp.promote_types(self.dtype, self.output_dtype))
        return add_bias(product.astype(self.output_dtype), bias.astype(self.output_dtype))
