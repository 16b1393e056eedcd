"""Compute the memory and the traffic of each device in a training step, for every layout.

    python -m experiments.layouts --config=configs/alexnet.py [--devices=1,2,4,8,16] [--output=DIR]

For each scheme and number of devices, at a fixed batch per device: the parameters, the
optimizer state and the activations that a device holds, and the bytes that it receives in a
step. The step is lowered and compiled for simulated devices, and nothing is trained. Rows marked
"computed" come from formulas, since a model of two columns is not split over more devices. The
memory of activations is the CPU compiler's figure for its temporary arrays; other backends need
other amounts.

Prints a Markdown table; --output writes layouts.png there.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from absl import flags
from matplotlib.figure import Figure
from tqdm import tqdm

from alexnet_jax import command, fields, sharding
from alexnet_jax.analysis.collectives import list_collectives, lower_train_step
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import Config, validated
from alexnet_jax.describe import with_classes
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Dense
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.train_step import abstract_state
from configs import variants
from experiments.outputs import write_figure

MIB = 2**20
ONE_WEIRD_TRICK = "one weird trick"
NO_COMMUNICATION = "no communication"
SCHEMES = ("data parallel", "columns", ONE_WEIRD_TRICK, NO_COMMUNICATION, "one column")


@dataclass(frozen=True)
class DeviceCost:
    """What one device holds and receives, in bytes.

    Attributes:
        scheme: of SCHEMES, or "one weird trick, fully split".
        mesh: (data, column) devices.
        computed: whether from formulas instead of the compiled program.
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


def make_config(base: Config, scheme: str, devices: int, batch: int) -> Config | None:
    """Return the config of a scheme on some devices; None where it equals another scheme's.

    Args:
        base: of a model of two columns, with its number of classes.
        batch: images on each device.
    """
    config = fields.replace(base, {"batch_size": batch * devices})
    columns = 2
    if scheme == "one column":
        variants.one_column(config)
        columns = 1
    elif scheme == NO_COMMUNICATION:
        variants.no_communication(config)
    elif scheme == "data parallel":
        columns = 1
    if scheme in ("columns", ONE_WEIRD_TRICK) and devices == 1:
        return None
    if devices % columns:
        columns = 1
    config.parallel.columns, config.parallel.data = columns, devices // columns
    config.parallel.scheme = "one_weird_trick" if scheme == ONE_WEIRD_TRICK else "columns"
    return validated(config)


def measure_compiled(config: Config, scheme: str) -> DeviceCost:
    """Compile the training step of a config and return what it costs a device."""
    mesh = sharding.make_mesh(config.parallel)
    lowered = lower_train_step(config, mesh)
    memory: Any = lowered.compile().memory_analysis()
    state = abstract_state(config, mesh)
    return DeviceCost(
        scheme=scheme,
        devices=mesh.devices.size,
        mesh=(mesh.shape["data"], mesh.shape["column"]),
        computed=False,
        parameters=_bytes_on_device(state.params),
        optimizer=_bytes_on_device(state.opt_state),
        activations=memory.temp_size_in_bytes,
        received=sum(one.bytes for one in list_collectives(lowered, config, mesh)),
    )


def _bytes_on_device(tree: Any) -> int:
    """Return the bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def compute_fully_split(base: Config, devices: int, batch: int) -> DeviceCost:
    """Compute the cost of one weird trick with fully-connected layers split over all devices.

    With n devices and b images on each: before the first fully-connected layer, of I inputs,
    a device receives its share of the others' examples, (n − 1)/n · I · b numbers. Where a
    layer's inputs are gathered, or its outputs added up, whichever are fewer, it receives their
    number times (n − 1) · b. The backward pass sends all of it again, except for the
    example indices. What every device holds is reduced over all of them. Numbers are sent in the
    type of the arithmetic, except for the logits, their biases' gradients and the sums.
    """
    n, layers = devices, summarize(base)
    size = jax.numpy.dtype(base.compute_dtype).itemsize
    assert isinstance(base.model, SequentialConfig)
    dense = [layer for layer in layers if isinstance(base.model.ops[layer.name], Dense)]
    inputs = [layer.multiply_adds // layer.output[0] for layer in dense]
    communicated = sum(
        min(i, layer.output[0]) for i, layer in zip(inputs[:-1], dense[:-1], strict=True)
    )
    num_classes = base.model.num_classes
    activations = size * ((n - 1) / n * inputs[0] + (n - 1) * communicated)
    exchanged = (activations + 4 * (n - 1) * num_classes) * batch
    examples = (n - 1) * batch
    split = sum(layer.parameters for layer in dense) - num_classes  # all but the last biases
    shared = sum(layer.parameters for layer in layers) - split
    sums = 4  # the loss and three counts
    reduced = size * (shared - num_classes) + 4 * (num_classes + sums)
    held = round(4 * (shared + split / n))
    return DeviceCost(
        scheme=f"{ONE_WEIRD_TRICK}, fully split",
        devices=n,
        mesh=(1, n),
        computed=True,
        parameters=held,
        optimizer=held,
        activations=None,
        received=round(2 * exchanged + 4 * examples + 2 * (n - 1) / n * reduced),
    )


def measure_all(base: Config, devices: list[int], batch: int) -> Iterator[DeviceCost]:
    """Yield the cost of every scheme on every number of devices, with a progress bar."""
    wanted = [(scheme, n) for scheme in SCHEMES for n in devices]
    for scheme, n in tqdm(
        wanted, unit="step", desc="compile", leave=False, disable=not sys.stderr.isatty()
    ):
        if (config := make_config(base, scheme, n, batch)) is not None:
            yield measure_compiled(config, scheme)
    yield from (compute_fully_split(base, n, batch) for n in devices if n > 1)


def format_costs(costs: list[DeviceCost]) -> str:
    """Return the costs as a Markdown table; sizes in MiB."""
    lines = [
        "| scheme | devices | data × column | parameters, MiB | optimizer, MiB "
        "| activations, MiB | received in a step, MiB | how |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in costs:
        sizes = [row.parameters, row.optimizer, row.activations, row.received]
        cells = ["" if size is None else f"{size / MIB:,.1f}" for size in sizes]
        how = "computed" if row.computed else "compiled"
        mesh = f"{row.mesh[0]} × {row.mesh[1]}"
        lines.append(f"| {' | '.join([row.scheme, str(row.devices), mesh, *cells, how])} |")
    return "\n".join(lines)


def plot_costs(costs: list[DeviceCost], batch: int) -> Figure:
    """Plot the bytes received, and the bytes held, by a device over the number of devices."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, scheme in enumerate(dict.fromkeys(row.scheme for row in costs)):
        of = [row for row in costs if row.scheme == scheme]
        style: dict[str, Any] = dict(color=f"C{i}", marker=".", label=scheme)
        style["linestyle"] = "--" if of[0].computed else "-"
        left.plot([r.devices for r in of], [r.received / MIB for r in of], **style)
        if not of[0].computed:
            held = [r.parameters + r.optimizer + (r.activations or 0) for r in of]
            right.plot([r.devices for r in of], [size / MIB for size in held], **style)
    ticks = sorted({row.devices for row in costs})
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
    """Run the command."""
    base, batch = with_classes(command.validated_config()), flags.FLAGS.batch
    try:
        devices = [int(number) for number in flags.FLAGS.devices]
    except ValueError:
        raise InputError(f"--devices={','.join(flags.FLAGS.devices)}; expected numbers") from None
    if min(devices) < 1 or batch < 1 or any(n > 1 and n % 2 for n in devices):
        raise InputError(
            f"--devices={','.join(flags.FLAGS.devices)} --batch={batch}; expected 1 or even "
            "numbers of devices, and at least one image on each"
        )
    model = base.model
    if not isinstance(model, SequentialConfig) or model.num_columns != 2:
        num_columns = getattr(model, "num_columns", 1)
        raise InputError(f"model.num_columns={num_columns}; expected a model of 2 columns")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(devices))
    costs = list(measure_all(base, devices, batch))
    print(format_costs(costs))
    if flags.FLAGS.output:
        path = command.make_folder(flags.FLAGS.output) / "layouts.png"
        write_figure(plot_costs(costs, batch), path)
        print(path, file=sys.stderr)


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_list("devices", ["1", "2", "4", "8", "16"], "Numbers of devices.")
    flags.DEFINE_integer("batch", 64, "Images on each device.")
    flags.DEFINE_string("output", None, "Folder for layouts.png.")
    command.run(main)
