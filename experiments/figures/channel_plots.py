"""Plot what channels respond to: arrays in, Matplotlib figures out.

The arrays come from `channels.py` and the modules of `alexnet_jax/analysis`. This module reads no
file and runs no model.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from alexnet_jax.analysis.invariance import InvarianceCurves
from alexnet_jax.analysis.occlusion import OcclusionMaps
from experiments.figures.channels import ChannelPatches, Evolution
from experiments.figures.fonts import plain_text
from experiments.figures.plots import class_label, pixels_of
from experiments.figures.tiles import scale_signed


@plain_text
def plot_strongest(layers: Mapping[str, Sequence[ChannelPatches]], title: str = "") -> Figure:
    """Plot the strongest activations of channels (figure 2 of Zeiler and Fergus).

    Of every channel the projections are at the left, each scaled by itself so that zero is
    mid-gray, and beside them are the patches of the images that caused them.

    Args:
        layers: the channels by layer.
        title: a line above.
    """
    across = max(map(len, layers.values()))
    figure = Figure(figsize=(3 * across, 1.75 * len(layers) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    subfigures = figure.subfigures(len(layers), 1, squeeze=False)[:, 0]
    for part, (layer, channels) in zip(subfigures, layers.items(), strict=True):
        side = channels[0].patches.shape[1]
        part.suptitle(f"{layer}, patches of {side}×{side} pixels", fontsize=9)
        axes = part.subplots(1, 2 * across, squeeze=False)[0]
        for axis in axes:
            axis.set_axis_off()
        for left, right, channel in zip(axes[::2], axes[1::2], channels, strict=False):
            _imshow(left, tile(np.stack([scale_signed(one) for one in channel.projections])))
            _imshow(right, tile(channel.patches / 255))
            left.set_title(f"channel {channel.channel}", fontsize=8)
            strongest, weakest = channel.values[0], channel.values[-1]
            right.set_title(f"activations {strongest:#.3g} … {weakest:#.3g}", fontsize=8)
    return figure


@plain_text
def plot_evolution(layers: Mapping[str, Evolution], title: str = "") -> Figure:
    """Plot the projection of channels' strongest activation over training (figure 4).

    Args:
        layers: the projections by layer.
        title: a line above.
    """
    first = next(iter(layers.values()))
    rows = sum(len(one.channels) for one in layers.values())
    across = len(first.steps) + 1
    figure = Figure(figsize=(0.85 * across + 0.8, 0.85 * rows + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(rows, across, squeeze=False)
    names = [(layer, row) for layer, one in layers.items() for row in range(len(one.channels))]
    for axes, (layer, row) in zip(grid, names, strict=True):
        shown = layers[layer]
        images = [*map(scale_signed, shown.projections[row]), shown.patches[row] / 255]
        for axis, image in zip(axes, images, strict=True):
            _imshow(axis, image)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(f"{layer}\n{shown.channels[row]}", fontsize=7)
    for axis, name in zip(grid[0], [*(f"step {s}" for s in first.steps), "image"], strict=True):
        axis.set_title(name, fontsize=8)
    return figure


@plain_text
def plot_projections(
    images: np.ndarray, rows: Sequence[str], projections: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Plot images beside the projections of one activation of each by several methods.

    Args:
        images: (n, height, width, 1 or 3) uint8.
        rows: a name for each image.
        projections: (n, height, width, 1 or 3) by method.
        title: a line above.
    """
    across = 1 + len(projections)
    figure = Figure(figsize=(1.6 * across + 0.4, 1.7 * len(images) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(images), across, squeeze=False)
    for i, (axes, name) in enumerate(zip(grid, rows, strict=True)):
        shown = [images[i] / 255, *(scale_signed(each[i]) for each in projections.values())]
        for axis, image in zip(axes, shown, strict=True):
            _imshow(axis, image)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_xlabel(name, fontsize=8)
    for axis, name in zip(grid[0], ["image", *projections], strict=True):
        axis.set_title(name, fontsize=9)
    return figure


@plain_text
def plot_occlusion(
    images: np.ndarray,
    labels: np.ndarray,
    maps: Sequence[OcclusionMaps],
    channels: np.ndarray,
    projections: np.ndarray,
    names: Sequence[str],
    op: str,
    title: str = "",
) -> Figure:
    """Plot how a gray square over an image changes a model's outputs (figure 7).

    Every map has the value for a square at the place of its center.

    Args:
        images: (n, height, width, 1 or 3) uint8.
        labels: (n,) class numbers.
        maps: of each image.
        channels: (n,) the channel of each image whose activations are shown.
        projections: (n, height, width, 1 or 3) of the channel's strongest activation.
        names: of the classes.
        op: name of the op that has the channels.
        title: a line above.
    """
    figure = Figure(figsize=(12, 2.3 * len(images) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(images), 5, squeeze=False)
    for axes, image, label, found, channel, projection in zip(
        grid, images, labels, maps, channels, projections, strict=True
    ):
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        _imshow(axes[0], image / 255)
        axes[0].set_xlabel(class_label(names[label]), fontsize=8)
        low, high = found.tops[0] + found.side / 2, found.tops[-1] + found.side / 2
        half = (high - low) / max(len(found.tops) - 1, 1) / 2
        extent = (low - half - 0.5, high + half - 0.5, high + half - 0.5, low - half - 0.5)
        sums, probability = found.activations[..., channel], found.probabilities[..., label]
        for axis, values, limits in ((axes[1], sums, {}), (axes[3], probability, _SHARES)):
            shown = axis.imshow(values, cmap="viridis", extent=extent, **limits)
            figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
            _like(axis, image)
        axes[1].set_xlabel(f"{op}, channel {channel}", fontsize=8)
        _imshow(axes[2], scale_signed(projection))
        _plot_classes(axes[4], found.classes, extent, names)
        _like(axes[4], image)
    heads = ("image", "total activation", "projection", "probability of the class",
             "most probable class")  # fmt: skip
    for axis, head in zip(grid[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    return figure


_SHARES = dict(vmin=0, vmax=1)


def _plot_classes(
    axis: Axes, classes: np.ndarray, extent: tuple[float, float, float, float], names: Sequence[str]
) -> None:
    """Plot a map of classes, each in a color of the legend."""
    found, counts = np.unique(classes, return_counts=True)
    found = found[np.argsort(-counts, kind="stable")]
    colors = matplotlib.colormaps["tab20"]
    indices = np.argmax(classes[..., None] == found, axis=-1) % colors.N
    axis.imshow(colors(indices)[..., :3], extent=extent)
    shown = [
        Patch(color=colors(i % colors.N), label=class_label(names[c], 16))
        for i, c in enumerate(found[:6])
    ]
    axis.legend(
        handles=shown, fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
    )


def _like(axis: Axes, image: np.ndarray) -> None:
    """Give an axis the limits of an image."""
    height, width = image.shape[:2]
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


@plain_text
def plot_invariance(
    curves: Sequence[InvarianceCurves],
    strips: Sequence[np.ndarray],
    labels: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Plot distances of features and probabilities over transforms of images (figure 5).

    Args:
        curves: of each kind of transform.
        strips: of each kind of transform, (n, height, width, 1 or 3) examples, 0…255.
        labels: (images,) class numbers.
        names: of the classes.
        title: a line above.
    """
    ops = list(curves[0].distances)
    figure = Figure(figsize=(12, 2.6 * len(curves) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(curves), 2 + len(ops), squeeze=False)
    for axes, found, strip in zip(grid, curves, strips, strict=True):
        _imshow(axes[0], tile(strip / 255))
        axes[0].set_axis_off()
        axes[0].set_title(found.transform.name, fontsize=9)
        for axis, op in zip(axes[1:], ops, strict=False):
            axis.plot(found.values, found.distances[op])
            axis.set_title(f"distance at {op}", fontsize=9)
            axis.set_ylim(bottom=0)
        lines = axes[-1].plot(found.values, found.probabilities)
        axes[-1].set_title("probability of the true class", fontsize=9)
        axes[-1].set_ylim(0, 1)
        for axis in axes[1:]:
            axis.set_xlabel(found.transform.name, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
    shown = [class_label(names[label]) for label in labels]
    figure.legend(lines, shown, loc="outside lower center", ncols=len(shown), frameon=False,
                  fontsize=8)  # fmt: skip
    return figure


def tile(images: np.ndarray) -> np.ndarray:
    """Tile images (n, height, width, channels) of 0…1 in a square, row by row, white between."""
    count, height, width, channels = images.shape
    across = math.isqrt(count - 1) + 1
    down = -(-count // across)
    gap = max(1, height // 16)
    tiles = np.ones((down * across, height + gap, width + gap, channels))
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(down, across, *tiles.shape[1:]).swapaxes(1, 2)
    mosaic = tiles.reshape(down * (height + gap), across * (width + gap), channels)
    cut: np.ndarray = mosaic[:-gap, :-gap]
    return cut


def _imshow(axis: Axes, image: np.ndarray) -> None:
    """Show an image (height, width, 1 or 3) of 0…1."""
    axis.imshow(pixels_of(image), cmap="gray", vmin=0, vmax=1)
