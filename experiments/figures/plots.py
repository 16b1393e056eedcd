"""Plot a model and its predictions: arrays in, Matplotlib figures out.

The arrays come from `predictions.py`. This module reads no file and runs no model.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.data.names import short_name
from alexnet_jax.records import Record, final_records, training_records
from experiments.figures.fonts import plain_text
from experiments.figures.predictions import most_confused
from experiments.figures.tiles import scale_signed, tile_channels, tile_units

KERNELS_PER_ROW = 16  # kernels in a row
MAX_CHANNELS = 16  # channels of a column that are shown for one image
MATRIX_CLASSES = 20  # classes up to which a confusion matrix is readable
MAX_PAIRS = 20  # pairs of classes listed at most
CORRECT_COLOR, WRONG_COLOR, OTHER_COLOR = "#62b077", "#c0392b", "#a9bcd6"


@plain_text
def plot_kernels(
    kernel: np.ndarray, colorfulness: Sequence[float] = (), text: str = "", layer: str = "conv1"
) -> Figure:
    """Plot the kernels of the first convolution, one column of the model at a time (figure 3).

    Args:
        kernel: (columns, height, width, 1 or 3, kernels). Each kernel is scaled by itself so
            that zero is mid-gray and its largest weight is black or white.
        colorfulness: of each column, from `compute_column_colorfulness`; () without color.
        text: a line below the kernels.
        layer: name of the convolution.
    """
    columns, height, width, _, count = kernel.shape
    rows = -(-count // KERNELS_PER_ROW)
    foot = 0.35 if text else 0.0
    heights = [0.545 * rows + 0.35] * columns
    figure = Figure(figsize=(0.55 * KERNELS_PER_ROW, sum(heights) + foot))  # inches
    ratios = [*heights, max(foot, 0.01)]
    *parts, last = figure.subfigures(columns + 1, 1, squeeze=False, height_ratios=ratios)[:, 0]
    for c, part in enumerate(parts):
        name = f"{layer}, column {c}" if columns > 1 else layer
        title = f"{name}: {count} kernels of {height}×{width}"
        if len(colorfulness):
            title += f", colorfulness {colorfulness[c]:.2f}"
        part.suptitle(title, fontsize=10, y=1 - 0.08 / heights[c], va="top")
        axes = part.subplots(rows, KERNELS_PER_ROW, squeeze=False)
        for k, axis in enumerate(axes.flat):
            axis.set_axis_off()
            if k < count:
                one = scale_signed(kernel[c, :, :, :, k])
                axis.imshow(pixels_of(one), cmap="gray", vmin=0, vmax=1)
        top = 1 - 0.3 / heights[c]
        part.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=top, wspace=0.1, hspace=0.1)
    last.text(0.5, 0.6, text, ha="center", va="center", fontsize=9)
    return figure


@plain_text
def plot_curves(records: Sequence[Record], title: str) -> Figure:
    """Plot top-1 error over epochs, on training and validation images, and the final error.

    Args:
        records: of metrics.jsonl.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    colors = {"train": "0.6", "validation": "C0"}
    for split, rows in training_records(records).items():
        errors = [100 * r["top1_error"] for r in rows]
        dot = "." if len(rows) < 3 else ""  # too few for a line to be seen
        axis.plot([_epoch(r) for r in rows], errors, label=split, color=colors[split], marker=dot)
    if final := final_records(records).get("ten"):
        error = 100 * final["top1_error"]
        name = f"{final['split']}, ten views: {error:.2f} %"
        axis.axhline(error, color="C3", linewidth=1, linestyle="--", label=name)
    drops = [
        _epoch(after)
        for before, after in pairwise(r for r in records if r["split"] == "train")
        if after["learning_rate"] < before["learning_rate"]
    ]
    for epoch in drops:
        axis.axvline(epoch, color="0.85", linewidth=1, zorder=0)
    rate = " (vertical lines: learning rate divided)" if drops else ""
    axis.set(xlabel=f"epochs{rate}", ylabel="top-1 error, %", title=title)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.lines:
        axis.legend(frameon=False)
    return figure


@plain_text
def plot_predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Plot images with their label and the five most probable classes (figure 4, left).

    The true class's bar is green and ticked; a misclassified image has its label in red.

    Args:
        images: (n, height, width, 1 or 3) uint8.
        labels: (n,) class numbers.
        probabilities: (n, classes).
        names: of the classes.
    """
    across = min(4, len(images))
    down = -(-len(images) // across)
    figure = Figure(figsize=(2.2 * across, 2.9 * down + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(
        2 * down, across, squeeze=False, gridspec_kw={"height_ratios": [1.5, 1] * down}
    )
    for axis in grid.flat:
        axis.set_axis_off()
    for i, (image, label, shares) in enumerate(zip(images, labels, probabilities, strict=True)):
        row, column = divmod(i, across)
        best = np.argsort(-shares, kind="stable")[:5]
        color = "black" if best[0] == label else WRONG_COLOR
        _show(grid[2 * row, column], image, class_label(names[label]), color)
        _bars(grid[2 * row + 1, column], best, shares, label, names)
    return figure


@plain_text
def plot_neighbors(
    queries: np.ndarray,
    query_labels: np.ndarray,
    found: np.ndarray,
    found_labels: np.ndarray,
    distances: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Plot images, each with the training images nearest to it (figure 4, right).

    The query images are at the left. A neighbor of another class has its name in red.

    Args:
        queries: (q, height, width, 1 or 3) uint8; query_labels: (q,).
        found: (q, k, height, width, 1 or 3) uint8; found_labels: (q, k).
        distances: (q, k), Euclidean, in units of the features.
        names: of the classes.
    """
    down, across = found_labels.shape
    figure = Figure(figsize=(1.15 * (across + 1) + 0.2, 1.4 * down + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    widths = [1, 0.15, *[1] * across]
    grid = figure.subplots(down, across + 2, squeeze=False, gridspec_kw={"width_ratios": widths})
    for q, row in enumerate(grid):
        row[1].set_axis_off()
        _show(row[0], queries[q], class_label(names[query_labels[q]], 16), size=8, frame=True)
        for k, axis in enumerate(row[2:]):
            color = "black" if found_labels[q, k] == query_labels[q] else WRONG_COLOR
            name = f"{class_label(names[found_labels[q, k]], 16)}\n{distances[q, k]:#.3g}"
            _show(axis, found[q, k], name, color, size=7)
    return figure


@plain_text
def plot_activations(
    image: np.ndarray, layers: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Plot every layer's activations for one image.

    A convolution shows the first MAX_CHANNELS channels of each column, a fully-connected layer all
    units. Each layer is scaled by itself: black is 0, or its lowest activation if that is negative;
    the brightest is its highest.

    Args:
        image: (height, width, 1 or 3) uint8.
        layers: activations by layer, (columns, height, width, channels) or (columns, units).
    """
    width, line = 4.4, 0.32  # inches: of a column, of its title
    mosaics = {
        name: [tile_activations(column) for column in layer] for name, layer in layers.items()
    }
    sizes = [tiles[0].shape for tiles in mosaics.values()]
    heights = [1.6, *(width * tall / wide + line for tall, wide in sizes)]
    columns = max(map(len, mosaics.values()))
    figure = Figure(figsize=(width * columns, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    subfigures = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    first, *parts = subfigures[:, 0]
    _show(first.subplots(), image, "")
    for part, (name, tiles) in zip(parts, mosaics.items(), strict=True):
        layer = layers[name]
        low, high = min(0.0, float(layer.min())), max(float(layer.max()), 1e-12)
        for c, axis in enumerate(part.subplots(1, len(tiles), squeeze=False)[0]):
            axis.imshow(tiles[c], cmap="magma", vmin=low, vmax=high)
            axis.set_axis_off()
            title = f"{name}, column {c}" if len(tiles) > 1 else name
            axis.set_title(f"{title}: {describe_activations(layer[c])}", fontsize=8)
    return figure


@plain_text
def plot_confusion(counts: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """Plot the confusion matrix, or with many classes the pairs most often confused.

    Args:
        counts: (true class, predicted class), numbers of images.
        names: of the classes.
    """
    return (
        _plot_matrix(counts, names, title)
        if len(counts) <= MATRIX_CLASSES
        else _plot_pairs(counts, names, title)
    )


def _show(
    axis: Axes,
    image: np.ndarray,
    name: str,
    color: str = "black",
    size: float = 9,
    frame: bool = False,
) -> None:
    """Show an image, (height, width, 1 or 3) uint8, with a name below it."""
    axis.set_axis_on()
    axis.imshow(pixels_of(image), cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(name, color=color, fontsize=size)
    axis.spines[:].set_visible(frame)


def _epoch(record: Record) -> float:
    """Return the epoch of a record of training or validation."""
    epoch = record["epoch"]
    assert epoch is not None
    return epoch


def pixels_of(image: np.ndarray) -> np.ndarray:
    """Return an image (height, width, 1 or 3) as Matplotlib takes it: gray without channel axis."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _bars(
    axis: Axes, best: np.ndarray, shares: np.ndarray, label: int, names: Sequence[str]
) -> None:
    """Plot the probabilities of some classes as bars with the names on them."""
    axis.set_axis_on()
    colors = [CORRECT_COLOR if c == label else OTHER_COLOR for c in best]
    axis.barh(range(len(best)), shares[best], color=colors, height=0.85)
    for place, c in enumerate(best):
        tick = " ✓" if c == label else ""
        text = f"{class_label(names[c])}{tick}"
        axis.text(0.02, place, text, va="center", fontsize=7, weight="bold" if tick else None)
    axis.set(xlim=(0, 1), ylim=(4.5, -0.5), xticks=[], yticks=[])
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def tile_activations(column: np.ndarray) -> np.ndarray:
    """Tile channels (height, width, channels) or units (units,) into one image, NaN between.

    These are the first MAX_CHANNELS channels, or all units.
    """
    if column.ndim == 1:
        return tile_units(column, math.isqrt(8 * len(column)))  # about eight times as wide as tall
    shown = column[:, :, :MAX_CHANNELS]
    return tile_channels(shown, MAX_CHANNELS // 2, gap=max(1, len(column) // 20))


def describe_activations(column: np.ndarray) -> str:
    """Return how many channels or units `tile_activations` shows, and how many are above 0."""
    active = f"{100 * (column > 0).mean():.0f} % above 0"
    if column.ndim == 1:
        return f"{len(column)} units, {active}"
    height, width, count = column.shape
    some = f"{MAX_CHANNELS} of {count}" if count > MAX_CHANNELS else str(count)
    return f"{some} channels of {height}×{width}, {active}"


def _plot_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Plot the confusion matrix of few classes, shaded by the share of the true class."""
    classes = len(counts)
    side = 2.4 + 0.42 * classes
    figure = Figure(figsize=(side, side - 0.3), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for a, b in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[a, b] > 0.55 else "black"
        axis.text(b, a, str(counts[a, b]), ha="center", va="center", fontsize=7, color=color)
    ticks, labels = range(classes), [class_label(name, 16) for name in names]
    axis.set_xticks(ticks, labels, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(ticks, labels, fontsize=8)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(title, fontsize=10)
    axis.spines[:].set_visible(False)
    return figure


def _plot_pairs(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Plot the pairs of classes most often confused, as bars with their numbers of images."""
    found = most_confused(counts, MAX_PAIRS)
    figure = Figure(figsize=(7, 1.2 + 0.24 * max(len(found), 1)), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    if not found:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no image is misclassified", ha="center", va="center")
        return figure
    axis.barh(range(len(found)), [n for _, _, n in found], color=OTHER_COLOR)
    labels = [f"{class_label(names[a])} → {class_label(names[b])}" for a, b, _ in found]
    axis.set_yticks(range(len(found)), labels, fontsize=8)
    for place, (a, _, n) in enumerate(found):
        axis.text(n, place, f" {n} of {counts[a].sum()}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("images of the first class predicted as the second")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def class_label(name: str, longest: int = 22) -> str:
    """Return a class's readable name, shortened."""
    name = short_name(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"
