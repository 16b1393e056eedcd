"""The collectives of a compiled training step: which devices exchange what, and for which layer."""

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
from alexnet_jax.models.ops import Conv, Dense, SequentialConfig
from alexnet_jax.train_step import TrainState, abstract_state, make_train_step

# Kind, and the share of the larger of operand and result that a device of a group of n receives.
RECEIVED = {
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
}
UNKNOWN = ("collective_permute", "collective_broadcast")  # nothing here makes them
OTHER_SCOPES = ("logits", "loss")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        layer: that it feeds, conv1 … fc8, or "logits", or "loss" (which includes the counts of
            errors).
        kind: as in StableHLO, "all_gather" and so on.
        axis: of the mesh, "data" or "column", or "data+column" for both at once.
        direction: "forward" or "backward".
        bytes: received by a device in one step, by the ring algorithms: of an all-reduce
            twice, of the others once the part that the device does not have.
        minimum: the least bytes that would do. Between columns: the smaller of gathering the
            layer's inputs and of scattering its summed outputs, in the type of the arithmetic.
            Everything else is sent once, and all of it is needed.
        dtype: of the numbers sent.
    """

    layer: str
    kind: str
    axis: str
    direction: str
    bytes: int
    minimum: int
    dtype: str


def lower_train_step(config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """Return the training step before a backend compiles it; nothing is computed.

    Args: as for `abstract_train_step`.
    """
    step, arguments = abstract_train_step(config, mesh)
    return step.lower(*arguments)


def abstract_train_step(
    config: Config, mesh: Mesh
) -> tuple[jax.stages.Wrapped, tuple[TrainState, jax.ShapeDtypeStruct, Batch]]:
    """Return the jitted training step, and shapes, types and places of its arguments.

    Args:
        config: with its number of classes; images as large as the crop stand in for the data.

    Returns:
        The step, and its state, mean and batch as `jax.ShapeDtypeStruct`.
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


def collectives(lowered: jax.stages.Lowered, config: Config, mesh: Mesh) -> list[Collective]:
    """Return the collectives of a lowered training step, in the order of the program.

    Layers, types and sizes are read from its StableHLO, before a backend merges and widens
    them. Groups of one device exchange nothing and are left out.

    Args:
        lowered: for this config and mesh.

    Raises:
        ValueError: an exchange over neither axis, or outside every layer.
    """
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    assert isinstance(config.model, SequentialConfig)
    found = [
        _describe(operation, mesh, list(config.model.ops))
        for operation in _walk(module.operation)
        if _groups(operation, mesh).shape[1] > 1
    ]
    needed, served = _least(config, mesh), set()
    for i, one in enumerate(found):
        gathers = one.kind in ("all_gather", "reduce_scatter") and one.dtype != "ui32"
        meets = one.axis == "column" and (gathers or one.layer == "logits")
        if meets and one.layer in needed:
            # A second exchange for the same layer is more than would do.
            place = one.layer, one.direction
            found[i] = replace(one, minimum=0 if place in served else needed[one.layer])
            served.add(place)
    return found


def _least(config: Config, mesh: Mesh) -> dict[str, int]:
    """Return the least bytes that a device must receive for columns to meet at a layer, by layer.

    The logits are summed in float32: rounded to bfloat16, neighboring classes would tie.
    """
    assert isinstance(config.model, SequentialConfig)
    ops = config.model.ops
    values = {name: prod(leaf.shape) for name, leaf in abstract_activations(config).items()}
    missing = 1 - 1 / mesh.shape["column"]
    rows = config.batch_size // mesh.shape["data"]
    width, least = jnp.dtype(config.compute_dtype).itemsize, {}
    *_, last = ops
    for before, name in pairwise(ops):
        op = ops[name]
        if isinstance(op, Conv | Dense) and op.groups == 1:
            outputs = values[name] * (4 if name == last else width)
            smaller = min(values[before] * width, outputs)
            least["logits" if name == last else name] = round(smaller * rows * missing)
    return least


def confirm(found: list[Collective], compiled: jax.stages.Compiled, mesh: Mesh) -> None:
    """Check that the compiled program exchanges what the lowered one does, and no more.

    A backend may merge exchanges of one kind and axis, so there may be fewer of them, but not
    none and not more; and all must come from where the lowered program's are, in `shard_map`:
    what a sharded update needs beyond that, the compiler adds by itself.

    Raises:
        ValueError: what differs.
    """
    expected = Counter((one.kind, one.axis) for one in found)
    counted = Counter(_compiled(compiled.as_text() or "", mesh))
    if set(expected) != set(counted) or counted - expected:
        raise ValueError(
            f"the lowered program has the collectives {dict(expected)}, the compiled one "
            f"{dict(counted)}"
        )


def _walk(operation: Any) -> Iterator[Any]:
    """Every collective operation inside an MLIR operation."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                kind = inner.operation.name.removeprefix("stablehlo.")
                if kind in UNKNOWN:
                    raise ValueError(f"a {kind}, whose devices are not looked into")
                if kind in RECEIVED:
                    yield inner
                yield from _walk(inner.operation)


def _describe(operation: Any, mesh: Mesh, layers: list[str]) -> Collective:
    kind = operation.operation.name.removeprefix("stablehlo.")
    groups = _groups(operation, mesh)
    types = [value.type for value in (*operation.operands, *operation.results)]
    largest = max(types, key=lambda kind: prod(kind.shape))
    width = np.dtype(_numpy_name(str(largest.element_type))).itemsize
    scopes = str(operation.location).split('"')[1]
    within = re.split(r"[/()]", scopes)
    layer = next((name for name in [*OTHER_SCOPES, *layers] if name in within), None)
    if layer is None:
        raise ValueError(f"a {kind} outside every layer, in {scopes}")
    size = round(prod(largest.shape) * width * RECEIVED[kind](groups.shape[1]))
    return Collective(
        layer=layer,
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
    """Return the groups of devices that share all mesh coordinates but those of some axes."""
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    places = [mesh.axis_names.index(axis) for axis in axes]
    size = prod(mesh.shape[axis] for axis in axes)
    return np.moveaxis(numbers, places, range(-len(places), 0)).reshape(-1, size)


def _numpy_name(element: str) -> str:
    """Return NumPy's name of an MLIR element type: f32, bf16, i32, …"""
    return {"bf16": "uint16", "i1": "bool"}.get(element) or re.sub(
        r"^(f|i|ui)(\d+)$",
        lambda m: {"f": "float", "i": "int", "ui": "uint"}[m[1]] + m[2],
        element,
    )


def _axis(groups: np.ndarray, mesh: Mesh) -> str:
    """Return the mesh axis along which the devices of every group lie, or both."""
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    found = Counter(map(frozenset, groups.tolist()))
    if found == Counter([frozenset(numbers.ravel().tolist())]) and 1 not in numbers.shape:
        return "+".join(mesh.axis_names)
    for place, name in enumerate(mesh.axis_names):
        lines = np.moveaxis(numbers, place, -1).reshape(-1, numbers.shape[place])
        if found == Counter(map(frozenset, lines.tolist())):
            return str(name)
    raise ValueError(f"an exchange along no axis of the mesh: groups {groups.tolist()}")


def _compiled(text: str, mesh: Mesh) -> Iterator[tuple[str, str]]:
    """Yield (kind, axis) of every collective in compiled HLO."""
    kinds = "|".join(name.replace("_", "-") for name in (*RECEIVED, *UNKNOWN))
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

    They are listed as {{0,1},{2,3}}, or as an iota, [2,2]<=[4] or [2,2]<=[2,2]T(1,0), or from JAX
    0.11 on as axes of the mesh, mesh['data'=2,'column'=2] {'column'}.

    Raises:
        ValueError: groups in none of these forms.
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
    shape, dimensions, *order = numbers
    devices = np.arange(prod(dimensions)).reshape(dimensions)
    return devices.transpose(*order).reshape(shape)
