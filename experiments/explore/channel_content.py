"""Collect what a page shows of channels: kernels, strongest activations and their projections."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet_jax.analysis.deconvnet import methods_for
from alexnet_jax.analysis.strongest import Strongest, make_strongest_fn
from alexnet_jax.config import Config
from alexnet_jax.data.pack import Pack
from alexnet_jax.progress import progress_bar
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import TrainedModel
from experiments.explore.embedded_images import ImageTable
from experiments.explore.layers import ShownLayer
from experiments.figures.channels import FILL, Projector, choose_channels
from experiments.figures.predictions import (
    first_conv_kernels,
    load_crops,
    split_columns,
)
from experiments.figures.tiles import tile_channels, tile_units

NUM_STRONGEST = 9  # activations of a channel, as in figure 2 of Zeiler and Fergus
PATCH_SIDE = 64  # pixels to which larger patches and projections are scaled down
MAX_SLICES = 64  # input channels up to which the kernels of later convolutions are drawn


@dataclass(frozen=True)
class ChannelContent:
    """What the page shows of a channel. Images are indices in `ImageTable.sources`.

    Attributes:
        channel: its number, over all columns; of the classifier that of the class.
        column: its column.
        branch: name of the branch that computes it; "" in a layer without branches.
        values: the strongest activations, strongest first.
        images: indices of their images in the split.
        labels: classes of these images.
        patches: images of their receptive fields.
        projections: images of the activations projected to pixels.
        kernel: image of its kernel, or None.
    """

    channel: int
    column: int
    branch: str
    values: list[float]
    images: list[int]
    labels: list[int]
    patches: list[int]
    projections: list[int]
    kernel: int | None


class ChannelCollector:
    """Collects the content of a model's channels."""

    def __init__(self, model: TrainedModel, pack: Pack, split: str, table: ImageTable) -> None:
        """Prepare for the images of a split.

        Args:
            model: the model.
            pack: its data set.
            split: name of the split that is searched.
            table: images of the page, to which those of the channels are added.
        """
        self.model, self.pack, self.split, self.table = model, pack, split, table
        self.projector = Projector(model)

    def collect(self, layers: list[ShownLayer], count: int) -> dict[str, list[ChannelContent]]:
        """Return the content of up to `count` channels of every layer, by the layer's name.

        They are those of a fixed random order, with those that are never active last.
        """
        ops = [layer.op for layer in layers]
        find = make_strongest_fn(self.model, self.pack, self.split, ops, NUM_STRONGEST)
        found = find(self.model.variables)
        chosen = {
            layer.name: np.sort(choose_channels(found[layer.op], count)).tolist()
            for layer in layers
        }
        total = sum(map(len, chosen.values()))
        todo = ((layer, channel) for layer in layers for channel in chosen[layer.name])
        content: dict[str, list[ChannelContent]] = {layer.name: [] for layer in layers}
        for layer, channel in progress_bar(todo, total, "channels", "channel"):
            one = self._collect_channel(layer, channel, found[layer.op])
            content[layer.name].append(one)
        return content

    def _collect_channel(
        self, layer: ShownLayer, channel: int, strongest: Strongest
    ) -> ChannelContent:
        """Return the content of a channel."""
        values, positions = strongest.values[channel], strongest.positions[channel]
        images = strongest.images[channel]
        crops = self._load(images)
        projected = self.projector.project(layer.op, crops, positions)
        patches = self.projector.cut(layer.op, crops, positions, FILL)
        projections = self.projector.cut(layer.op, projected, positions, fill=0)
        return ChannelContent(
            channel=channel,
            column=channel * layer.columns // layer.shape[-1],
            branch=layer.branch_of(channel),
            values=[round_number(value) for value in values],
            images=images.tolist(),
            labels=self.pack.splits[self.split].labels[images].tolist(),
            patches=[self.table.add_image(one, PATCH_SIDE) for one in patches],
            projections=[self.table.add_signal(one, PATCH_SIDE) for one in projections],
            kernel=draw_kernel(self.table, self.model, layer, channel),
        )

    def _load(self, images: np.ndarray) -> np.ndarray:
        """Load the center crops of images of the split, each of them once."""
        unique, rows = np.unique(images, return_inverse=True)
        return load_crops(self.model, self.pack, self.split, unique)[rows]


def draw_kernel(
    table: ImageTable, model: TrainedModel, layer: ShownLayer, channel: int
) -> int | None:
    """Add the image of a kernel, in colors or with a tile for each input channel.

    Args:
        table: images of the page.
        model: the model.
        layer: the layer.
        channel: number of the kernel, over all columns.

    Returns:
        The index of the image; None for a layer without kernels of its own or with more than
        MAX_SLICES input channels.
    """
    if not layer.has_kernels:
        return None
    if layer.takes_image:
        return table.add_signal(_kernel_of(first_conv_kernels(model), channel), PATCH_SIDE)
    kernels = np.asarray(leaves_by_path(model.params)[f"{layer.name}/kernel"])
    weights = _kernel_of(split_columns(model.config, kernels), channel)
    side, _, inputs = weights.shape
    if inputs > MAX_SLICES:
        return None
    across = int(np.ceil(inputs**0.5))
    # Between tiles of one pixel gaps would take most of the image.
    tiled = tile_units(weights[0, 0], across) if side == 1 else tile_channels(weights, across)
    largest = float(np.abs(weights).max())
    return table.add_heatmap(tiled, -largest, largest, "gray")


def _kernel_of(kernels: np.ndarray, channel: int) -> np.ndarray:
    """Return the kernel of a channel, (height, width, inputs).

    Args:
        kernels: (columns, height, width, inputs, kernels).
        channel: its number, over all columns.
    """
    column, kernel = divmod(channel, kernels.shape[-1])
    found: np.ndarray = kernels[column, ..., kernel]
    return found


def round_number(value: float) -> float:
    """Return a number with four significant digits, as the page has it."""
    return float(f"{value:.4g}")


def layers_to_json(
    config: Config, layers: list[ShownLayer], content: dict[str, list[ChannelContent]]
) -> list[dict[str, Any]]:
    """Return the content of layers as the page's script reads it."""
    crop = config.data.crop
    return [
        {
            "name": layer.name,
            "description": layer.description,
            "kind": layer.kind,
            "units": len(layer.shape) == 1,
            "columns": layer.columns,
            "total": layer.shape[-1],
            "field": min(layer.field.size, crop),
            "whole": layer.field.size >= crop or len(layer.shape) == 1,
            "colored": layer.takes_image,
            "method": methods_for(config)[0],
            "channels": [asdict(one) for one in content[layer.name]],
        }
        for layer in layers
    ]
