"""Layers written per column, and the one place where columns meet.

The paper puts half of the kernels on each of two accelerators, which "communicate only in
certain layers" (section 3.2). Here every layer works on a list of columns: those that this
device holds. A column is an array of activities with the maps last. Where a layer sees both
columns they meet in one of two ways, whichever sends less: `cross_columns` gathers what goes
into the layer, `add_columns` adds up what each column contributes to its outputs.

Parameters have a leading axis of columns, all of them at initialisation and on one device,
the local ones inside `jax.shard_map` over the mesh axis "column".
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant
from jax.typing import DTypeLike

from alexnet_jax.errors import InputError
from alexnet_jax.models.convolution import convolve

# (key, shape of all kernels of a layer, how many inputs one of its units adds up) → kernels
KernelInit = Callable[[Array, tuple[int, ...], int], Array]


@dataclass(frozen=True)
class Placement:
    """Which columns are here.

    Attributes:
        local: columns on this device.
        axis_name: the mesh axis over which the others lie; None when all are local.
    """

    local: int = 2
    axis_name: str | None = None

    def index(self, position: int) -> int | Array:
        """The number, in the whole network, of the local column at `position`."""
        if self.axis_name is None:
            return position
        return lax.axis_index(self.axis_name) * self.local + position

    def total(self) -> int:
        """Columns of the whole network."""
        return self.local * (1 if self.axis_name is None else lax.axis_size(self.axis_name))


def cross_columns(columns: list[Array], placement: Placement) -> Array:
    """All columns side by side along the last axis: the crossing lines of the paper's figure 2.

    Without an axis name all columns are local and nothing is communicated.
    """
    here = jnp.concatenate(columns, axis=-1) if len(columns) > 1 else columns[0]
    if placement.axis_name is None:
        return here
    return lax.all_gather(here, placement.axis_name, axis=-1, tiled=True)


def add_columns(contributions: Array, placement: Placement) -> list[Array]:
    """The local columns (batch, units) of a layer's outputs, summed over all columns' inputs.

    Args:
        contributions: (batch, units of all columns), the sum over the local columns' inputs.
    """
    if placement.axis_name is not None:
        contributions = lax.psum_scatter(
            contributions, placement.axis_name, scatter_dimension=1, tiled=True
        )
    return jnp.split(contributions, placement.local, axis=-1)


def trade_batch_for_columns(columns: list[Array], placement: Placement) -> list[Array]:
    """From all columns of this device's examples to the local columns of all devices' examples.

    Args:
        columns: every column of the network, each (batch, units).

    Returns:
        Local columns, each (batch × devices of the axis, units), in the order of the devices.
    """
    assert placement.axis_name is not None
    traded = lax.all_to_all(
        jnp.stack(columns), placement.axis_name, split_axis=0, concat_axis=1, tiled=True
    )
    return list(traded)


def gather_batch(examples: Array, placement: Placement) -> Array:
    """The numbers (batch × devices of the axis,) of all devices' examples, in their order."""
    assert placement.axis_name is not None
    return lax.all_gather(examples, placement.axis_name, tiled=True)


def beside_neighbours(columns: list[Array], reach: int, placement: Placement) -> Array:
    """The local columns side by side, and `reach` maps of the columns beside them at both ends.

    What normalises over the maps of all columns needs no more than these. Beyond the first and
    the last column of the network lie zeros.

    Args:
        columns: (batch, height, width, maps).
        reach: maps at each end, of which only these travel between devices.

    Returns:
        (batch, height, width, reach + maps of the local columns + reach).

    Raises:
        InputError: a device holds fewer maps than `reach`, which would then come from two.
    """
    here = jnp.concatenate(columns, axis=-1)
    maps = here.shape[-1]
    if placement.axis_name is None:
        return jnp.pad(here, [(0, 0)] * (here.ndim - 1) + [(reach, reach)])
    if maps < reach:
        raise InputError(
            f"model.lrn.size={2 * reach + 1} across columns reaches {reach} maps far, and a device "
            f"holds {maps}; lower parallel.columns"
        )
    ends = jnp.concatenate([here[..., :reach], here[..., maps - reach :]], axis=-1)
    ends = lax.all_gather(ends, placement.axis_name)
    ends = jnp.pad(ends, [(1, 1)] + [(0, 0)] * here.ndim)  # nothing before the first device
    index = lax.axis_index(placement.axis_name)
    before = lax.dynamic_index_in_dim(ends, index, keepdims=False)[..., reach:]
    after = lax.dynamic_index_in_dim(ends, index + 2, keepdims=False)[..., :reach]
    return jnp.concatenate([before, here, after], axis=-1)


class ColumnConv(nn.Module):
    """A convolution per column: kernel (columns, height, width, maps in, maps out).

    Attributes:
        features: maps out, of one column.
        kernel: pixels a side; stride: pixels between windows.
        padding: pixels of zeros before and after, in both directions.
        sees_both: whether the input is all columns or the own one.
        kernel_init: of one column's kernel; `bias` is the initial bias.
        dtype: of the arithmetic; parameters are float32.
    """

    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    sees_both: bool
    kernel_init: KernelInit
    bias: float
    placement: Placement
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Columns (batch, height, width, maps) to columns of the same form."""
        if self.sees_both:
            columns = [cross_columns(columns, self.placement)] * len(columns)
        local, inputs = len(columns), columns[0].shape[-1]
        shape = (local, self.kernel, self.kernel, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, prod(shape[1:-1]))
        kernel = kernel.astype(self.dtype)
        bias = self.param("bias", constant(self.bias), (local, self.features)).astype(self.dtype)
        if all(column is columns[0] for column in columns):  # they see the same: one convolution
            seen, whole = columns[0].astype(self.dtype), jnp.concatenate(list(kernel), axis=-1)
            maps = jnp.split(convolve(seen, whole, self.stride, self.padding), local, axis=-1)
        else:
            maps = [
                convolve(column.astype(self.dtype), kernel[c], self.stride, self.padding)
                for c, column in enumerate(columns)
            ]
        return [one + bias[c] for c, one in enumerate(maps)]


class ColumnDense(nn.Module):
    """A fully-connected layer per column, each flattened as (height, width, maps).

    Where it sees its own column, the kernel is (columns, units in, units out of a column).
    Where it sees both and has no more inputs than outputs, its inputs are gathered and the
    kernel is (columns, units in of all columns, units out of a column). Where it has fewer
    outputs, as fc6, each column multiplies its own inputs, the kernel is (columns, units in of a
    column, units out of all columns), and the products are added up: 2,048 numbers an image
    travel in place of 4,608.

    Attributes are those of `ColumnConv`.
    """

    features: int
    sees_both: bool
    kernel_init: KernelInit
    bias: float
    placement: Placement
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, columns: list[Array]) -> list[Array]:
        """Columns (batch, units) to columns of the same form."""
        total, local, own = self.placement.total(), len(columns), columns[0].shape[-1]
        adds = self.sees_both and self.features < own
        if self.sees_both and not adds:
            columns = [cross_columns(columns, self.placement)] * local
        inputs = columns[0].shape[-1]
        shape = (local, inputs, self.features * (total if adds else 1))
        fan_in = inputs * (total if adds else 1)
        kernel = self.param("kernel", self.kernel_init, shape, fan_in).astype(self.dtype)
        bias = self.param("bias", constant(self.bias), (local, self.features)).astype(self.dtype)
        # Of all columns at once: a slice of the kernel would be a copy of up to 75 MB on CPUs.
        products = jnp.einsum("cbi,cio->cbo", jnp.stack(columns).astype(self.dtype), kernel)
        if adds:
            products = jnp.stack(add_columns(products.sum(axis=0), self.placement))
        return list(products + bias[:, None])


class Classifier(nn.Module):
    """The last layer, one for all columns, split by its input.

    Each column contributes the product of its own units, (columns, units in, classes), and
    the contributions are added up: so any number of classes, odd ones too, fits any number
    of columns, and the devices exchange one number a class instead of a column of units.

    Attributes:
        scatter: give each device of the placement's axis the logits of its share of the batch
            instead of all of them.
    """

    classes: int
    kernel_init: KernelInit
    bias: float
    placement: Placement
    dtype: DTypeLike = jnp.float32
    scatter: bool = False

    @nn.compact
    def __call__(self, columns: list[Array]) -> Array:
        """Columns (batch, units) to logits (batch, classes), float32."""
        shape = (len(columns), columns[0].shape[-1], self.classes)
        fan_in = self.placement.total() * shape[1]
        kernel = self.param("kernel", self.kernel_init, shape, fan_in)
        bias = self.param("bias", constant(self.bias), (self.classes,))
        logits = sum(
            (column.astype(self.dtype) @ kernel[c].astype(self.dtype)).astype(jnp.float32)
            for c, column in enumerate(columns)
        )
        if self.placement.axis_name is not None:
            axis = self.placement.axis_name
            with jax.named_scope("logits"):
                if self.scatter:
                    logits = lax.psum_scatter(logits, axis, scatter_dimension=0, tiled=True)
                else:
                    logits = lax.psum(logits, axis)
        return logits + bias
