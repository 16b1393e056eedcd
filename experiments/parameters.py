"""The parameters of a net and what became of them: numbers, and pictures of them.

`experiments/inspect_params.ipynb` shows them for a run.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax import parallel
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.evaluate import Net, load_net
from alexnet_jax.models.order import by_number
from alexnet_jax.network import abstract_params, init_params
from alexnet_jax.writers import read_records

ACROSS = 3  # histograms beside one another
BINS = 80  # at the most


@dataclass(frozen=True)
class Parameter:
    """An array of a net's parameters, in numbers.

    Attributes:
        name: as in conv1/kernel.
        shape: with the columns first, but for the classifier's bias, which they share.
        norm: the square root of the sum of squares.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    mean: float
    std: float
    norm: float


def arrays(params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Names, as in conv1/kernel, and values, from the first layer to the last."""
    for layer in sorted(params, key=by_number):
        for kind in ("kernel", "bias"):
            yield f"{layer}/{kind}", np.asarray(params[layer][kind])


def describe(params: Mapping[str, Any]) -> list[Parameter]:
    """Every array in numbers, computed in float64."""
    found = []
    for name, array in arrays(params):
        exact = array.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        found.append(
            Parameter(name, array.shape, array.size, float(exact.mean()), float(exact.std()), norm)
        )
    return found


def table(params: Mapping[str, Any]) -> str:
    """`describe` in Markdown, with the number of all parameters."""
    lines = ["| | shape | parameters | mean | std | norm |", "|:--|:--|--:|--:|--:|--:|"]
    rows = describe(params)
    for row in rows:
        shape = " × ".join(map(str, row.shape))
        numbers = f"{row.count:,} | {row.mean:+.4f} | {row.std:.4f} | {row.norm:.2f}"
        lines.append(f"| {row.name} | {shape} | {numbers} |")
    lines.append(f"| all | | {sum(row.count for row in rows):,} | | | |")
    return "\n".join(lines)


def initial(net: Net) -> Any:
    """The parameters that a net began with, drawn again from its seed.

    None where they are another's: of a run that began with another run's (init_from), and of
    imported weights, which were not trained here.
    """
    return None if net.config.init_from or not net.step else init_params(net.config)


def histograms(net: Net) -> Figure:
    """How each layer's weights are distributed, each column for itself, and how they began."""
    began = initial(net)
    kernels = {name: a for name, a in arrays(net.params) if name.endswith("/kernel")}
    first = dict(arrays(began)) if began is not None else {}
    down = -(-len(kernels) // ACROSS)
    figure = Figure(figsize=(3.3 * ACROSS, 2.1 * down + 0.5), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False).flat
    for axis, (name, kernel) in zip(axes, kernels.items(), strict=False):
        both = [kernel, *([first[name]] if first else [])]
        reach = max(float(np.quantile(np.abs(array), 0.999)) for array in both)
        count = min(BINS, math.isqrt(kernel[0].size))
        bins = np.linspace(-reach, reach, count + 1)
        if first:
            axis.hist(first[name].ravel(), bins, density=True, color="0.85", label="at the start")
        for c, column in enumerate(kernel):
            style: dict[str, Any] = dict(histtype="step", color=f"C{c}", label=f"column {c}")
            axis.hist(column.ravel(), bins, density=True, **style)
        axis.set_title(name.removesuffix("/kernel"), fontsize=10)
        axis.set_yticks([])
        axis.set_xlim(-reach, reach)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right", "left"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for axis in figure.axes[len(kernels) :]:
        axis.set_axis_off()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


@dataclass(frozen=True)
class History:
    """Norms of a run's arrays at some of its steps.

    Attributes:
        steps: ascending; 0 is the start.
        norms: by the name of the array, one for each step.
        drops: steps by which the learning rate had been divided.
    """

    steps: list[int]
    norms: dict[str, list[float]]
    drops: list[int]


def history(workdir: str | Path) -> History:
    """Norms from the start and from every checkpoint that a run has kept.

    Raises:
        InputError: as `load_net`.
    """
    net = load_net(workdir)
    template = parallel.template(abstract_params(net.config), parallel.data_mesh(1))
    began = initial(net)
    found = {} if began is None else {0: describe(began)}
    with Checkpoints(workdir) as checkpoints:
        for step in checkpoints.steps():
            if step <= net.step:  # what comes after could not be read
                found[step] = describe(checkpoints.params(step, template))
    names = [row.name for row in found[net.step]]
    norms = {name: [rows[i].norm for rows in found.values()] for i, name in enumerate(names)}
    train = [record for record in read_records(Path(workdir)) if record["split"] == "train"]
    drops = [
        after["step"]
        for before, after in pairwise(train)
        if after["learning_rate"] < before["learning_rate"]
    ]
    return History(list(found), norms, drops)


def norms(found: History) -> Figure:
    """The norm of every layer's weights over training: absolute, and relative to the first."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    kernels = {name: of for name, of in found.norms.items() if name.endswith("/kernel")}
    for i, (name, of) in enumerate(kernels.items()):
        style: dict[str, Any] = dict(color=f"C{i}", marker=".", label=name.removesuffix("/kernel"))
        left.plot(found.steps, of, **style)
        right.plot(found.steps, np.divide(of, of[0]), **style)
    left.set(title="norm of the weights")
    left.set_ylim(bottom=0)
    right.set(title=f"the same, as a share of that at step {found.steps[0]}")
    right.axhline(1, color="0.85", linewidth=1, zorder=0)
    for axis in (left, right):
        for step in found.drops:
            axis.axvline(step, color="0.85", linewidth=1, zorder=0)
        axis.set_xlabel(f"steps{' (line: rate divided)' if found.drops else ''}")
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure
