"""Compute the sizes of the papers' networks, and look up their published errors."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from alexnet_jax import fields
from alexnet_jax.analysis.summary import LayerSummary, summarize
from alexnet_jax.config import validated
from alexnet_jax.evaluate import VIEW_NAMES
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig
from experiments.tables.networks import NETWORKS as KNOWN_NETWORKS
from experiments.tables.networks import load_preset
from experiments.tables.published import PAPERS, TOP1, TOP5, Column, Row

# The networks of the comparison: their names in `tables.networks`, and on the page.
NETWORKS = {
    "AlexNet": "AlexNet",
    "ZFNet": "ZFNet",
    "VGG A, S = 256": "VGG-11 (A)",
    "VGG B, S = 256": "VGG-13 (B)",
    "VGG D, S = 256": "VGG-16 (D)",
    "VGG E, S = 256": "VGG-19 (E)",
    "GoogLeNet": "GoogLeNet",
    "ResNet-18 A": "ResNet-18",
    "ResNet-34 B": "ResNet-34",
    "ResNet-50 B": "ResNet-50",
    "ResNet-101 B": "ResNet-101",
    "ResNet-152 B": "ResNet-152",
}
FAMILIES = dict(alexnet="AlexNet", zfnet="ZFNet", vgg="VGG", googlenet="GoogLeNet", resnet="ResNet")
IMAGES, CLASSES = "ILSVRC-2012", 1000
COMPARED_VIEWS = ("ten", "dense")  # those of single models that most papers have


@dataclass(frozen=True)
class PublishedErrors:
    """The errors of a single model in its paper, on validation images.

    Attributes:
        top1, top5: in percent; None where the paper has none.
        source: the table and the way of testing.
    """

    top1: float | None
    top5: float | None
    source: str


@dataclass(frozen=True)
class NetworkSummary:
    """The sizes of a network, and its errors.

    Attributes:
        name: of the network.
        family: of it.
        crop: side of its input in pixels.
        depth: number of layers with weights on the longest path from image to logits.
        parameters: number of weights and biases at test time, with those of batch normalization.
        multiply_adds: number of multiply-adds of one crop.
        receptive_fields: sides in pixels of the receptive fields of the convolutions on that path,
            first to last. Where branches join, the field is the largest of theirs.
        stride: distance in pixels between the receptive fields of the last convolution.
        published: errors in its paper.
    """

    name: str
    family: str
    crop: int
    depth: int
    parameters: int
    multiply_adds: int
    receptive_fields: tuple[int, ...]
    stride: int
    published: PublishedErrors


def summarize_networks(names: dict[str, str]) -> list[NetworkSummary]:
    """Return the sizes of networks, with a progress bar.

    Args:
        names: names for the page by the names in `tables.networks`.
    """
    bar = tqdm(names.items(), desc="networks", leave=False)
    return [summarize_network(network, name) for network, name in bar]


def summarize_network(network: str, name: str) -> NetworkSummary:
    """Return the sizes of a network of `tables.networks` for ImageNet.

    Args:
        network: its name there.
        name: its name on the page.
    """
    (known,) = (one for one in KNOWN_NETWORKS if one.name == network)
    changes = {"model.num_classes": CLASSES}
    config = validated(fields.replace(load_preset(known.full[0]), changes))
    layers = [layer for layer in summarize(config) if not layer.training_only]
    path = find_longest_path(config.model, layers)
    convolutions = [layer for layer in path if len(layer.output) == 3]
    sizes = [layer.receptive_field for layer in convolutions if layer.receptive_field]
    stride = convolutions[-1].stride
    assert len(sizes) == len(convolutions)
    assert stride is not None
    return NetworkSummary(
        name=name,
        family=FAMILIES[known.paper],
        crop=config.data.crop,
        depth=len(path),
        parameters=sum(layer.parameters for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        receptive_fields=tuple(sizes),
        stride=stride,
        published=find_published(network),
    )


def find_longest_path(model: ModelConfig, layers: Sequence[LayerSummary]) -> list[LayerSummary]:
    """Return the convolutions and fully-connected layers on the longest path, in order.

    In a residual network that is the path past the shortcuts, and in GoogLeNet the one through the
    larger kernels of the Inception modules, whose receptive fields are the largest.

    Args:
        model: config of the model.
        layers: layers with parameters at test time.
    """
    pattern = ".*"
    if isinstance(model, ResNetConfig):
        pattern = r"(conv\d+_\d+/)?conv\d+|fc"
    elif isinstance(model, GoogLeNetConfig):
        pattern = r"conv1|conv2(_reduce)?|inception_\w+/5x5(_reduce)?|fc"
    return [layer for layer in layers if re.fullmatch(pattern, layer.name)]


def find_published(network: str) -> PublishedErrors:
    """Return the errors of a single model on the validation images of ILSVRC-2012.

    They are those of ten crops, or of dense testing; the first row that has top-5 errors, else the
    first one.

    Raises:
        LookupError: no paper has such a row.
    """
    found: list[PublishedErrors] = []
    for paper in PAPERS:
        for table in paper.tables:
            for row in table.rows:
                if table.images == IMAGES and row.networks == ((network, 1),):
                    if row.views not in COMPARED_VIEWS:
                        continue
                    views = VIEW_NAMES[row.views] if paper.states_views else "views not stated"
                    source = f"table {table.number}, {views}"
                    top1, top5 = (_error_of(row, table.columns, e) for e in (TOP1, TOP5))
                    found.append(PublishedErrors(top1, top5, source))
    if not found:
        raise LookupError(f"no table has errors of {network}")
    return next((one for one in found if one.top5 is not None), found[0])


def _error_of(row: Row, columns: Iterable[Column], error: str) -> float | None:
    """Return an error on validation images of a row."""
    pairs = zip(columns, row.paper, strict=True)
    values = (e for column, e in pairs if (column.split, column.error) == ("validation", error))
    return next(values, None)
