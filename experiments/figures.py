"""Pictures of a run: the first layer's kernels and the learning curves.

    python -m experiments.figures --workdir=DIR

They are written into DIR as kernels.png (the paper's figure 3, for this run) and curves.png. A
workdir with imported weights was not trained here and gets no curves.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command, metrics
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import load_net

matplotlib.use("Agg")  # files, not windows

PER_ROW = 16  # kernels in a row


def kernels(kernel: np.ndarray) -> Figure:
    """The kernels of conv1 as pictures, the columns apart.

    Args:
        kernel: (columns, height, width, 1 or 3, maps). Each kernel is scaled by itself so
            that zero is mid-grey and its largest weight is black or white.
    """
    columns, height, width, _, maps = kernel.shape
    rows = -(-maps // PER_ROW)
    figure = Figure(figsize=(0.55 * PER_ROW, 0.6 * rows * columns + 0.45 * columns))
    for c, part in enumerate(figure.subfigures(columns, 1, squeeze=False)[:, 0]):
        part.suptitle(f"conv1, column {c}: {maps} kernels of {height}×{width}", fontsize=10)
        axes = part.subplots(rows, PER_ROW, squeeze=False)
        for m, axis in enumerate(axes.flat):
            axis.set_axis_off()
            if m < maps:
                one = kernel[c, :, :, :, m]
                one = 0.5 + 0.5 * one / max(np.abs(one).max(), 1e-12)
                axis.imshow(one.squeeze(), cmap="gray", vmin=0, vmax=1)
        part.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=0.8, wspace=0.1, hspace=0.1)
    return figure


def curves(records: list[dict[str, Any]], title: str) -> Figure:
    """Top-1 error over epochs, on training and validation images, with the final test error."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for split, color in (("train", "0.6"), ("validation", "C0")):
        of = [r for r in records if r["split"] == split and "views" not in r]
        errors = [100 * r["top1_error"] for r in of]
        dot = "." if len(of) < 3 else ""  # too few for a line to be seen
        axis.plot([r["epoch"] for r in of], errors, label=split, color=color, marker=dot)
    for final in (r for r in records if r.get("views") == "ten"):
        error = 100 * final["top1_error"]
        name = f"{final['split']}, ten views: {error:.1f} %"
        axis.axhline(error, color="C3", linewidth=1, linestyle="--", label=name)
    drops = [
        after["epoch"]
        for before, after in pairwise(r for r in records if r["split"] == "train")
        if after["learning_rate"] < before["learning_rate"]
    ]
    for epoch in drops:
        axis.axvline(epoch, color="0.85", linewidth=1, zorder=0)
    rate = " (at a vertical line the learning rate has been divided)" if drops else ""
    axis.set(xlabel=f"epochs{rate}", ylabel="top-1 error, %", title=title)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def main(_: list[str]) -> None:
    """The command."""
    directory = Path(flags.FLAGS.workdir)
    net = load_net(directory)
    kernel = np.asarray(net.params["conv1"]["kernel"])
    if net.config.data.channel_order == "bgr":
        kernel = kernel[:, :, :, ::-1]
    figures = {"kernels": kernels(kernel)}
    records = metrics.read(directory)
    if records:
        figures["curves"] = curves(records, f"{net.config.data.name}, {net.step} steps")
    elif net.step:
        raise InputError(f"{directory} has no metrics.jsonl; train there first")
    for name, figure in figures.items():
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=120)
        print(path)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    command.run(main)
