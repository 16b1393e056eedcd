"""Collect what a page shows of images: predictions, activations, occlusion, nearest images."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_jax.analysis.occlusion import OcclusionMaps, compute_occlusion_maps
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel
from experiments.explore.channel_content import ChannelContent, round_number
from experiments.explore.embedded_images import ImageTable, shrink_channels
from experiments.explore.layers import ShownLayer
from experiments.figures.predictions import (
    Predictions,
    choose_rows,
    compute_image_activations,
    find_neighbors,
    load_crops,
    predict_split,
)
from experiments.figures.tiles import tile_channels, tile_units

NUM_IMAGES = (4, 4)  # correct and wrong predictions
NUM_CLASSES = 5  # most probable classes
NUM_NEIGHBORS = 6  # as in figure 4 of the AlexNet paper
NEIGHBOR_CANDIDATES = 10_000  # training images searched
IMAGE_SIDE = 128  # pixels to which larger images are scaled down
NEIGHBOR_SIDE = 64
TILE_SIDE = 32  # pixels to which larger activations are scaled down
TILES_ACROSS = 8
OCCLUDER = 4  # the gray square's side is a fraction of the crop's: 1 / OCCLUDER
OCCLUSION_POSITIONS = 16  # positions of the square along an axis, about


def choose_images(
    model: TrainedModel, pack: Pack, split: str, index: tuple[int, ...]
) -> Predictions:
    """Return the predictions for the images to show.

    Args:
        model: the model.
        pack: its data set.
        split: name of the split.
        index: indices in the split; () chooses some correct and some wrong predictions in a fixed
            random order.

    Raises:
        InputError: the split does not have such an image.
    """
    if index:
        return predict_split(model, pack, split, index=np.array(index))
    predictions = predict_split(model, pack, split)
    return predictions.select(choose_rows(predictions, *NUM_IMAGES))


@dataclass(frozen=True)
class ImageCollector:
    """Collects the content of images.

    Attributes:
        model: the model.
        pack: its data set.
        split: name of the images' split.
        table: images of the page, to which those of the images are added.
        layers: layers whose activations are shown.
        channels: by layer, the channels that are shown.
    """

    model: TrainedModel
    pack: Pack
    split: str
    table: ImageTable
    layers: list[ShownLayer]
    channels: dict[str, list[ChannelContent]]

    def collect(self, shown: Predictions) -> tuple[list[dict[str, Any]], str]:
        """Return the content of images, as the page's script reads it.

        Args:
            shown: the predictions for the images, from `choose_images`.

        Returns:
            The images, and a sentence about the nearest training images, or why there are none.
        """
        crops = load_crops(self.model, self.pack, self.split, shown.index)
        neighbors, text = self._find_neighbors(shown)
        maps = self._occlude(crops)
        content = []
        for row, crop in enumerate(crops):
            label, shares = int(shown.labels[row]), shown.probabilities[row]
            best = np.argsort(-shares, kind="stable")[:NUM_CLASSES]
            content.append(
                {
                    "index": int(shown.index[row]),
                    "label": label,
                    "picture": self.table.add_image(crop, IMAGE_SIDE),
                    "probability": round_number(shares[label]),
                    "top5": [[int(c), round_number(shares[c])] for c in best],
                    "activations": self._collect_activations(crop),
                    "occlusion": self._draw_occlusion(maps[row], label),
                    "neighbors": neighbors[row],
                }
            )
        return content, text

    def _collect_activations(self, crop: np.ndarray) -> list[dict[str, Any]]:
        """Return the activations of the shown channels of every layer, and of all units.

        Their colors are those of the range of the whole layer, with the channels not shown.
        """
        activations, content = compute_image_activations(self.model, crop), []
        for layer in self.layers:
            values = activations[layer.op]
            channels = [one.channel for one in self.channels[layer.name]]
            if values.ndim == 1:
                tiled, peaks = tile_units(values, 2 * math.isqrt(len(values))), values
            else:
                small = shrink_channels(values[..., channels], TILE_SIDE)
                tiled, peaks = tile_channels(small, TILES_ACROSS), values.max((0, 1))
            low, high = min(0.0, float(values.min())), float(peaks.max())
            content.append(
                {
                    "picture": self.table.add_heatmap(tiled, low, high),
                    "height": tiled.shape[0],
                    "width": tiled.shape[1],
                    "active": round_number(float((values > 0).mean())),
                    "strongest": int(peaks.argmax()),
                    "value": round_number(high),
                }
            )
        return content

    def _occlude(self, crops: np.ndarray) -> list[OcclusionMaps]:
        """Return the outputs of the model for a gray square at every position."""
        crop = self.model.config.data.crop
        side = -(-crop // OCCLUDER)
        step = max(1, (crop - side) // OCCLUSION_POSITIONS)
        op = self.layers[-1].op  # its sums are not shown
        return compute_occlusion_maps(self.model, crops, op, side, step)

    def _draw_occlusion(self, maps: OcclusionMaps, label: int) -> dict[str, Any]:
        """Return the map of the true class's probability by the position of the square's center."""
        values, crop = maps.probabilities[..., label], self.model.config.data.crop
        row, column = np.unravel_index(values.argmin(), values.shape)
        first, last = maps.tops[0] + maps.side / 2, maps.tops[-1] + maps.side / 2
        half = (last - first) / max(len(maps.tops) - 1, 1) / 2
        return {
            "picture": self.table.add_heatmap(values, 0, 1, "viridis"),
            "side": maps.side,
            "lowest": round_number(float(values.min())),
            "highest": round_number(float(values.max())),
            "row": int(maps.tops[row]) + maps.side // 2,
            "column": int(maps.tops[column]) + maps.side // 2,
            # Of the map within the image, in shares of the image's side.
            "start": round_number((first - half) / crop),
            "size": round_number((last - first + 2 * half) / crop),
        }

    def _find_neighbors(self, shown: Predictions) -> tuple[list[list[dict[str, Any]]], str]:
        """Return the nearest training images of each image, and a sentence about them."""
        try:
            near = find_neighbors(self.model, self.pack, shown, NEIGHBOR_CANDIDATES, NUM_NEIGHBORS)
        except InputError as error:
            return [[] for _ in shown.index], f"Left out: {error}."
        found = []
        for indices, labels, distances in zip(near.index, near.labels, near.distances, strict=True):
            crops = load_crops(self.model, self.pack, "train", indices)
            found.append(
                [
                    {
                        "index": int(index),
                        "label": int(label),
                        "distance": round_number(float(distance)),
                        "picture": self.table.add_image(crop, NEIGHBOR_SIDE),
                    }
                    for index, label, distance, crop in zip(
                        indices, labels, distances, crops, strict=True
                    )
                ]
            )
        text = (
            f"{near.text[0].upper()}{near.text[1:]}, with Euclidean distances; red: another class."
        )
        return found, text
