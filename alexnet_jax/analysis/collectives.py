"""List the collectives of a training step: their layers, mesh axes and bytes."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.analysis.summary import abstract_activations
from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch, training_batch_spec
from alexnet_jax.models.ops import Conv, Dense
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.train_step import TrainState, abstract_state, make_train_step

# For each kind, the share of the larger of operand and result that a device in a group of n
# receives.
RECEIVED = {
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
}
UNSUPPORTED = ("collective_permute", "collective_broadcast")  # not used by this program
OTHER_SCOPES = ("logits", "loss")


@dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        layer: layer that uses the result, conv1 … fc8, or "logits", or "loss" (with the counts of
            errors).
        kind: name in StableHLO, such as "all_gather".
        axis: mesh axis, "data" or "column", or "data+column" for both at once.
        direction: "forward" or "backward".
        bytes: bytes that a device receives in a step with ring algorithms. An all-reduce receives
            the part that the device does not have twice, other kinds receive it once.
        minimum: least number of bytes that a device must receive. Between columns, this is the
            smaller of the bytes for gathering the layer's inputs and for scattering its summed
            outputs, in the type of the arithmetic. For other exchanges it equals `bytes`.
        dtype: type of the numbers.
    """

    layer: str
    kind: str
    axis: str
    direction: str
    bytes: int
    minimum: int
    dtype: str


def lower_train_step(config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """Return the lowered training step, before a backend compiles it; nothing is computed.

    Args:
        config, mesh: see `abstract_train_step`.
    """
    step, arguments = abstract_train_step(config, mesh)
    return step.lower(*arguments)


def abstract_train_step(
    config: Config, mesh: Mesh
) -> tuple[jax.stages.Wrapped, tuple[TrainState, jax.ShapeDtypeStruct, Batch]]:
    """Return the jitted training step and its abstract arguments.

    Args:
        config: config with the number of classes. The images are assumed to be as large as the
            crop.
        mesh: the mesh of devices.

    Returns:
        The step, and the state, mean and batch as trees of `jax.ShapeDtypeStruct`.
    """
    rows, crop = sharding.batch_sharding(config, mesh), config.data.crop
    batch: Batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows),
        training_batch_spec(config),
    )
    shape = (crop, crop, config.model.channels)
    mean = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding.replicated(mesh))
    step = make_train_step(config, mesh, num_images=config.batch_size)
    return step, (abstract_state(config, mesh), mean, batch)


def list_collectives(lowered: jax.stages.Lowered, config: Config, mesh: Mesh) -> list[Collective]:
    """Return the collectives of a lowered training step, in the order of the program.

    They are read from StableHLO, before a backend merges them or changes their types. Groups of
    one device are omitted.

    Args:
        lowered: the training step for this config and mesh.
        config: config with the number of classes.
        mesh: the mesh of devices.

    Raises:
        ValueError: a collective is along no axis of the mesh, or outside every layer.
    """
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    layers = list(abstract_activations(config, train=True))
    found = [
        _describe(operation, mesh, layers)
        for operation in _walk(module.operation)
        if _groups(operation, mesh).shape[1] > 1
    ]
    minimum, counted = _least_bytes(config, mesh), set()
    for i, item in enumerate(found):
        gathers = item.kind in ("all_gather", "reduce_scatter") and item.dtype != "ui32"
        joins_columns = item.axis == "column" and (gathers or item.layer == "logits")
        if joins_columns and item.layer in minimum:
            # A second exchange for the same layer would not be necessary.
            key = item.layer, item.direction
            found[i] = replace(item, minimum=0 if key in counted else minimum[item.layer])
            counted.add(key)
    return found


def _least_bytes(config: Config, mesh: Mesh) -> dict[str, int]:
    """Return the least bytes that a device must receive for layers that take all columns.

    The logits are summed in float32, since classes with similar logits would be equal in bfloat16.
    Models that are not sequential have no columns, and so no such layers.
    """
    if not isinstance(config.model, SequentialConfig):
        return {}
    ops = config.model.ops
    values = {name: prod(leaf.shape) for name, leaf in abstract_activations(config).items()}
    missing = 1 - 1 / mesh.shape["column"]
    rows = config.batch_size // mesh.shape["data"]
    width, least = jnp.dtype(config.compute_dtype).itemsize, {}
    *_, last = ops
    for previous, name in pairwise(ops):
        op = ops[name]
        if isinstance(op, Conv | Dense) and op.groups == 1:
            outputs = values[name] * (4 if name == last else width)
            smaller = min(values[previous] * width, outputs)
            least["logits" if name == last else name] = round(smaller * rows * missing)
    return least


def check_compiled(found: list[Collective], compiled: jax.stages.Compiled, mesh: Mesh) -> None:
    """Check that the compiled program has the collectives of the lowered one, and no others.

    A backend may merge collectives of one kind and axis, so there may be fewer of them, but at
    least one. All must come from `shard_map`; others would be exchanges that the compiler has
    added.

    Raises:
        ValueError: the collectives differ.
    """
    expected = Counter((item.kind, item.axis) for item in found)
    counted = Counter(_compiled(compiled.as_text() or "", mesh))
    if set(expected) != set(counted) or counted - expected:
        raise ValueError(
            f"the lowered program has the collectives {dict(expected)}, the compiled one "
            f"{dict(counted)}"
        )


def _walk(operation: Any) -> Iterator[Any]:
    """Yield every collective in an MLIR operation."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                kind = inner.operation.name.removeprefix("stablehlo.")
                if kind in UNSUPPORTED:
                    raise ValueError(f"the collective {kind} is not supported")
                if kind in RECEIVED:
                    yield inner
                yield from _walk(inner.operation)


def _describe(operation: Any, mesh: Mesh, layers: list[str]) -> Collective:
    """Return the description of a collective operation; `minimum` is that of other exchanges."""
    kind = operation.operation.name.removeprefix("stablehlo.")
    groups = _groups(operation, mesh)
    types = [value.type for value in (*operation.operands, *operation.results)]
    largest = max(types, key=lambda kind: prod(kind.shape))
    width = np.dtype(_numpy_name(str(largest.element_type))).itemsize
    scopes = str(operation.location).split('"')[1]
    # Modules, without their methods, such as conv3_1 and bn1 of "conv3_1/conv3_1._shortcut/bn1".
    within = "/".join(part for part in re.split(r"[/()]", scopes) if part and "." not in part)
    named = [name for name in [*OTHER_SCOPES, *layers] if f"/{name}/" in f"/{within}/"]
    if not named:
        raise ValueError(f"a {kind} outside every layer, in {scopes}")
    size = round(prod(largest.shape) * width * RECEIVED[kind](groups.shape[1]))
    return Collective(
        layer=max(named, key=lambda name: (name in OTHER_SCOPES, name.count("/"))),
        kind=kind,
        axis=_axis(groups, mesh),
        direction="backward" if "transpose(" in scopes else "forward",
        bytes=size,
        minimum=size,
        dtype=str(largest.element_type),
    )


def _groups(operation: Any, mesh: Mesh) -> np.ndarray:
    """Return the devices of an operation, (groups, devices of a group).

    JAX 0.10 lists them as a dense array. From 0.11 on it names the mesh's axes:
    `#stablehlo.replica_group_mesh_axes<… axes = [#stablehlo.axis_ref<name = "column">]>`.
    """
    attribute = operation.attributes["replica_groups"]
    _, named, axes = str(attribute).rpartition("axes = [")
    return _groups_along(re.findall(r'"(\w+)"', axes), mesh) if named else np.array(attribute)


def _groups_along(axes: list[str], mesh: Mesh) -> np.ndarray:
    """Return the groups of devices that differ only in their coordinates along some mesh axes."""
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    indices = [mesh.axis_names.index(axis) for axis in axes]
    size = prod(mesh.shape[axis] for axis in axes)
    return np.moveaxis(numbers, indices, range(-len(indices), 0)).reshape(-1, size)


def _numpy_name(element: str) -> str:
    """Return the name in NumPy of a type of the same width as an MLIR type: f32, bf16, i32, …"""
    return {"bf16": "uint16", "i1": "bool"}.get(element) or re.sub(
        r"^(f|i|ui)(\d+)$",
        lambda m: {"f": "float", "i": "int", "ui": "uint"}[m[1]] + m[2],
        element,
    )


def _axis(groups: np.ndarray, mesh: Mesh) -> str:
    """Return the mesh axis along which the devices of every group differ, or both axes."""
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    found = Counter(map(frozenset, groups.tolist()))
    if found == Counter([frozenset(numbers.ravel().tolist())]) and 1 not in numbers.shape:
        return "+".join(mesh.axis_names)
    for index, name in enumerate(mesh.axis_names):
        lines = np.moveaxis(numbers, index, -1).reshape(-1, numbers.shape[index])
        if found == Counter(map(frozenset, lines.tolist())):
            return str(name)
    raise ValueError(f"an exchange along no axis of the mesh: groups {groups.tolist()}")


def _compiled(text: str, mesh: Mesh) -> Iterator[tuple[str, str]]:
    """Yield (kind, axis) of every collective in compiled HLO."""
    kinds = "|".join(name.replace("_", "-") for name in (*RECEIVED, *UNSUPPORTED))
    for line in text.splitlines():
        if not (match := re.search(rf" ({kinds})(?:-start)?\(", line)):
            continue
        name = re.search(r'op_name="([^"]*)', line)
        if name is None or "shard_map" not in name[1]:
            raise ValueError(f"the compiler adds an {match[1]} for {name and name[1]}")
        groups = parse_groups(line, mesh)
        if groups.shape[1] > 1:
            yield match[1].replace("-", "_"), _axis(groups, mesh)


def parse_groups(line: str, mesh: Mesh) -> np.ndarray:
    """Return the replica groups of a collective in compiled HLO, (groups, devices of a group).

    Three formats are supported: a list, {{0,1},{2,3}}; an iota, [2,2]<=[4] or [2,2]<=[2,2]T(1,0);
    and from JAX 0.11 on, axes of the mesh, mesh['data'=2,'column'=2] {'column'}.

    Raises:
        ValueError: the groups have another format.
    """
    if named := re.search(r"replica_groups=mesh\[[^\]]*\] \{([\w',\s]*)\}", line):
        return _groups_along(re.findall(r"\w+", named[1]), mesh)
    iota = r"\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?"
    written = re.search(rf"replica_groups=(\{{\{{.*?\}}\}}|{iota})(?:[,\s]|$)", line)
    if written is None:
        raise ValueError(f"a collective between devices that cannot be read: {line.strip()}")
    numbers = [[int(n) for n in part.split(",")] for part in re.findall(r"[\d,]*\d", written[1])]
    if written[1].startswith("{"):
        return np.array(numbers)
    shape, dimensions, *permutation = numbers
    devices = np.arange(prod(dimensions)).reshape(dimensions)
    return devices.transpose(*permutation).reshape(shape)
