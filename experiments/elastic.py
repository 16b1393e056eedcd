"""Compare a run that changes its device layout twice with runs that do not.

    python -m experiments.elastic --config=configs/alexnet.py:sample --output=DIR [--steps=300]

Three runs of the same config: on four devices (2 × 2, simulated); on one; and one that starts on
four, continues from its checkpoint on one, and then on four again, a third of the steps each.
DIR/elastic.png shows the training losses and how far each lies from the first. The workdirs lie
beside it; finished runs are not repeated.

Layouts add up the same numbers in another order, which changes their last digits. Training at a
high rate magnifies any such difference; a low rate (--config.learning_rate=0.003) does not.
"""

import os
import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.records import read_records
from experiments.outputs import write_figure
from experiments.sweeps.jobs import run_program

ONE, FOUR = 1, 2  # devices along each axis of the mesh
RUNS = {
    "four devices": (FOUR,),
    "one device": (ONE,),
    "four, one, four": (FOUR, ONE, FOUR),
}


def train_in_parts(
    config_flags: list[str], workdir: Path, layouts: tuple[int, ...], steps: int
) -> None:
    """Train in as many parts as there are layouts, each in a process with simulated devices.

    Args:
        config_flags: --config and its overrides.
        layouts: of each part, the devices along each axis of the mesh.
        steps: of all parts together.

    Raises:
        InputError: a part fails; its message is on stderr.
    """
    for part, side in enumerate(layouts, start=1):
        arguments = [
            *config_flags,
            f"--workdir={workdir}",
            f"--config.parallel.columns={side}",
            f"--config.parallel.data={side}",
            f"--config.max_steps={part * steps // len(layouts)}",
            f"--config.log_every={_log_every(steps)}",
        ]
        devices = f"--xla_force_host_platform_device_count={side**2}"
        status = run_program(
            [sys.executable, "-m", "alexnet_jax.main", *arguments],
            env={
                **os.environ,
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
                "JAX_PLATFORMS": "cpu",
            },
        )
        if status:
            raise InputError(f"part {part} of {workdir} ended with status {status}")


def read_losses(workdir: Path) -> dict[int, float]:
    """Return the training loss by step."""
    return {r["step"]: r["loss"] for r in read_records(workdir) if r["split"] == "train"}


def plot_losses(
    losses: dict[str, dict[int, float]], layouts: tuple[int, ...], steps: int
) -> Figure:
    """Plot the losses of the runs, and their distances from those of the first."""
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    first, *others = losses.values()
    for i, (name, values) in enumerate(losses.items()):
        dashed = dict(linestyle="--") if i == len(losses) - 1 else {}
        upper.plot([*values], [*values.values()], color=f"C{i}", label=name, **dashed)
    for i, values in enumerate(others, start=1):
        shared = sorted({*first} & {*values})
        distance = [abs(values[step] / first[step] - 1) for step in shared]
        lower.plot(shared, distance, color=f"C{i}", marker=".", linewidth=1)
    for part, side in enumerate(layouts):
        begin, end = (p * steps / len(layouts) for p in (part, part + 1))
        upper.text((begin + end) / 2, 1.01, f"{side} × {side}", ha="center", va="bottom",
                   transform=upper.get_xaxis_transform(), color="C2")  # fmt: skip
        for axis in (upper, lower):
            axis.axvline(end, color="0.85", linewidth=1, zorder=0)
            axis.spines[["top", "right"]].set_visible(False)
    upper.set(ylabel="training loss")
    upper.set_ylim(bottom=0)
    upper.legend(frameon=False)
    lower.set(xlabel="steps", ylabel="relative distance\nfrom four devices", yscale="log")
    return figure


def main(_: list[str]) -> None:
    """Run the command."""
    output, steps = Path(flags.FLAGS.output), flags.FLAGS.steps
    file, overrides = command.given_config()
    config_flags = [
        f"--config={file}",
        *(f"--config.{name}={value}" for name, value in overrides.items()),
    ]
    if steps % 60:
        raise InputError(f"--steps={steps}; expected a multiple of 60")
    losses = {}
    for name, layouts in RUNS.items():
        workdir = output / name.replace(", ", "-").replace(" ", "-")
        print(f"{name}: {workdir}", file=sys.stderr)
        train_in_parts(config_flags, workdir, layouts, steps)
        losses[name] = read_losses(workdir)
    write_figure(plot_losses(losses, RUNS["four, one, four"], steps), output / "elastic.png")
    first = losses["four devices"]
    for name, values in list(losses.items())[1:]:
        distance = np.array([abs(values[step] / first[step] - 1) for step in first])
        print(f"{name}: losses differ from those on four devices by at most {distance.max():.1e}")
    print(output / "elastic.png", file=sys.stderr)


def _log_every(steps: int) -> int:
    """Return the steps between two records."""
    return max(1, steps // 60)


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_string("output", None, "Folder for the figure and the runs.", required=True)
    flags.DEFINE_integer("steps", 300, "Of each run, a multiple of 60.", lower_bound=60)
    command.run(main)
