"""Print the layers of a config's model, and what its devices exchange.

    python -m alexnet_jax.describe --config=configs/alexnet.py [--json]
    python -m alexnet_jax.describe --config=… --config.parallel.columns=2 --config.parallel.data=D

The first table has shapes (of all columns together), parameters and multiply-adds. With more
than one device a second one lists every exchange of a training step, read from the program as it
is compiled for a mesh of simulated devices. Nothing is trained and no data is read.
"""

import json
import sys
from dataclasses import asdict

import jax
from absl import flags

from alexnet_jax import command, sharding
from alexnet_jax import config as configs
from alexnet_jax.analysis.collectives import Collective, collectives, confirm, lower_train_step
from alexnet_jax.analysis.summary import LayerSummary, summarize
from alexnet_jax.config import Config
from alexnet_jax.data.sources import NUM_CLASSES
from alexnet_jax.errors import InputError

EXPLANATION = """\
Bytes are those that one device receives. "least" is the smaller of gathering a layer's inputs and
of scattering the sums of its outputs. Along an axis of one device nothing is exchanged."""
LOGITS = """
At the logits an all-reduce is twice the least, but every device can then compute the loss itself,
and nothing is gathered on the way back; both ways together the sums are the same."""


def with_classes(config: Config) -> Config:
    """Return the config with a number of classes, the data's where it has none.

    Raises:
        InputError: the number is known only when the data are read.
    """
    if config.model.num_classes:
        return config
    if config.data.name not in NUM_CLASSES:
        raise InputError(
            f"how many classes {config.data.name} has is known only when it is read; "
            "give the number with --config.model.num_classes"
        )
    return configs.with_changes(config, {"model.num_classes": NUM_CLASSES[config.data.name]})


def format_table(rows: list[LayerSummary]) -> str:
    """Return the rows as text, with their totals."""
    parameters, multiply_adds = (
        sum(r.parameters for r in rows),
        sum(r.multiply_adds for r in rows),
    )
    total = LayerSummary("total", (), parameters, multiply_adds)
    lines = [f"{'layer':<8}{'output':>14}{'parameters':>14}{'multiply-adds':>18}"]
    for row in [*rows, total]:
        output = "×".join(map(str, row.output))
        lines.append(f"{row.name:<8}{output:>14}{row.parameters:>14,}{row.multiply_adds:>18,}")
    return "\n".join(lines)


def find_collectives(config: Config) -> list[Collective]:
    """Return the collectives of a training step on the config's mesh, confirmed after compiling."""
    mesh = sharding.make_mesh(config.parallel)
    lowered = lower_train_step(config, mesh)
    found = collectives(lowered, config, mesh)
    confirm(found, lowered.compile(), mesh)
    return found


def format_collectives(found: list[Collective], batch_size: int) -> str:
    """Return the exchanges as text; those of one layer, kind, axis and direction as one row."""
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
        }
        if devices > 1:
            described["collectives"] = [asdict(one) for one in found]
        print(json.dumps(described))
        return
    print(format_table(rows))
    if found:
        print()
        print(format_collectives(found, config.batch_size // config.parallel.data))


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_bool("json", False, "One JSON object instead of a table.")
    command.run(main)
