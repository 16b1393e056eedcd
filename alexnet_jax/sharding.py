"""The mesh of devices, and the shardings of parameters and batches.

Every parameter is created with logical axes (`layers/`). Rules map these to the mesh axes "data"
and "column". Column parallelism and "one weird trick" have different rules.
"""

import math
from typing import TypeVar

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config, ParallelConfig
from alexnet_jax.data.batch import Batch, BatchArray, ResidentCrops
from alexnet_jax.errors import InputError
from alexnet_jax.layers.columns import ColumnSharding
from alexnet_jax.models.api import Layout
from alexnet_jax.pytree import PyTree

T = TypeVar("T")
Rules = dict[str, str | None]  # mesh axis by logical axis; None for an axis that is not split

COLUMN_RULES: Rules = {
    "conv_column": "column",
    "conv_height": None,
    "conv_width": None,
    "conv_inputs": None,
    "conv_outputs": None,
    "local_height": None,
    "local_width": None,
    "dense_column": "column",
    "dense_inputs": None,
    "dense_outputs": None,
    "classes": None,
}
# Convolutions have all columns on every device, and the batch is split over the column axis, too.
ONE_WEIRD_TRICK_RULES: Rules = {**COLUMN_RULES, "conv_column": None}


def make_mesh(parallel: ParallelConfig) -> Mesh:
    """Return a mesh ("data", "column") of parallel.data × parallel.columns devices.

    Raises:
        InputError: there are too few devices, or with several processes not all are used.
    """
    data, columns = parallel.data, parallel.columns
    devices = jax.devices()
    if data * columns > len(devices):
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns} needs {data * columns} devices; "
            f"this machine has {len(devices)} ({devices[0].platform}). Lower them, or simulate "
            "devices on CPU with the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={data * columns}"
        )
    if jax.process_count() > 1 and data * columns != len(devices):
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns} makes {data * columns} devices; "
            f"the {jax.process_count()} processes have {len(devices)}, and all must take part"
        )
    return jax.make_mesh(
        (data, columns),
        ("data", "column"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * columns],
    )


def make_data_mesh(batch_size: int) -> Mesh:
    """Return a mesh for evaluation with all columns on each device and the batch split over them.

    The number of devices is the largest divisor of both the batch size and all devices.
    """
    return make_mesh(ParallelConfig(data=math.gcd(batch_size, len(jax.devices()))))


def rules(config: Config) -> Rules:
    """Return the rules for training with the config's scheme."""
    return ONE_WEIRD_TRICK_RULES if has_batch_sharded_convs(config) else COLUMN_RULES


def has_batch_sharded_convs(config: Config) -> bool:
    """Return whether the scheme is "one weird trick"."""
    return config.parallel.scheme == "one_weird_trick"


def batch_axes(config: Config) -> tuple[str, ...]:
    """Return the mesh axes over which the batch of a training step is split."""
    return ("data", "column") if has_batch_sharded_convs(config) else ("data",)


def make_layout(config: Config, mesh: Mesh, *, training: bool = False) -> Layout:
    """Return the layout of the config's model on the mesh.

    Args:
        config: the config.
        mesh: the mesh of devices.
        training: use the config's scheme; evaluation always splits the columns.
    """
    devices = mesh.shape["column"]
    columns = ColumnSharding(config.model.columns() // devices, "column" if devices > 1 else None)
    if not training:
        return Layout(columns)
    return Layout(columns, has_batch_sharded_convs(config), batch_axes(config))


def partition_specs(boxed: PyTree, mesh: Mesh, rules: Rules = COLUMN_RULES) -> PyTree:
    """Return the partition specs of the arrays of a tree from their logical axes.

    Args:
        boxed: tree of arrays or shapes, boxed with their logical axes; leaves without a box are
            replicated.
        mesh: the mesh of devices.
        rules: mesh axis by logical axis.

    Returns:
        A tree of `PartitionSpec` with the structure of the unboxed tree.

    Raises:
        KeyError: a logical axis has no rule.
    """

    def spec(leaf: PyTree) -> P:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return P()
        axes = [rules[str(name)] for name in leaf.names]
        split = [axis if axis and mesh.shape[axis] > 1 else None for axis in axes]
        while split and split[-1] is None:
            split.pop()
        return P(*split)

    return jax.tree.map(spec, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def shardings(boxed: PyTree, mesh: Mesh, rules: Rules = COLUMN_RULES) -> PyTree:
    """Return the shardings on the mesh for `partition_specs`."""
    specs = partition_specs(boxed, mesh, rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def with_shardings(boxed: PyTree, mesh: Mesh, rules: Rules = COLUMN_RULES) -> PyTree:
    """Return the unboxed shapes and types of an abstract tree with shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        meta.unbox(boxed),
        shardings(boxed, mesh, rules),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, P())


def batch_sharding(config: Config, mesh: Mesh, stacked: int = 0) -> NamedSharding:
    """Return the sharding of a training batch, or of several that are stacked.

    Args:
        config: the config.
        mesh: the mesh of devices.
        stacked: number of axes before that of the batch, such as one of steps.
    """
    return NamedSharding(mesh, P(*[None] * stacked, batch_axes(config)))


def evaluation_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an evaluation batch."""
    return NamedSharding(mesh, P("data"))


def local_rows(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """Return the rows of a batch, ascending, for the devices of this process."""
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def shard_batch(batch: T, sharding: NamedSharding) -> T:
    """Return a batch on the devices from this process's `local_rows`, without waiting for it.

    Images that are on the devices already stay as they are.
    """

    def place(rows: BatchArray) -> Array:
        if isinstance(rows, Array):
            return rows
        placed: Array = jax.make_array_from_process_local_data(sharding, rows)
        return placed

    sharded: T = jax.tree.map(place, batch)
    return sharded


def batch_specs(batch: Batch, axes: tuple[str, ...]) -> Batch:
    """Return the partition specs of the arrays of a batch whose examples are split over axes."""
    specs: Batch = jax.tree.map(lambda _: P(axes), batch)
    if isinstance(specs.image, ResidentCrops):
        specs = specs.replace(image=specs.image.replace(pixels=P()))
    return specs
