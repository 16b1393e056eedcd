"""The parts of the page to look inside a model: layers of every family, and images."""

from typing import Any

import numpy as np
import pytest
from helpers.explored_run import decode_picture

from alexnet_jax.config import with_changes
from configs import alexnet, cifar, googlenet, resnet, vgg
from experiments.explore import page
from experiments.explore.embedded_images import ImageTable, shrink_channels
from experiments.explore.layers import find_layers
from experiments.figures.tiles import tile_channels, tile_units


@pytest.mark.parametrize(
    ("config", "names", "kinds", "ends"),
    [
        (
            alexnet.get_config(),
            "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8",
            {"convolution", "fully-connected layer", "classifier"},
            {"conv1": ("norm", "pool"), "conv5": ("pool",)},
        ),
        (
            resnet.get_config("sample"),
            "conv1 conv2_1 conv2_2 conv2_3 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 fc",
            {"convolution", "residual block", "classifier"},
            {"conv4_3": ("mean",)},
        ),
        (
            cifar.get_config("13pct"),
            "conv1 conv2 local3 local4 fc10",
            {"convolution", "locally-connected layer", "classifier"},
            {"conv1": ("pool",)},
        ),
        pytest.param(
            googlenet.get_config(),
            "conv1 conv2_reduce conv2 inception_3a inception_3b inception_4a inception_4b "
            "inception_4c inception_4d inception_4e inception_5a inception_5b fc",
            {"convolution", "Inception module", "classifier"},
            {"conv1": ("pool", "norm"), "inception_5b": ("mean",)},
            marks=pytest.mark.slow,  # it takes seconds to trace
        ),
        (
            vgg.get_config("A_LRN"),
            "conv1_1 conv2_1 conv3_1 conv3_2 conv4_1 conv4_2 conv5_1 conv5_2 fc6 fc7 fc8",
            {"convolution", "fully-connected layer", "classifier"},
            {"conv1_1": ("norm", "pool")},
        ),
    ],
    ids=["alexnet", "resnet", "cifar", "googlenet", "vgg"],
)
def test_layers_of_every_family(
    config: Any, names: str, kinds: set[str], ends: dict[str, tuple[str, ...]]
) -> None:
    """Catches a layer or block that is left out, a block's inner convolutions shown as layers,
    and columns that cross elsewhere than in the paper."""
    config = with_changes(config, {"model.num_classes": 1000})
    layers = find_layers(config)
    assert [layer.name for layer in layers] == names.split()
    assert {layer.kind for layer in layers} == kinds
    crossing = [
        layer.name for layer in layers if layer.columns > 1 and layer.inputs == "all columns"
    ]
    assert crossing == (["conv3", "fc6", "fc7"] if config.model.columns() == 2 else [])
    followers = {layer.name: layer.followers for layer in layers if layer.followers}
    assert {name: followers.get(name) for name in ends} == ends


def test_deep_models_show_fewer_channels() -> None:
    """Catches a page of hundreds of megabytes."""
    assert page.channels_per_layer(8) == 16
    assert page.channels_per_layer(52) == 3
    assert page.channels_per_layer(1000) == 1


def test_embedded_images() -> None:
    """Catches an image that is embedded twice, zero of a signal that is not mid-gray, and a tile
    or unit at another place."""
    table = ImageTable()
    signal = np.zeros((2, 2, 1))
    signal[0, 1] = -3
    first = table.add_signal(signal, 64)
    assert first == table.add_signal(2 * signal, 64)
    assert len(table.sources) == 1
    shown = decode_picture(table.sources[first])
    assert shown[..., 0].tolist() == [[128, 0], [128, 128]]
    large = table.add_image(np.full((128, 128, 3), 7, np.uint8), 64)
    assert decode_picture(table.sources[large]).shape == (64, 64, 3)
    tiled = tile_channels(np.arange(3.0).reshape(1, 1, 3), across=2)
    np.testing.assert_array_equal(tiled, [[0, np.nan, 1], [np.nan] * 3, [2, np.nan, np.nan]])
    np.testing.assert_array_equal(tile_units(np.arange(5.0), 4), [[0, 1, 2, 3], [4, *[np.nan] * 3]])
    steps = np.arange(9.0).reshape(3, 3, 1)
    assert shrink_channels(steps, 2)[..., 0].tolist() == [[2.0, 3.5], [6.5, 8.0]]
    colored = decode_picture(table.sources[table.add_heatmap(tiled, 0, 2)])
    assert colored[0, 0].tolist() == [0, 0, 4, 255]  # the darkest of magma
    assert colored[1, 0, 3] == 0  # transparent
