"""Layers that are split into columns, and the exchanges between columns.

The paper puts half of the kernels on each of two accelerators, which "communicate only in
certain layers" (section 3.2). The layers in this module take and return a list of arrays: the
activations of the columns on this device, channels last. A layer that takes all columns as input
exchanges data in one of two ways, whichever sends less: `cross_columns` gathers the inputs of the
layer, `add_columns` sums the contributions of the columns to its outputs.

The first axis of parameters is that of the columns. It has all columns at initialization and on
one device, and the local columns inside `jax.shard_map` over the mesh axis "column".
"""

from dataclasses import dataclass
from functools import reduce
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.layers.arithmetic import add_bias, matmul
from alexnet_jax.layers.conv import KernelInit, convolve
from alexnet_jax.layers.forms import PlatformForms
from alexnet_jax.layers.parameter import parameter


@dataclass(frozen=True)
class ColumnSharding:
    """The distribution of a model's columns over devices.

    Attributes:
        num_local: number of columns on this device.
        axis_name: mesh axis over which the columns are split; None if all are local.
    """

    num_local: int = 2
    axis_name: str | None = None

    def global_index(self, position: int) -> int | Array:
        """Return the index in the model of the local column at `position`."""
        if self.axis_name is None:
            return position
        return lax.axis_index(self.axis_name) * self.num_local + position

    def num_columns(self) -> int:
        """Return the number of columns of the model."""
        return self.num_local * (1 if self.axis_name is None else lax.axis_size(self.axis_name))


def cross_columns(columns: list[Array], sharding: ColumnSharding) -> Array:
    """Concatenate all columns along the last axis, as the crossing lines of figure 2 show.

    Without an axis name all columns are local and nothing is communicated.
    """
    local = jnp.concatenate(columns, axis=-1) if len(columns) > 1 else columns[0]
    if sharding.axis_name is None:
        return local
    gathered: Array = lax.all_gather(local, sharding.axis_name, axis=-1, tiled=True)
    return gathered


def add_columns(contributions: Array, sharding: ColumnSharding) -> list[Array]:
    """Sum contributions to a layer's outputs over devices; return the local columns.

    Args:
        contributions: (batch, units of all columns), computed from the local columns' inputs.

    Returns:
        The local columns, each (batch, units).
    """
    if sharding.axis_name is not None:
        contributions = lax.psum_scatter(
            contributions, sharding.axis_name, scatter_dimension=1, tiled=True
        )
    return jnp.split(contributions, sharding.num_local, axis=-1)


def all_to_all_columns(columns: list[Array], sharding: ColumnSharding) -> list[Array]:
    """Exchange all columns of this device's examples for local columns of all devices' examples.

    Args:
        columns: every column of the model, each (batch, units).

    Returns:
        The local columns, each (batch × devices of the axis, units), in the order of the devices.
    """
    assert sharding.axis_name is not None
    exchanged = lax.all_to_all(
        jnp.stack(columns), sharding.axis_name, split_axis=0, concat_axis=1, tiled=True
    )
    return list(exchanged)


def gather_batch(examples: Array, sharding: ColumnSharding) -> Array:
    """Return the numbers of the examples of all devices, (batch × devices of the axis,)."""
    assert sharding.axis_name is not None
    gathered: Array = lax.all_gather(examples, sharding.axis_name, tiled=True)
    return gathered


def halo_exchange(columns: list[Array], halo: int, sharding: ColumnSharding) -> Array:
    """Concatenate the local columns, with `halo` channels of the neighboring columns at both ends.

    A normalization across columns needs no more channels. Only these are sent between devices.
    The halos outside the first and the last column of the model are zeros.

    Args:
        columns: the local columns, each (batch, height, width, channels).
        halo: number of channels at each end, at most the channels on a device.

    Returns:
        (batch, height, width, halo + channels of the local columns + halo).

    Raises:
        ValueError: a device has fewer channels than the halo.
    """
    local = jnp.concatenate(columns, axis=-1)
    channels = local.shape[-1]
    if sharding.axis_name is None:
        return jnp.pad(local, [(0, 0)] * (local.ndim - 1) + [(halo, halo)])
    if channels < halo:
        raise ValueError(f"a halo of {halo} channels from devices that hold {channels} each")
    ends = jnp.concatenate([local[..., :halo], local[..., channels - halo :]], axis=-1)
    ends = lax.all_gather(ends, sharding.axis_name)
    ends = jnp.pad(ends, [(1, 1)] + [(0, 0)] * local.ndim)  # zeros for the missing neighbors
    index = lax.axis_index(sharding.axis_name)
    lower = lax.dynamic_index_in_dim(ends, index, keepdims=False)[..., halo:]
    upper = lax.dynamic_index_in_dim(ends, index + 2, keepdims=False)[..., :halo]
    return jnp.concatenate([lower, local, upper], axis=-1)


def convolve_separately(
    columns: list[Array], kernel: Array, *, stride: int, padding: tuple[int, int]
) -> list[Array]:
    """Convolve each column with its own kernels, one column after the other.

    Args:
        columns: (batch, height, width, input channels) each.
        kernel: (columns, side, side, input channels, output channels).
        stride, padding: see `layers.conv.convolve`.
    """
    return [convolve(column, kernel[c], stride, padding) for c, column in enumerate(columns)]


# The forms of a convolution in groups, which are the columns on this device. They are the same
# until the accelerator benchmark, which times others in their place, has been run.
GROUPED_CONV = PlatformForms(cpu=convolve_separately, accelerator=convolve_separately)


class ColumnConv(nn.Module):
    """A convolution per column; the kernel is (columns, height, width, input, output channels).

    Attributes:
        features: number of output channels of a column.
        kernel: side of the kernels in pixels.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.
        takes_all_columns: whether the input of a column is all columns, or its own alone.
        kernel_init: initializer of the kernel.
        bias: initial value of the biases.
        sharding: distribution of the columns over devices.
        dtype: type of the arithmetic; parameters are float32.
    """

    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    takes_all_columns: bool
    kernel_init: KernelInit
    bias: float
    sharding: ColumnSharding
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Map columns (batch, height, width, channels) to columns of the same form."""
        if self.takes_all_columns:
            columns = [cross_columns(columns, self.sharding)] * len(columns)
        num_local, inputs = len(columns), columns[0].shape[-1]
        shape = (num_local, self.kernel, self.kernel, inputs, self.features)
        axes = ("conv_column", "conv_height", "conv_width", "conv_inputs", "conv_outputs")
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, prod(shape[1:-1]))
        kernel = kernel.astype(self.dtype)
        bias_shape = (num_local, self.features)
        bias = parameter(self, "bias", (axes[0], axes[-1]), constant(self.bias), bias_shape)
        bias = bias.astype(self.dtype)
        if all(column is columns[0] for column in columns):  # one input: one convolution
            x, wide = columns[0].astype(self.dtype), jnp.concatenate(list(kernel), axis=-1)
            outputs = jnp.split(convolve(x, wide, self.stride, self.padding), num_local, axis=-1)
        else:
            columns = [column.astype(self.dtype) for column in columns]
            outputs = GROUPED_CONV(columns, kernel, stride=self.stride, padding=self.padding)
        return [add_bias(output, bias[c]) for c, output in enumerate(outputs)]


class ColumnDense(nn.Module):
    """A fully-connected layer per column, for flattened inputs.

    The shape of the kernel depends on what is exchanged:

    - If a column takes only its own units: (columns, its input units, its output units).
    - If it takes all columns and has no more inputs than outputs, the inputs are gathered:
      (columns, input units of all columns, its output units).
    - If it takes all columns and has fewer outputs than inputs, such as fc6, each column
      multiplies its own inputs and the products are summed: (columns, its input units, output
      units of all columns). Then fc6 exchanges 2,048 numbers per image instead of 4,608.

    The attributes are those of `ColumnConv`, with units in place of channels.
    """

    features: int
    takes_all_columns: bool
    kernel_init: KernelInit
    bias: float
    sharding: ColumnSharding
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Map columns (batch, units) to columns of the same form."""
        total, num_local = self.sharding.num_columns(), len(columns)
        local_inputs = columns[0].shape[-1]
        adds = self.takes_all_columns and self.features < local_inputs
        if self.takes_all_columns and not adds:
            columns = [cross_columns(columns, self.sharding)] * num_local
        inputs = columns[0].shape[-1]
        shape = (num_local, inputs, self.features * (total if adds else 1))
        axes = ("dense_column", "dense_inputs", "dense_outputs")
        fan_in = inputs * (total if adds else 1)
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, fan_in)
        kernel = kernel.astype(self.dtype)
        bias_shape = (num_local, self.features)
        bias = parameter(self, "bias", (axes[0], axes[-1]), constant(self.bias), bias_shape)
        bias = bias.astype(self.dtype)
        # All columns at once, since slicing the kernel would copy up to 75 MB on CPUs.
        products = jnp.einsum("cbi,cio->cbo", jnp.stack(columns).astype(self.dtype), kernel)
        if adds:
            products = jnp.stack(add_columns(products.sum(axis=0), self.sharding))
        return list(products + bias[:, None])


class ColumnClassifier(nn.Module):
    """The last layer, whose inputs are split into columns and whose outputs are not.

    Each column multiplies its own units by its part of the kernel (columns, input units,
    classes), and the products are summed. Hence the number of classes need not be a multiple of
    the number of columns, and devices exchange one number per class instead of their units.

    Attributes:
        classes: number of classes.
        scatter: return on each device only the logits of its part of the batch.
        kernel_init, bias, sharding, dtype: see `ColumnConv`.
    """

    classes: int
    kernel_init: KernelInit
    bias: float
    sharding: ColumnSharding
    dtype: DTypeLike = jnp.float32
    scatter: bool = False

    @nn.compact
    def __call__(self, columns: list[Array]) -> Array:
        """Map columns (batch, units) to logits (batch, classes), float32."""
        shape = (len(columns), columns[0].shape[-1], self.classes)
        axes = ("dense_column", "dense_inputs", "classes")
        fan_in = self.sharding.num_columns() * shape[1]
        kernel = parameter(self, "kernel", axes, self.kernel_init, shape, fan_in)
        bias = parameter(self, "bias", axes[-1:], constant(self.bias), (self.classes,))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        products = (
            matmul(column.astype(self.dtype), kernel[c].astype(self.dtype), wide)
            for c, column in enumerate(columns)
        )
        first, *others = (product.astype(jnp.float32) for product in products)
        logits = reduce(jnp.add, others, first)
        if self.sharding.axis_name is not None:
            axis = self.sharding.axis_name
            with jax.named_scope("logits"):
                if self.scatter:
                    logits = lax.psum_scatter(logits, axis, scatter_dimension=0, tiled=True)
                else:
                    logits = lax.psum(logits, axis)
        return add_bias(logits, bias)
