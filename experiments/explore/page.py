"""Make the page about a model's channels and images as HTML."""

import datetime
from pathlib import Path
from typing import Any

from alexnet_jax import model_data
from alexnet_jax.analysis.deconvnet import methods_for
from alexnet_jax.data.names import short_name
from alexnet_jax.trained import TrainedModel
from experiments import html_page
from experiments.explore.channel_content import (
    MAX_SLICES,
    NUM_STRONGEST,
    PATCH_SIDE,
    ChannelCollector,
    layers_to_json,
)
from experiments.explore.embedded_images import ImageTable
from experiments.explore.image_content import TILE_SIDE, ImageCollector, choose_images
from experiments.explore.layers import find_layers

TEMPLATE = "explore/explore.html.jinja"
CHANNELS = 16  # of a layer
MAX_CHANNELS = 192  # of all layers: those of a deep model show fewer each
MAX_BYTES = 10_000_000  # of a page; docs/visualization.md has the times that such a page takes


def channels_per_layer(layers: int) -> int:
    """Return how many channels of each layer are shown by default."""
    return max(1, min(CHANNELS, MAX_CHANNELS // layers))


def collect_content(
    model: TrainedModel, split: str | None, channels: int | None, images: tuple[int, ...]
) -> dict[str, Any]:
    """Return what the page shows, as its script reads it and in the names of the template.

    Args:
        model: the model.
        split: whose images are searched and shown; None takes test, and validation without one.
        channels: number of channels of each layer; None for `channels_per_layer`.
        images: indices in the split of the images to show; () chooses.

    Raises:
        InputError: the images are not available, or there is no such split or image.
    """
    pack, table = model_data.open_data(model), ImageTable()
    split_name = model_data.choose_split(model, pack, split)
    model_data.print_assumptions(model, pack, split)
    predictions = choose_images(model, pack, split_name, images)
    layers = find_layers(model.config)
    count = channels or channels_per_layer(len(layers))
    found = ChannelCollector(model, pack, split_name, table).collect(layers, count)
    collector = ImageCollector(model, pack, split_name, table, layers, found)
    shown, neighbors = collector.collect(predictions)
    data = {
        "split": split_name,
        "classes": [short_name(name) for name in model.class_names],
        "layers": layers_to_json(model.config, layers, found),
        "images": shown,
        "pictures": table.sources,
    }
    return {
        "data": data,
        "layers": layers,
        "limit": count,
        "split": split_name,
        "searched": pack.splits[split_name].count,
        "neighbors": neighbors,
    }


def make_page(
    workdir: Path, model: TrainedModel, content: dict[str, Any], arguments: list[str]
) -> str:
    """Return the page as HTML.

    Args:
        workdir: folder of the run.
        model: its model.
        content: from `collect_content`.
        arguments: of the command line, shown on the page.
    """
    words = ["python", "-m", "experiments.explore", *arguments]
    return html_page.render_template(
        TEMPLATE,
        name=workdir.resolve().name,
        model=model,
        method=methods_for(model.config)[0],
        strongest=NUM_STRONGEST,
        patch_side=PATCH_SIDE,
        max_slices=MAX_SLICES,
        tile_side=TILE_SIDE,
        command=html_page.format_command(words),
        date=datetime.date.today().isoformat(),
        **content,
    )
