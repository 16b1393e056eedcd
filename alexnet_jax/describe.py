"""The layers of a config's network, and what its devices say to each other.

    python -m alexnet_jax.describe --config=configs/alexnet.py [--json]
    python -m alexnet_jax.describe --config=… --config.parallel.columns=2 --config.parallel.data=D

The first table has shapes (of all columns together), parameters and multiply-adds. With more
than one device a second one lists every exchange of a training step, read from the program as it
is compiled for a mesh of simulated devices. Nothing is trained and no data is read.
"""

import json
import sys
from dataclasses import asdict, dataclass
from math import prod

import jax
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import command, network, parallel
from alexnet_jax.collectives import Collective, collectives, confirm, lower_train_step
from alexnet_jax.errors import InputError
from alexnet_jax.models.alexnet import Conv, activations

# Where the config leaves it to the data, whose number of classes is known without reading it.
CLASSES = {"imagenet2012": 1000, "imagenette": 10, "cifar10": 10, "fashion_mnist": 10, "sample": 10}


EXPLANATION = """\
Bytes are those that one device receives. "least" is what would do for the layer: the smaller of
gathering its inputs and of scattering the sums of its outputs. Along an axis of one device nothing
is exchanged, and nothing listed."""
LOGITS = """
At the logits an all-reduce is twice the least, but every device can then take the loss by itself,
and nothing has to be gathered on the way back; both ways together the sums are the same."""


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: conv1 … fc8.
        output: (height, width, maps) or (units,), of all columns, before what follows.
        parameters: weights and biases.
        multiply_adds: of one image, forward.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers(config: ConfigDict) -> list[Layer]:
    """The rows of a config whose number of classes is known."""
    model = network.make_model(config)
    params = network.abstract_params(config)
    size = (1, config.data.crop, config.data.crop, config.model.channels)
    images = jax.ShapeDtypeStruct(size, "float32")
    outputs = jax.eval_shape(lambda p, x: activations(model, p, x), params, images)
    rows = []
    for layer in model.config.layers:
        here = params[layer.name]
        shape = outputs[layer.name].shape
        if layer is model.config.layers[-1]:
            output = shape[1:]
        else:  # (columns, 1, …, maps)
            output = (*shape[2:-1], shape[0] * shape[-1])
        pixels = prod(output[:-1]) if isinstance(layer, Conv) else 1
        parameters = sum(prod(leaf.shape) for leaf in here.values())
        rows.append(Layer(layer.name, output, parameters, pixels * prod(here["kernel"].shape)))
    return rows


def with_classes(config: ConfigDict) -> ConfigDict:
    """The config with a number of classes, the data's where it names none."""
    config = config.copy_and_resolve_references()
    if not config.model.classes:
        if config.data.name not in CLASSES:
            raise InputError(
                f"how many classes {config.data.name} has is known only when it is read; "
                "give the number with --config.model.classes"
            )
        config.model.classes = CLASSES[config.data.name]
    return config


def table(rows: list[Layer]) -> str:
    """The rows as text, with their totals."""
    total = Layer("total", (), sum(r.parameters for r in rows), sum(r.multiply_adds for r in rows))
    lines = [f"{'layer':<8}{'output':>14}{'parameters':>14}{'multiply-adds':>18}"]
    for row in [*rows, total]:
        output = "×".join(map(str, row.output))
        lines.append(f"{row.name:<8}{output:>14}{row.parameters:>14,}{row.multiply_adds:>18,}")
    return "\n".join(lines)


def exchanges(config: ConfigDict) -> list[Collective]:
    """The collectives of a training step on the config's mesh, confirmed after compiling."""
    mesh = parallel.make_mesh(config)
    lowered = lower_train_step(config, mesh)
    found = collectives(lowered, config, mesh)
    confirm(found, lowered.compile(), mesh)
    return found


def exchange_table(found: list[Collective], batch_size: int) -> str:
    """The exchanges as text; those of one layer, kind, axis and direction as one row."""
    rows: dict[tuple[str, ...], list[Collective]] = {}
    for one in found:
        key = (one.layer, one.direction, one.kind, one.axis, one.dtype)
        rows.setdefault(key, []).append(one)
    lines = [
        f"{'feeds':<8}{'direction':<11}{'kind':<16}{'axis':<13}{'type':<6}"
        f"{'bytes a step':>14}{'bytes an image':>16}{'least':>14}{'ratio':>7}"
    ]
    for (layer, direction, kind, axis, dtype), ones in rows.items():
        size = sum(one.bytes for one in ones)
        least = sum(one.minimum for one in ones)
        ratio = f"{size / least:.2f}" if least else "∞"
        image = f"{size / batch_size:,.0f}" if axis == "column" else ""
        lines.append(
            f"{layer:<8}{direction:<11}{kind:<16}{axis:<13}{dtype:<6}"
            f"{size:>14,}{image:>16}{least:>14,}{ratio:>7}"
        )
    twice = any((one.layer, one.kind) == ("logits", "all_reduce") for one in found)
    return "\n".join([*lines, "", EXPLANATION + (LOGITS if twice else "")])


def main(_: list[str]) -> None:
    """The command."""
    config = with_classes(flags.FLAGS.config)
    devices = config.parallel.columns * config.parallel.data
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(1, devices))
    rows = layers(config)
    found = []
    if devices > 1:
        print(f"compiling for {devices} simulated devices …", file=sys.stderr)
        found = exchanges(config)
    if flags.FLAGS.json:
        described = {
            "layers": [asdict(row) for row in rows],
            "parameters": sum(row.parameters for row in rows),
        }
        if devices > 1:
            described["collectives"] = [asdict(one) for one in found]
        print(json.dumps(described))
        return
    print(table(rows))
    if found:
        print()
        print(exchange_table(found, config.batch_size // config.parallel.data))


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_bool("json", False, "One JSON object instead of a table.")
    command.run(main)
