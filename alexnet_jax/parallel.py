"""The mesh of devices, and what lies where on it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.errors import InputError
from alexnet_jax.models.columns import Placement


def make_mesh(config: Mapping[str, Any]) -> Mesh:
    """A mesh ("data", "column") of parallel.data × parallel.columns devices.

    Raises:
        InputError: more devices wanted than there are, or columns or a batch that they do
            not divide.
    """
    data, columns = config["parallel"]["data"], config["parallel"]["columns"]
    devices = jax.devices()
    if min(data, columns) < 1 or data * columns > len(devices):
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns} needs {data * columns} devices; "
            f"this machine has {len(devices)} ({devices[0].platform}). Lower them, or simulate "
            "devices on CPU with the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(1, data * columns)}"
        )
    if config["model"]["columns"] % columns:
        raise InputError(
            f"parallel.columns={columns} devices cannot share model.columns="
            f"{config['model']['columns']} evenly"
        )
    if config["batch_size"] % data:
        raise InputError(
            f"batch_size={config['batch_size']} is not a multiple of parallel.data={data}"
        )
    return jax.make_mesh(
        (data, columns),
        ("data", "column"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * columns],
    )


def data_mesh(batch_size: int) -> Mesh:
    """A mesh for evaluation: whole nets, the batch split over as many devices as divide it."""
    devices = math.gcd(batch_size, len(jax.devices()))
    layout = {"data": devices, "columns": 1}
    return make_mesh({"parallel": layout, "model": {"columns": 1}, "batch_size": batch_size})


def placement(mesh: Mesh, columns: int) -> Placement:
    """The columns that each device of the mesh holds."""
    here = columns // mesh.shape["column"]
    return Placement(here, "column" if mesh.shape["column"] > 1 else None)


def specs(tree: Any, mesh: Mesh) -> Any:
    """How a state is laid out: what has a leading axis of columns is split along it.

    That is every array but scalars and the classifier's bias, which all devices share.
    """
    split = P("column") if mesh.shape["column"] > 1 else P()
    return jax.tree.map(lambda leaf: split if len(leaf.shape) > 1 else P(), tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """`specs` on the devices of the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, mesh))


def template(abstract: Any, mesh: Mesh) -> Any:
    """Shapes and types, as `jax.eval_shape` gives them, with their places on the mesh."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        shardings(abstract, mesh),
    )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch to arrays over the whole mesh; returns at once."""
    sharding = NamedSharding(mesh, P("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
