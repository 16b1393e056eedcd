"""Layers per column, and the exchanges between columns.

The paper puts half of the kernels on each of two accelerators, which "communicate only in
certain layers" (section 3.2). Here such a layer works on a list of columns: those that this
device holds. A column is an array of activations with the channels last. Where a layer sees all
columns they meet in one of two ways, whichever sends less: `cross_columns` gathers the inputs of
the layer, `add_columns` adds up what each column contributes to its outputs.

Parameters have a leading axis of columns: all of them at initialization and on one device,
the local ones inside `jax.shard_map` over the mesh axis "column".
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

from alexnet_jax.layers.conv import KernelInit, convolve
from alexnet_jax.layers.parameter import parameter


@dataclass(frozen=True)
class ColumnSharding:
    """Which columns of a model are on this device.

    Attributes:
        num_local: columns on this device.
        axis_name: the mesh axis over which the others lie; None when all are local.
    """

    num_local: int = 2
    axis_name: str | None = None

    def global_index(self, position: int) -> int | Array:
        """Return the number, in the whole model, of the local column at `position`."""
        if self.axis_name is None:
            return position
        return lax.axis_index(self.axis_name) * self.num_local + position

    def num_columns(self) -> int:
        """Return the number of columns of the whole model."""
        return self.num_local * (1 if self.axis_name is None else lax.axis_size(self.axis_name))


def cross_columns(columns: list[Array], sharding: ColumnSharding) -> Array:
    """Put all columns side by side along the last axis: the crossing lines of figure 2.

    Without an axis name all columns are local and nothing is communicated.
    """
    here = jnp.concatenate(columns, axis=-1) if len(columns) > 1 else columns[0]
    if sharding.axis_name is None:
        return here
    gathered: Array = lax.all_gather(here, sharding.axis_name, axis=-1, tiled=True)
    return gathered


def add_columns(contributions: Array, sharding: ColumnSharding) -> list[Array]:
    """Sum a layer's outputs over all columns' inputs; return the local columns (batch, units).

    Args:
        contributions: (batch, units of all columns), the sum over the local columns' inputs.
    """
    if sharding.axis_name is not None:
        contributions = lax.psum_scatter(
            contributions, sharding.axis_name, scatter_dimension=1, tiled=True
        )
    return jnp.split(contributions, sharding.num_local, axis=-1)


def all_to_all_columns(columns: list[Array], sharding: ColumnSharding) -> list[Array]:
    """Trade all columns of this device's examples for local columns of all devices' examples.

    Args:
        columns: every column of the model, each (batch, units).

    Returns:
        Local columns, each (batch × devices of the axis, units), in the order of the devices.
    """
    assert sharding.axis_name is not None
    traded = lax.all_to_all(
        jnp.stack(columns), sharding.axis_name, split_axis=0, concat_axis=1, tiled=True
    )
    return list(traded)


def gather_batch(examples: Array, sharding: ColumnSharding) -> Array:
    """Return the numbers (batch × devices of the axis,) of all devices' examples, in order."""
    assert sharding.axis_name is not None
    gathered: Array = lax.all_gather(examples, sharding.axis_name, tiled=True)
    return gathered


def halo_exchange(columns: list[Array], reach: int, sharding: ColumnSharding) -> Array:
    """Put the local columns side by side, with `reach` neighboring channels at both ends.

    A normalization over the channels of all columns needs no more than these. Beyond the first
    and the last column of the model lie zeros.

    Args:
        columns: (batch, height, width, channels).
        reach: channels at each end, of which only these travel between devices; at most the
            channels of a device.

    Returns:
        (batch, height, width, reach + channels of the local columns + reach).
    """
    here = jnp.concatenate(columns, axis=-1)
    channels = here.shape[-1]
    if sharding.axis_name is None:
        return jnp.pad(here, [(0, 0)] * (here.ndim - 1) + [(reach, reach)])
    if channels < reach:
        raise ValueError(f"a halo of {reach} channels from devices that hold {channels} each")
    ends = jnp.concatenate([here[..., :reach], here[..., channels - reach :]], axis=-1)
    ends = lax.all_gather(ends, sharding.axis_name)
    ends = jnp.pad(ends, [(1, 1)] + [(0, 0)] * here.ndim)  # nothing before the first device
    index = lax.axis_index(sharding.axis_name)
    before = lax.dynamic_index_in_dim(ends, index, keepdims=False)[..., reach:]
    after = lax.dynamic_index_in_dim(ends, index + 2, keepdims=False)[..., :reach]
    return jnp.concatenate([before, here, after], axis=-1)


class ColumnConv(nn.Module):
    """A convolution per column; kernel (columns, height, width, input, output channels).

    Attributes:
        features: output channels, of one column.
        kernel: pixels a side; stride: pixels between windows.
        padding: pixels of zeros before and after, in both directions.
        sees_all: whether each column's input is all columns, or its own.
        kernel_init: of one column's kernel; `bias` is the initial bias.
        dtype: of the arithmetic; parameters are float32.
    """

    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    sees_all: bool
    kernel_init: KernelInit
    bias: float
    sharding: ColumnSharding
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Map columns (batch, height, width, channels) to columns of the same form."""
        if self.sees_all:
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
            outputs = [
                convolve(column.astype(self.dtype), kernel[c], self.stride, self.padding)
                for c, column in enumerate(columns)
            ]
        return [output + bias[c] for c, output in enumerate(outputs)]


class ColumnDense(nn.Module):
    """A fully-connected layer per column; feature maps arrive flattened.

    Where a column sees itself alone, the kernel is (columns, its input units, its output units).
    Where it sees all columns and has no more inputs than outputs, its inputs are gathered and the
    kernel is (columns, input units of all columns, its output units). Where it has fewer outputs,
    as fc6, each column multiplies its own inputs, the kernel is (columns, its input units, output
    units of all columns), and the products are added up: 2,048 numbers an image are exchanged in
    place of 4,608.

    Attributes are those of `ColumnConv`.
    """

    features: int
    sees_all: bool
    kernel_init: KernelInit
    bias: float
    sharding: ColumnSharding
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Map columns (batch, units) to columns of the same form."""
        total, num_local, own = self.sharding.num_columns(), len(columns), columns[0].shape[-1]
        adds = self.sees_all and self.features < own
        if self.sees_all and not adds:
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
        # Of all columns at once: a slice of the kernel would be a copy of up to 75 MB on CPUs.
        products = jnp.einsum("cbi,cio->cbo", jnp.stack(columns).astype(self.dtype), kernel)
        if adds:
            products = jnp.stack(add_columns(products.sum(axis=0), self.sharding))
        return list(products + bias[:, None])


class ColumnClassifier(nn.Module):
    """The last layer, one for all columns, split by its input.

    Each column contributes the product of its own units, (columns, input units, classes), and
    the contributions are added up: so any number of classes, odd ones too, fits any number
    of columns, and the devices exchange one number a class instead of a column of units.

    Attributes:
        scatter: give each device of the axis the logits of its share of the batch instead of all
            of them; the others as in `ColumnConv`.
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
        first, *others = (
            (column.astype(self.dtype) @ kernel[c].astype(self.dtype)).astype(jnp.float32)
            for c, column in enumerate(columns)
        )
        logits = reduce(jnp.add, others, first)
        if self.sharding.axis_name is not None:
            axis = self.sharding.axis_name
            with jax.named_scope("logits"):
                if self.scatter:
                    logits = lax.psum_scatter(logits, axis, scatter_dimension=0, tiled=True)
                else:
                    logits = lax.psum(logits, axis)
        return logits + bias
