"""Print the layers of a config's model, and the communication between its devices.

    python -m alexnet_jax.describe --config=configs/alexnet.py [--json]
    python -m alexnet_jax.describe --config=… --config.parallel.columns=2 --config.parallel.data=D

The first table lists the output shape (over all columns), the receptive field and its stride in
pixels, the parameters and the multiply-adds of each layer. With more than one device, a second
table lists the collectives of a training step, which is compiled for a mesh of simulated devices.
Nothing is trained and no data is read.
"""

import json
import sys
from dataclasses import asdict

import jax
from absl import flags

from alexnet_jax import command, sharding
from alexnet_jax.analysis.collectives import (
    Collective,
    check_compiled,
    list_collectives,
    lower_train_step,
)
from alexnet_jax.analysis.summary import LayerSummary, summarize
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data.sources import NUM_CLASSES
from alexnet_jax.errors import InputError

EXPLANATION = """\
Bytes are those that one device receives. "least" is the smaller of two numbers: for gathering the
inputs of a layer, and for scattering the sums of its outputs. Axes with one device are omitted."""
LOGITS = """
The all-reduce of the logits takes twice the least, but it lets every device compute the loss and
avoids a gather in the backward pass, so the total over both passes is the same."""


def with_classes(config: Config) -> Config:
    """Return the config with the number of classes of its data set, unless it states one.

    Raises:
        InputError: the data set must be read to know its number of classes.
    """
    if config.model.num_classes:
        return config
    if config.data.name not in NUM_CLASSES:
        raise InputError(
            f"the number of classes of {config.data.name} is known only when it is read; "
            "give the number with --config.model.num_classes"
        )
    return with_changes(config, {"model.num_classes": NUM_CLASSES[config.data.name]})


def format_layers(rows: list[LayerSummary]) -> str:
    """Return a table of the layers with their totals as text."""
    width = 1 + max(7, *(len(row.name) for row in rows))

    def line(name: str, output: str, field: object, stride: object, *numbers: object) -> str:
        parameters, multiply_adds = numbers
        return (
            f"{name:<{width}}{output:>14}{field:>7}{stride:>8}{parameters:>14}{multiply_adds:>18}"
        )

    lines = [line("layer", "output", "field", "stride", "parameters", "multiply-adds")]
    for row in rows:
        output = "×".join(map(str, row.output))
        numbers = f"{row.parameters:,}", f"{row.multiply_adds:,}"
        field = (row.receptive_field, row.stride) if row.receptive_field else ("", "")
        lines.append(line(row.name, output, *field, *numbers))
    at_test = [row for row in rows if not row.training_only]
    totals = {"total": rows} if at_test == rows else {"total": rows, "at test time": at_test}
    for name, summed in totals.items():
        parameters = sum(row.parameters for row in summed)
        multiply_adds = sum(row.multiply_adds for row in summed)
        lines.append(line(name, "", "", "", f"{parameters:,}", f"{multiply_adds:,}"))
    return "\n".join(lines)


def find_collectives(config: Config) -> list[Collective]:
    """Return the collectives of a training step on the config's mesh, checked by compiling it."""
    mesh = sharding.make_mesh(config.parallel)
    lowered = lower_train_step(config, mesh)
    found = list_collectives(lowered, config, mesh)
    check_compiled(found, lowered.compile(), mesh)
    return found


def format_collectives(found: list[Collective], batch_size: int) -> str:
    """Return a table of the collectives as text.

    Collectives of the same layer, direction, kind, axis and type are added in one row.

    Args:
        found: the collectives.
        batch_size: number of images in a group of devices that shares the columns.
    """
    rows: dict[tuple[str, ...], list[Collective]] = {}
    for item in found:
        key = (item.layer, item.direction, item.kind, item.axis, item.dtype)
        rows.setdefault(key, []).append(item)
    width = 1 + max(7, *(len(item.layer) for item in found))
    lines = [
        f"{'feeds':<{width}}{'direction':<11}{'kind':<16}{'axis':<13}{'type':<6}"
        f"{'bytes a step':>14}{'bytes an image':>16}{'least':>14}{'ratio':>7}"
    ]
    for (layer, direction, kind, axis, dtype), items in rows.items():
        size = sum(item.bytes for item in items)
        least = sum(item.minimum for item in items)
        ratio = f"{size / least:.2f}" if least else "∞"
        image = f"{size / batch_size:,.0f}" if axis == "column" else ""
        lines.append(
            f"{layer:<{width}}{direction:<11}{kind:<16}{axis:<13}{dtype:<6}"
            f"{size:>14,}{image:>16}{least:>14,}{ratio:>7}"
        )
    reduces_logits = any((item.layer, item.kind) == ("logits", "all_reduce") for item in found)
    return "\n".join([*lines, "", EXPLANATION + (LOGITS if reduces_logits else "")])


def main(_: list[str]) -> None:
    """Run the command."""
    config = with_classes(command.validated_config())
    devices = config.parallel.columns * config.parallel.data
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    rows = summarize(config)
    found = []
    if devices > 1:
        print(f"compiling for {devices} simulated devices …", file=sys.stderr)
        found = find_collectives(config)
    if flags.FLAGS.json:
        described = {
            "layers": [asdict(row) for row in rows],
            "parameters": sum(row.parameters for row in rows),
            "parameters_at_test": sum(row.parameters for row in rows if not row.training_only),
        }
        if devices > 1:
            described["collectives"] = [asdict(item) for item in found]
        print(json.dumps(described))
        return
    print(format_layers(rows))
    if found:
        print()
        print(format_collectives(found, config.batch_size // config.parallel.data))


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")
    command.run(main)
