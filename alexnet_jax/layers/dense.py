"""Fully-connected layers."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.layers.conv import KernelInit
from alexnet_jax.layers.parameter import add_bias, parameter


class Dense(nn.Module):
    """A fully-connected layer with a bias; the kernel is (input units, output units).

    Attributes:
        features: number of output units.
        kernel_init: initializer of the kernel.
        bias: initial value of the biases.
        dtype: type of the matrix product; parameters are float32.
        output_dtype: type of the output and of the sum with the bias.
    """

    features: int
    kernel_init: KernelInit
    bias: float
    dtype: DTypeLike = jnp.float32
    output_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return (batch, output units) for x of shape (batch, input units)."""
        axes = ("dense_inputs", "dense_outputs")
        shape = (x.shape[-1], self.features)
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, shape[0])
        bias = parameter(self, "bias", axes[-1:], constant(self.bias), shape[1:])
        product = (x.astype(self.dtype) @ kernel.astype(self.dtype)).astype(self.output_dtype)
        return add_bias(product, bias.astype(self.output_dtype))
