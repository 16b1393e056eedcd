"""Collect what the report shows of images: predictions, neighbors, confusions, activations."""

from dataclasses import dataclass

import numpy as np

from alexnet_jax.data.names import readable_name, short_name
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel
from experiments import html_page
from experiments.figures import plots
from experiments.figures.fonts import replace_undrawable_names
from experiments.figures.predictions import (
    Predictions,
    compute_image_activations,
    confusion_matrix,
    find_neighbors,
    layer_activations,
    load_crops,
    most_confused,
)

NUM_CLASSES = 5  # most probable classes
NUM_NEIGHBORS = 6  # of each image, as in figure 4 of the AlexNet paper
NEIGHBOR_CANDIDATES = 10_000  # training images searched
NEIGHBOR_SIDE = 96  # pixels to which larger images of that section are scaled down
NUM_LAYERS = 5  # whose activations are shown
NUM_CONFUSED = 10


@dataclass(frozen=True)
class ClassProbability:
    """A class: its name, its probability by the model, and whether it is the label."""

    name: str
    probability: float
    correct: bool


@dataclass(frozen=True)
class PredictedImage:
    """An image, its true class and up to five classes, the most probable first."""

    image: html_page.EmbeddedImage
    label: str
    top5: list[ClassProbability]


@dataclass(frozen=True)
class NearImage:
    """A training image near another image: its class, its distance, and whether it is of it."""

    image: html_page.EmbeddedImage
    label: str
    distance: float
    correct: bool


@dataclass(frozen=True)
class ImageWithNeighbors:
    """An image, its true class and the nearest training images, the nearest first."""

    image: html_page.EmbeddedImage
    label: str
    nearest: list[NearImage]


@dataclass(frozen=True)
class ShownActivations:
    """The activations of a layer for one image.

    Attributes:
        text: name of the layer, and what is shown of it.
        columns: an image of each column.
    """

    text: str
    columns: list[html_page.EmbeddedImage]


def make_predicted_images(
    model: TrainedModel, pack: Pack, predictions: Predictions
) -> list[PredictedImage]:
    """Return images with their labels and most probable classes."""
    if not len(predictions.index):
        return []
    shown = []
    images = load_crops(model, pack, predictions.split, predictions.index)
    for index, label, image, row in zip(
        predictions.index, predictions.labels, images, predictions.probabilities, strict=True
    ):
        name = readable_name(model.class_names[label])
        alt = f"Image {index} of the {predictions.split} split: {name}"
        top5 = [
            ClassProbability(short_name(model.class_names[c]), float(row[c]), bool(c == label))
            for c in np.argsort(-row, kind="stable")[:NUM_CLASSES]
        ]
        shown.append(PredictedImage(html_page.embed_pixels(image, alt), name, top5))
    return shown


def make_neighbors(
    model: TrainedModel, pack: Pack, predictions: Predictions
) -> tuple[list[ImageWithNeighbors], str]:
    """Return images with the training images nearest to them, and what was compared.

    Raises:
        InputError: the model has no hidden layer.
    """
    found = find_neighbors(model, pack, predictions, NEIGHBOR_CANDIDATES, NUM_NEIGHBORS)
    names = [short_name(name) for name in model.class_names]

    def embed(split: str, index: int, label: int, pixels: np.ndarray) -> html_page.EmbeddedImage:
        """Return an image for the page, described by its index in the split and its class."""
        alt = f"Image {index} of the {split} split: {names[label]}"
        return html_page.embed_pixels(pixels, alt, NEIGHBOR_SIDE)

    shown = []
    images = load_crops(model, pack, predictions.split, predictions.index)
    for row, image in enumerate(images):
        label = predictions.labels[row]
        crops = load_crops(model, pack, "train", found.index[row])
        nearest = [
            NearImage(
                embed("train", index, near, crop), names[near], float(distance), bool(near == label)
            )
            for index, near, distance, crop in zip(
                found.index[row], found.labels[row], found.distances[row], crops, strict=True
            )
        ]
        query = embed(predictions.split, predictions.index[row], label, image)
        shown.append(ImageWithNeighbors(query, names[label], nearest))
    return shown, found.text


def make_activations(
    model: TrainedModel, pack: Pack, split: str, index: int
) -> list[ShownActivations]:
    """Return the activations of some layers for an image of a split.

    Raises:
        InputError: the model has no hidden layer.
    """
    (image,) = load_crops(model, pack, split, [index])
    found = compute_image_activations(model, image)
    shown = []
    for name, layer in layer_activations(model.config, found, NUM_LAYERS).items():
        low, high = min(0.0, float(layer.min())), float(layer.max())
        texts = [plots.describe_activations(column) for column in layer]
        if len(layer) > 1:
            texts = [f"column {column}, {text}" for column, text in enumerate(texts)]
        columns = [
            html_page.embed_heatmap(
                plots.tile_activations(column), low, high, f"Activations of {name}: {text}"
            )
            for column, text in zip(layer, texts, strict=True)
        ]
        shown.append(ShownActivations(f"{name}: {'; '.join(texts)}", columns))
    if not shown:
        raise InputError("the model has no hidden layer, and so no activations to show")
    return shown


def summarize_confusion(
    predictions: Predictions, names: tuple[str, ...]
) -> tuple[list[tuple[str, str, int, int]], html_page.EmbeddedImage | None]:
    """Return the pairs of classes most often confused, and for few classes the matrix.

    Returns:
        A list of (true class, predicted, images, images of the true class), and a figure.
    """
    counts = confusion_matrix(predictions.labels, predictions.classes, len(names))
    pairs = [
        (readable_name(names[a]), readable_name(names[b]), n, int(counts[a].sum()))
        for a, b, n in most_confused(counts, NUM_CONFUSED)
    ]
    if len(names) > plots.MATRIX_CLASSES:
        return pairs, None
    alt = f"Confusion matrix of {len(names)} classes: images by true and by predicted class."
    figure = html_page.scale_figure(
        plots.plot_confusion(counts, replace_undrawable_names(names)), 0.7
    )
    return pairs, html_page.embed_figure(figure, alt)
