"""What a training step costs each device, in bytes, under every way of sharing it out.

    python -m experiments.layouts --config=configs/alexnet.py [--devices=1,2,4,8,16] [--output=DIR]

For each scheme and number of devices, at a fixed batch per device: the parameters, the
optimizer's state and the activations that a device holds, and the bytes that it receives in a
step. The step is lowered and compiled for simulated devices, and nothing is trained. Rows marked
"computed" come from formulas, since a net of two columns is not split over more. The memory
of activations is the CPU compiler's figure for its temporary arrays; others need other amounts.

Prints a Markdown table; --output draws layouts.png there.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax import command, network, parallel
from alexnet_jax.collectives import collectives, lower_train_step
from alexnet_jax.describe import layers, with_classes
from alexnet_jax.errors import InputError
from configs import variants

MIB = 2**20
WEIRD = "one weird trick"
APART = "columns apart"
SCHEMES = ("data parallel", "columns", WEIRD, APART, "one column")


@dataclass(frozen=True)
class Row:
    """What one device holds and receives, in bytes.

    Attributes:
        scheme: of SCHEMES, or "one weird trick, fully split".
        mesh: (data, column) devices.
        computed: whether from formulas, and not from the compiled program.
        parameters, optimizer: held from step to step.
        activations: the most that the step needs beside them; None where it is computed.
        received: in a step, from other devices.
    """

    scheme: str
    devices: int
    mesh: tuple[int, int]
    computed: bool
    parameters: int
    optimizer: int
    activations: int | None
    received: int


def layout(base: ConfigDict, scheme: str, devices: int, batch: int) -> ConfigDict | None:
    """The config of a scheme on so many devices; None where it is the same as another's."""
    config = base.copy_and_resolve_references()
    config.batch_size = batch * devices
    columns = 2
    if scheme == "one column":
        variants.one_column(config)
        columns = 1
    elif scheme == APART:
        variants.no_communication(config)
    elif scheme == "data parallel":
        columns = 1
    if scheme in ("columns", WEIRD) and devices == 1:
        return None
    if devices % columns:
        columns = 1
    config.parallel.update(
        columns=columns,
        data=devices // columns,
        scheme="one_weird_trick" if scheme == WEIRD else "columns",
    )
    return config


def compiled(config: ConfigDict, scheme: str) -> Row:
    """The row of a config, from its compiled training step."""
    mesh = parallel.make_mesh(config)
    lowered = lower_train_step(config, mesh)
    memory: Any = lowered.compile().memory_analysis()
    template = parallel.template(
        network.abstract_params(config), mesh, parallel.whole_layers(config)
    )
    held = sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(template)
    )
    return Row(
        scheme=scheme,
        devices=mesh.devices.size,
        mesh=(mesh.shape["data"], mesh.shape["column"]),
        computed=False,
        parameters=held,
        optimizer=held,  # one velocity for each
        activations=memory.temp_size_in_bytes,
        received=sum(one.bytes for one in collectives(lowered, config, mesh)),
    )


def fully_split(base: ConfigDict, devices: int, batch: int) -> Row:
    """One weird trick with the fully-connected layers split over all devices, computed.

    With n devices and b images on each: before the first fully-connected layer, of I inputs,
    a device receives its share of the others' examples, (n − 1)/n · I · b numbers. Where a
    layer's inputs are gathered, or its outputs added up, whichever are fewer, it receives their
    number times (n − 1) · b. All of it comes a second time on the way back, but not the
    examples' numbers. What every device holds is reduced over all of them.
    """
    n, table = devices, layers(base)
    dense = [row for row in table if "kernel" not in base.model.layers[row.name]]
    inputs = [row.multiply_adds // row.output[0] for row in dense]
    meet = sum(min(i, row.output[0]) for i, row in zip(inputs[:-1], dense[:-1], strict=True))
    exchanged = ((n - 1) / n * inputs[0] + (n - 1) * (meet + base.model.classes)) * batch
    examples = (n - 1) * batch
    split = sum(row.parameters for row in dense) - base.model.classes  # all but the last biases
    shared = sum(row.parameters for row in table) - split
    sums = 4  # the loss and three counts
    held = round(4 * (shared + split / n))
    return Row(
        scheme=f"{WEIRD}, fully split",
        devices=n,
        mesh=(1, n),
        computed=True,
        parameters=held,
        optimizer=held,
        activations=None,
        received=round(4 * (2 * exchanged + examples + 2 * (n - 1) / n * (shared + sums))),
    )


def rows(base: ConfigDict, devices: list[int], batch: int) -> Iterator[Row]:
    """Every scheme on every number of devices, with a bar on stderr."""
    wanted = [(scheme, n) for scheme in SCHEMES for n in devices]
    for scheme, n in tqdm(
        wanted, unit="step", desc="compile", leave=False, disable=not sys.stderr.isatty()
    ):
        if (config := layout(base, scheme, n, batch)) is not None:
            yield compiled(config, scheme)
    yield from (fully_split(base, n, batch) for n in devices if n > 1)


def table(found: list[Row]) -> str:
    """The rows in Markdown; sizes in MiB."""
    lines = [
        "| scheme | devices | data × column | parameters, MiB | optimizer, MiB "
        "| activations, MiB | received in a step, MiB | how |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        sizes = [row.parameters, row.optimizer, row.activations, row.received]
        cells = ["" if size is None else f"{size / MIB:,.1f}" for size in sizes]
        how = "computed" if row.computed else "compiled"
        mesh = f"{row.mesh[0]} × {row.mesh[1]}"
        lines.append(f"| {' | '.join([row.scheme, str(row.devices), mesh, *cells, how])} |")
    return "\n".join(lines)


def picture(found: list[Row], batch: int) -> Figure:
    """Bytes received, and bytes held, by a device over the number of devices."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, scheme in enumerate(dict.fromkeys(row.scheme for row in found)):
        of = [row for row in found if row.scheme == scheme]
        style: dict[str, Any] = dict(color=f"C{i}", marker=".", label=scheme)
        style["linestyle"] = "--" if of[0].computed else "-"
        left.plot([r.devices for r in of], [r.received / MIB for r in of], **style)
        if not of[0].computed:
            held = [r.parameters + r.optimizer + (r.activations or 0) for r in of]
            right.plot([r.devices for r in of], [size / MIB for size in held], **style)
    ticks = sorted({row.devices for row in found})
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.set(xlabel=f"devices, {batch} images on each")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    left.set(title="received by a device in a training step", ylabel="MiB")
    right.set(title="held: parameters, optimizer, activations (CPU's)", ylabel="MiB")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False,
                  title="dashed: computed")  # fmt: skip
    return figure


def main(_: list[str]) -> None:
    """The command."""
    base, batch = with_classes(flags.FLAGS.config), flags.FLAGS.batch
    try:
        devices = [int(number) for number in flags.FLAGS.devices]
    except ValueError:
        raise InputError(f"--devices={','.join(flags.FLAGS.devices)}; expected numbers") from None
    if min(devices) < 1 or batch < 1 or any(n > 1 and n % 2 for n in devices):
        raise InputError(
            f"--devices={','.join(flags.FLAGS.devices)} --batch={batch}; expected 1 or even "
            "numbers of devices, and at least one image on each"
        )
    if base.model.columns != 2:
        raise InputError(f"model.columns={base.model.columns}; expected a net of 2 columns")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(devices))
    found = list(rows(base, devices, batch))
    print(table(found))
    if flags.FLAGS.output:
        path = command.make_folder(flags.FLAGS.output) / "layouts.png"
        picture(found, batch).savefig(path, dpi=120)
        print(path, file=sys.stderr)


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_list("devices", ["1", "2", "4", "8", "16"], "Numbers of devices.")
    flags.DEFINE_integer("batch", 64, "Images on each device.")
    flags.DEFINE_string("output", None, "Folder for layouts.png.")
    command.run(main)
