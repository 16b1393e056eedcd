"""The mesh of devices, and where parameters and batches lie on it.

Every parameter declares logical axes where it is created (`layers/`). A table of rules maps these
names to mesh axes, "data" and "column". Column parallelism and "one weird trick" are two tables.
"""

import math
from typing import TypeVar

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config, ParallelConfig
from alexnet_jax.errors import InputError
from alexnet_jax.layers.columns import ColumnSharding
from alexnet_jax.models.api import Layout
from alexnet_jax.pytree import PyTree

T = TypeVar("T")
Rules = dict[str, str | None]  # logical axis to mesh axis; None for an axis that is not split

COLUMN_RULES: Rules = {
    "conv_column": "column",
    "conv_height": None,
    "conv_width": None,
    "conv_inputs": None,
    "conv_outputs": None,
    "dense_column": "column",
    "dense_inputs": None,
    "dense_outputs": None,
    "classes": None,
}
# The devices of the column axis share the batch of the convolutions, each with all columns.
ONE_WEIRD_TRICK_RULES: Rules = {**COLUMN_RULES, "conv_column": None}


def make_mesh(parallel: ParallelConfig) -> Mesh:
    """Return a mesh ("data", "column") of parallel.data × parallel.columns devices.

    Raises:
        InputError: more devices are wanted than there are, or not all devices of several
            processes.
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
    """Return a mesh for evaluation: whole models, the batch split over devices that divide it."""
    return make_mesh(ParallelConfig(data=math.gcd(batch_size, len(jax.devices()))))


def rules(config: Config) -> Rules:
    """Return the rules of the config's scheme, for training."""
    return ONE_WEIRD_TRICK_RULES if has_batch_sharded_convs(config) else COLUMN_RULES


def has_batch_sharded_convs(config: Config) -> bool:
    """Return whether the scheme is "one weird trick"."""
    return config.parallel.scheme == "one_weird_trick"


def batch_axes(config: Config) -> tuple[str, ...]:
    """Return the mesh axes over which the batch of a training step is split."""
    return ("data", "column") if has_batch_sharded_convs(config) else ("data",)


def make_layout(config: Config, mesh: Mesh, *, training: bool = False) -> Layout:
    """Return how the config's model lies on the mesh.

    Args:
        training: under the config's scheme; evaluation always shares out columns.
    """
    devices = mesh.shape["column"]
    columns = ColumnSharding(config.model.columns() // devices, "column" if devices > 1 else None)
    return Layout(columns, batch_sharded_convs=training and has_batch_sharded_convs(config))


def partition_specs(boxed: PyTree, mesh: Mesh, rules: Rules = COLUMN_RULES) -> PyTree:
    """Return how a tree is laid out on a mesh, by the logical axes of its arrays.

    Args:
        boxed: arrays, or their shapes, in boxes that name their logical axes; what has no box,
            as a step's number, lies on every device.

    Returns:
        A tree of `PartitionSpec` with the structure of the unboxed tree.

    Raises:
        KeyError: a logical axis without a rule.
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
    """Return `partition_specs` on the devices of the mesh."""
    specs = partition_specs(boxed, mesh, rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def with_shardings(boxed: PyTree, mesh: Mesh, rules: Rules = COLUMN_RULES) -> PyTree:
    """Return the unboxed shapes and types of an abstract tree with their places on the mesh."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        meta.unbox(boxed),
        shardings(boxed, mesh, rules),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(config: Config, mesh: Mesh) -> NamedSharding:
    """Return where the rows of a training batch lie."""
    return NamedSharding(mesh, P(batch_axes(config)))


def evaluation_sharding(mesh: Mesh) -> NamedSharding:
    """Return where the rows of an evaluation batch lie."""
    return NamedSharding(mesh, P("data"))


def local_rows(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """Return the rows, ascending, of a batch that this process's devices hold."""
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def shard_batch(batch: T, sharding: NamedSharding) -> T:
    """Turn this process's `local_rows` of a batch into arrays of all rows; returns at once."""
    place = lambda rows: jax.make_array_from_process_local_data(sharding, rows)  # noqa: E731
    placed: T = jax.tree.map(place, batch)
    return placed
