"""Who talks to whom: the collectives of a compiled training step."""

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
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import network, parallel, train
from alexnet_jax.models.alexnet import activations

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


def lower_train_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The training step before a backend compiles it; nothing is computed.

    Args: as for `abstract_train_step`.
    """
    step, arguments = abstract_train_step(config, mesh)
    return step.lower(*arguments)


def abstract_train_step(
    config: ConfigDict, mesh: Mesh
) -> tuple[jax.stages.Wrapped, tuple[Any, ...]]:
    """The jitted training step, and the shapes, types and places of what it takes.

    Args:
        config: with its number of classes; images as large as the crop stand in for the data.

    Returns:
        The step, and its state, mean and batch as `jax.ShapeDtypeStruct`.
    """
    crop, rows = config.data.crop, parallel.batch_sharding(config, mesh)
    channels, batch_size = config.model.channels, config.batch_size
    shapes = {
        "image": ((crop, crop, channels), np.uint8),
        "label": ((), np.int32),
        "offset": ((2,), np.int32),
        "flip": ((), bool),
        "shift": ((channels,), np.float32),
        "gain": ((), np.float32),
        "example": ((), np.uint32),
    }
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *shape), kind, sharding=rows)
        for name, (shape, kind) in shapes.items()
    }
    mean = jax.ShapeDtypeStruct(
        (crop, crop, channels), np.float32, sharding=NamedSharding(mesh, P())
    )
    abstract = jax.eval_shape(lambda: train.init_state(config))
    state = parallel.template(abstract, mesh, parallel.whole_layers(config))
    return train.make_train_step(config, mesh, images=batch_size), (state, mean, batch)


def collectives(lowered: jax.stages.Lowered, config: ConfigDict, mesh: Mesh) -> list[Collective]:
    """The collectives of a lowered training step, in the order of the program.

    Layers, types and sizes are read from its StableHLO, before a backend merges and widens
    them. Groups of one device exchange nothing and are left out.

    Args:
        lowered: for this config and mesh.

    Raises:
        ValueError: an exchange over neither axis, or outside every layer.
    """
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    found = [
        _describe(operation, mesh, list(config.model.layers))
        for operation in _walk(module.operation)
        if _groups(operation).shape[1] > 1
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


def _least(config: ConfigDict, mesh: Mesh) -> dict[str, int]:
    """The least bytes that a device must receive for columns to meet at a layer, by layer.

    The logits are summed in float32: rounded to bfloat16, neighbouring classes would tie.
    """
    model, params = network.make_model(config), network.abstract_params(config)
    size = (1, config.data.crop, config.data.crop, config.model.channels)
    images = jax.ShapeDtypeStruct(size, "float32")
    shapes = jax.eval_shape(lambda p, x: activations(model, p, x), params, images)
    values = {name: prod(leaf.shape) for name, leaf in shapes.items()}
    missing = 1 - 1 / mesh.shape["column"]
    rows = config.batch_size // mesh.shape["data"]
    width, least = jnp.dtype(model.dtype).itemsize, {}
    for before, layer in pairwise(model.config.layers):
        inputs = values["_".join([before.name, *before.after[-1:]])] * width
        last = layer is model.config.layers[-1]
        outputs = values[layer.name] * (4 if last else width)
        if layer.sees == "both":
            name = "logits" if last else layer.name
            least[name] = round(min(inputs, outputs) * rows * missing)
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
    groups = _groups(operation)
    types = [value.type for value in (*operation.operands, *operation.results)]
    largest = max(types, key=lambda kind: prod(kind.shape))
    width = np.dtype(_numpy_name(str(largest.element_type))).itemsize
    scopes = str(operation.location).split('"')[1]
    layer = next(
        (name for name in [*OTHER_SCOPES, *layers] if re.search(rf"\b{name}\b", scopes)), None
    )
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


def _groups(operation: Any) -> np.ndarray:
    """(groups, devices of a group)."""
    return np.array(operation.attributes["replica_groups"])


def _numpy_name(element: str) -> str:
    """Of an MLIR element type: f32, bf16, i32, …"""
    return {"bf16": "uint16", "i1": "bool"}.get(element) or re.sub(
        r"^(f|i|ui)(\d+)$",
        lambda m: {"f": "float", "i": "int", "ui": "uint"}[m[1]] + m[2],
        element,
    )


def _axis(groups: np.ndarray, mesh: Mesh) -> str:
    """The mesh axis along which the devices of every group lie, or both."""
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
    """(kind, axis) of every collective in compiled HLO."""
    kinds = "|".join(name.replace("_", "-") for name in (*RECEIVED, *UNKNOWN))
    for line in text.splitlines():
        if not (match := re.search(rf" ({kinds})(?:-start)?\(", line)):
            continue
        name = re.search(r'op_name="([^"]*)', line)
        if name is None or "shard_map" not in name[1]:
            raise ValueError(f"the compiler adds an {match[1]} for {name and name[1]}")
        written = re.search(r"replica_groups=(\{\{.*?\}\}|\[[^ ,]*\]<=\S+?)[,\s]", line)
        if written is None:
            raise ValueError(f"an {match[1]} between devices that cannot be read: {line.strip()}")
        groups = _parse_groups(written[1])
        if groups.shape[1] > 1:
            yield match[1].replace("-", "_"), _axis(groups, mesh)


def _parse_groups(text: str) -> np.ndarray:
    """Replica groups, listed as {{0,1},{2,3}} or as an iota, [2,2]<=[4] or [2,2]<=[2,2]T(1,0)."""
    numbers = [[int(n) for n in part.split(",")] for part in re.findall(r"[\d,]*\d", text)]
    if text.startswith("{"):
        return np.array(numbers)
    shape, dimensions, *order = numbers
    iota = np.arange(prod(dimensions)).reshape(dimensions)
    return iota.transpose(*order).reshape(shape)
