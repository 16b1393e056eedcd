"""A run that changes its layout twice, beside runs that do not.

    python -m experiments.elastic --config=configs/alexnet.py:sample --output=DIR [--steps=300]

Three runs of the same config: on four devices (2 × 2, simulated); on one; and one that starts on
four, goes on from its checkpoint on one, and then on four again, a third of the steps each. Draws
the training losses, and how far each lies from the first, into DIR/elastic.png. The runs' folders
lie beside it; what is there already is not run again.

Layouts add up the same numbers in another order, which changes their last digits. Training at a
high rate magnifies any such difference; a low one (--config.learning_rate=0.003) shows it bare.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.writers import read_records

ONE, FOUR = 1, 2  # devices along each axis of the mesh
RUNS = {
    "four devices": (FOUR,),
    "one device": (ONE,),
    "four, one, four": (FOUR, ONE, FOUR),
}


def run(config: list[str], workdir: Path, layouts: tuple[int, ...], steps: int) -> None:
    """Train in as many parts as there are layouts, each in a process with simulated devices.

    Args:
        config: its flags.

    Raises:
        InputError: a part ends with an error, whose message is on stderr.
    """
    for part, side in enumerate(layouts, start=1):
        arguments = [
            *config,
            f"--workdir={workdir}",
            f"--config.parallel.columns={side}",
            f"--config.parallel.data={side}",
            f"--config.max_steps={part * steps // len(layouts)}",
            f"--config.log_every={_every(steps)}",
        ]
        devices = f"--xla_force_host_platform_device_count={side**2}"
        ended = subprocess.run(
            [sys.executable, "-m", "alexnet_jax.main", *arguments],
            env={
                **os.environ,
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
                "JAX_PLATFORMS": "cpu",
            },
            stdout=subprocess.DEVNULL,
        )
        if ended.returncode:
            raise InputError(f"part {part} of {workdir} ended with status {ended.returncode}")


def losses(workdir: Path) -> dict[int, float]:
    """The training loss by step."""
    return {r["step"]: r["loss"] for r in read_records(workdir) if r["split"] == "train"}


def picture(found: dict[str, dict[int, float]], layouts: tuple[int, ...], steps: int) -> Figure:
    """The losses of the runs, and their distances from those of the first."""
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    first, *others = found.values()
    for i, (name, values) in enumerate(found.items()):
        dashed = dict(linestyle="--") if i == len(found) - 1 else {}
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
    """The command."""
    output, steps = Path(flags.FLAGS.output), flags.FLAGS.steps
    file, overrides = command.given_config()
    config = [
        f"--config={file}",
        *(f"--config.{name}={value}" for name, value in overrides.items()),
    ]
    if steps % 60:
        raise InputError(f"--steps={steps}; expected a multiple of 60")
    found = {}
    for name, layouts in RUNS.items():
        workdir = output / name.replace(", ", "-").replace(" ", "-")
        print(f"{name}: {workdir}", file=sys.stderr)
        run(config, workdir, layouts, steps)
        found[name] = losses(workdir)
    picture(found, RUNS["four, one, four"], steps).savefig(output / "elastic.png", dpi=120)
    first = found["four devices"]
    for name, values in list(found.items())[1:]:
        distance = np.array([abs(values[step] / first[step] - 1) for step in first])
        print(f"{name}: losses differ from four devices' by {distance.max():.1e} at the most")
    print(output / "elastic.png", file=sys.stderr)


def _every(steps: int) -> int:
    """Steps between two records."""
    return max(1, steps // 60)


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_string("output", None, "Folder for the picture and the runs.", required=True)
    flags.DEFINE_integer("steps", 300, "Of each run, a multiple of 60.", lower_bound=60)
    command.run(main)
