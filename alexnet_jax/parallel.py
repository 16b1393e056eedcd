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

SCHEMES = ("columns", "one_weird_trick")


def make_mesh(config: Mapping[str, Any]) -> Mesh:
    """A mesh ("data", "column") of parallel.data × parallel.columns devices.

    Raises:
        InputError: more devices wanted than there are, columns or a batch that they do not
            divide, or a scheme that does not exist.
    """
    data, columns = config["parallel"]["data"], config["parallel"]["columns"]
    scheme = config["parallel"]["scheme"]
    if scheme not in SCHEMES:
        raise InputError(f"parallel.scheme is {scheme!r}; expected {' or '.join(SCHEMES)}")
    devices = jax.devices()
    if min(data, columns) < 1 or data * columns > len(devices):
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns} needs {data * columns} devices; "
            f"this machine has {len(devices)} ({devices[0].platform}). Lower them, or simulate "
            "devices on CPU with the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(1, data * columns)}"
        )
    if jax.process_count() > 1 and data * columns != len(devices):
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns} makes {data * columns} devices; "
            f"the {jax.process_count()} processes have {len(devices)}, and all must take part"
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
    if is_weird(config) and columns == 1:
        raise InputError(
            "parallel.scheme=one_weird_trick shares out the columns, and parallel.columns=1 keeps "
            "them together; expected parallel.columns=2, or parallel.scheme=columns"
        )
    if is_weird(config) and config["batch_size"] % (data * columns):
        raise InputError(
            f"batch_size={config['batch_size']} is not a multiple of parallel.data={data} × "
            f"parallel.columns={columns}, which share it under parallel.scheme=one_weird_trick"
        )
    return jax.make_mesh(
        (data, columns),
        ("data", "column"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * columns],
    )


def is_weird(config: Mapping[str, Any]) -> bool:
    """Whether the scheme is "one weird trick"."""
    return config["parallel"]["scheme"] == "one_weird_trick"


def batch_axes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The mesh axes over which the batch of a training step is split."""
    return ("data", "column") if is_weird(config) else ("data",)


def whole_layers(config: Mapping[str, Any]) -> frozenset[str]:
    """The layers of which, while training, every device holds all columns."""
    layers = config["model"]["layers"]
    return frozenset(name for name in layers if is_weird(config) and "kernel" in layers[name])


def data_mesh(batch_size: int) -> Mesh:
    """A mesh for evaluation: whole nets, the batch split over as many devices as divide it."""
    devices = math.gcd(batch_size, len(jax.devices()))
    layout = {"data": devices, "columns": 1, "scheme": "columns"}
    return make_mesh({"parallel": layout, "model": {"columns": 1}, "batch_size": batch_size})


def placement(mesh: Mesh, columns: int) -> Placement:
    """The columns that each device of the mesh holds."""
    here = columns // mesh.shape["column"]
    return Placement(here, "column" if mesh.shape["column"] > 1 else None)


def specs(tree: Any, mesh: Mesh, whole: frozenset[str] = frozenset()) -> Any:
    """How a state is laid out: what has a leading axis of columns is split along it.

    That is every array but scalars and the classifier's bias, which all devices share, and the
    layers that are to be `whole`.
    """
    split = P("column") if mesh.shape["column"] > 1 else P()

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        shared = any(getattr(key, "key", None) in whole for key in path)
        return P() if shared or len(leaf.shape) < 2 else split

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(tree: Any, mesh: Mesh, whole: frozenset[str] = frozenset()) -> Any:
    """`specs` on the devices of the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, mesh, whole))


def template(abstract: Any, mesh: Mesh, whole: frozenset[str] = frozenset()) -> Any:
    """Shapes and types, as `jax.eval_shape` gives them, with their places on the mesh."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        shardings(abstract, mesh, whole),
    )


def batch_sharding(config: Mapping[str, Any], mesh: Mesh) -> NamedSharding:
    """Where the rows of a training batch lie."""
    return NamedSharding(mesh, P(batch_axes(config)))


def local_rows(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """The rows, ascending, of a batch that this process's devices hold under a sharding."""
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def shard_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's `local_rows` of a batch to arrays of all rows; returns at once."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
