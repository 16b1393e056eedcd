"""Summarize a model's parameters and plot their distributions and norms over training.

`inspect_params.ipynb` shows them for a run.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from alexnet_jax import sharding
from alexnet_jax.analysis.summary import abstract_activations
from alexnet_jax.checkpoint import Checkpoints, DamagedCheckpointError
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models.registry import init_variables
from alexnet_jax.pytree import PyTree, Variables, leaves_by_path
from alexnet_jax.records import read_records
from alexnet_jax.trained import TrainedModel, load_trained, load_variables
from alexnet_jax.workdir import saved_steps
from experiments.figures.predictions import choose_evenly, split_columns

HISTOGRAMS_PER_ROW = 3
MAX_LAYERS = 12  # with a histogram, or with a name beside the norms
MAX_BINS = 80
MAX_TICKS = 24  # names of layers at the edge of a figure


@dataclass(frozen=True)
class ParameterSummary:
    """An array of a model's parameters, in numbers.

    Attributes:
        path: such as conv1/kernel.
        shape: of a model with columns with these first, but for the classifier's bias, which
            they share.
        norm: the square root of the sum of squares.
    """

    path: str
    shape: tuple[int, ...]
    count: int
    mean: float
    std: float
    norm: float


def layer_order(config: Config) -> list[str]:
    """Return the names of the layers of a model in the order in which it applies them.

    Layers within a block are named after it, too: conv2_1/conv1. Auxiliary classifiers are among
    them.
    """
    return list(abstract_activations(config, train=True))


def ordered_arrays(params: PyTree, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays by paths such as "conv1/kernel", in the order of layers, kernels first.

    Args:
        params: a tree, nested to any depth.
        layers: paths without the last part; what they do not list comes last.
    """
    place = {layer: number for number, layer in enumerate(layers)}

    def key(path: str) -> tuple[int, str, bool, str]:
        """Return what to sort by: the number of the layer, its name, kernels first."""
        layer, _, kind = path.rpartition("/")
        return place.get(layer, len(place)), layer, kind != "kernel", kind

    arrays = leaves_by_path(params)
    return {path: np.asarray(arrays[path]) for path in sorted(arrays, key=key)}


def summarize_parameters(params: PyTree, layers: Sequence[str]) -> list[ParameterSummary]:
    """Summarize every array, computed in float64; arguments are those of `ordered_arrays`."""
    found = []
    for path, array in ordered_arrays(params, layers).items():
        exact = array.astype(np.float64)
        mean, std, norm = float(exact.mean()), float(exact.std()), float(np.linalg.norm(exact))
        found.append(ParameterSummary(path, array.shape, array.size, mean, std, norm))
    return found


def format_parameters(params: PyTree, layers: Sequence[str]) -> str:
    """Return `summarize_parameters` as Markdown, with the number of all parameters."""
    lines = ["| | shape | parameters | mean | std | norm |", "|:--|:--|--:|--:|--:|--:|"]
    rows = summarize_parameters(params, layers)
    for row in rows:
        shape = " × ".join(map(str, row.shape))
        numbers = f"{row.count:,} | {row.mean:+.4f} | {row.std:.4f} | {row.norm:.2f}"
        lines.append(f"| {row.path} | {shape} | {numbers} |")
    lines.append(f"| all | | {sum(row.count for row in rows):,} | | | |")
    return "\n".join(lines)


def initial_params(model: TrainedModel) -> PyTree | None:
    """Return the parameters before training, drawn again from the run's seed.

    None where they are not known: for a run that initial with another run's parameters
    (init_from), and for imported weights, which were not trained here.
    """
    if model.config.init_from or not model.step:
        return None
    return init_variables(model.config)["params"]


def load_readable_variables(workdir: str | Path, step: int, config: Config) -> Variables | None:
    """Return the variables of a checkpoint of a run on one device.

    None, with a line on stderr, if the checkpoint is damaged or was deleted meanwhile by the run.
    """
    with Checkpoints(workdir) as checkpoints:
        try:
            return load_variables(checkpoints, step, config, sharding.make_data_mesh(1))
        except DamagedCheckpointError as error:
            print(f"left out: step {step} of {workdir}: {error}", file=sys.stderr)
            return None


def none_readable(workdir: str | Path) -> InputError:
    """Return the error for a run of which no checkpoint can be read."""
    return InputError(
        f"no checkpoint of {workdir} can be read (reasons above); if the run is in progress, try "
        "again"
    )


def plot_histograms(model: TrainedModel) -> Figure:
    """Plot the distribution of each layer's weights, each column by itself, and the initial one.

    Of a model of more than MAX_LAYERS layers some are shown.
    """
    initial, layers = initial_params(model), layer_order(model.config)
    found = _arrays_named("kernel", ordered_arrays(model.params, layers))
    kernels = {layer: found[layer] for layer in choose_evenly([*found], MAX_LAYERS)}
    first = _arrays_named("kernel", ordered_arrays(initial, layers)) if initial is not None else {}
    down = -(-len(kernels) // HISTOGRAMS_PER_ROW)
    figure = Figure(figsize=(3.3 * HISTOGRAMS_PER_ROW, 2.1 * down + 0.5), layout="constrained")
    if len(kernels) < len(found):
        figure.suptitle(f"{len(kernels)} of {len(found)} layers", fontsize=10)
    axes = figure.subplots(down, HISTOGRAMS_PER_ROW, squeeze=False).flat
    for axis, (layer, kernel) in zip(axes, kernels.items(), strict=False):
        columns = split_columns(model.config, kernel)
        both = [kernel, *([first[layer]] if first else [])]
        reach = max(float(np.quantile(np.abs(array), 0.999)) for array in both)
        count = min(MAX_BINS, math.isqrt(columns[0].size))
        bins = np.linspace(-reach, reach, count + 1)
        if first:
            axis.hist(first[layer].ravel(), bins, density=True, color="0.85", label="initial")
        for c, column in enumerate(columns):
            label = f"column {c}" if len(columns) > 1 else "trained"
            style: dict[str, Any] = dict(histtype="step", color=f"C{c}", label=label)
            axis.hist(column.ravel(), bins, density=True, **style)
        axis.set_title(layer, fontsize=10)
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


def plot_batch_norms(model: TrainedModel) -> Figure:
    """Plot the scales and running standard deviations of every batch normalization, by depth.

    A box is from the first to the third quartile of the channels, with a line at the median, and
    whiskers reach to the extremes.

    Raises:
        InputError: the model has no batch normalization.
    """
    layers = layer_order(model.config)
    variances = _arrays_named("var", ordered_arrays(model.variables.get("batch_stats", {}), layers))
    if not variances:
        raise InputError("the model has no batch normalization")
    scales = _arrays_named("scale", ordered_arrays(model.params, layers))
    rows = {
        "scale": [scales[layer] for layer in variances],
        "running standard deviation": [np.sqrt(variance) for variance in variances.values()],
    }
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, (name, values) in zip(axes, rows.items(), strict=True):
        axis.boxplot(values, whis=(0, 100), widths=0.6, medianprops=dict(color="C0"))
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_ylim(bottom=0)
    names = [*variances]
    shown = choose_evenly(names, MAX_TICKS)
    places = [1 + names.index(layer) for layer in shown]
    axes[-1].set_xticks(places, shown, rotation=45, ha="right", rotation_mode="anchor")
    return figure


def _arrays_named(kind: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the values of paths whose last part is `kind`, by the layer before it."""
    suffix = f"/{kind}"
    return {p.removesuffix(suffix): value for p, value in arrays.items() if p.endswith(suffix)}


@dataclass(frozen=True)
class NormHistory:
    """The norms of a run's arrays at some of its steps.

    Attributes:
        steps: ascending; 0 is the start.
        norms: by the path of the array, one for each step.
        drops: steps by which the learning rate had been divided.
    """

    steps: list[int]
    norms: dict[str, list[float]]
    drops: list[int]


def load_norm_history(workdir: str | Path) -> NormHistory:
    """Load the norms at the start and in every checkpoint of a run.

    A checkpoint that cannot be read is left out, with a line on stderr.

    Raises:
        InputError: as `load_trained`; or no checkpoint can be read.
    """
    model = load_trained(workdir)
    found, layers = {}, layer_order(model.config)
    for step in saved_steps(Path(workdir)):
        if step > model.step:  # could not be read
            continue
        if variables := load_readable_variables(workdir, step, model.config):
            found[step] = summarize_parameters(variables["params"], layers)
    if not found:
        raise none_readable(workdir)
    if (initial := initial_params(model)) is not None:
        found = {0: summarize_parameters(initial, layers), **found}
    paths = [row.path for row in found[max(found)]]
    norms = {path: [rows[i].norm for rows in found.values()] for i, path in enumerate(paths)}
    train = [record for record in read_records(Path(workdir)) if record["split"] == "train"]
    drops = [
        after["step"]
        for before, after in pairwise(train)
        if after["learning_rate"] < before["learning_rate"]
    ]
    return NormHistory(list(found), norms, drops)


def plot_norms(history: NormHistory) -> Figure:
    """Plot the norm of every layer's weights over training, absolute and relative to the first.

    Of more than MAX_LAYERS layers the color is that of the depth, and only some are named.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = _arrays_named("kernel", history.norms)
    named = choose_evenly([*found], MAX_LAYERS)
    depths = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(found)))
    for i, (layer, norms) in enumerate(found.items()):
        color = f"C{i}" if len(found) == len(named) else depths[i]
        label = layer if layer in named else None
        style: dict[str, Any] = dict(color=color, marker=".", label=label)
        left.plot(history.steps, norms, **style)
        right.plot(history.steps, np.divide(norms, norms[0]), **style)
    left.set(title="norm of the weights")
    left.set_ylim(bottom=0)
    right.set(title=f"norm relative to step {history.steps[0]}")
    right.axhline(1, color="0.85", linewidth=1, zorder=0)
    for axis in (left, right):
        for step in history.drops:
            axis.axvline(step, color="0.85", linewidth=1, zorder=0)
        axis.set_xlabel(f"steps{' (line: learning rate divided)' if history.drops else ''}")
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure
