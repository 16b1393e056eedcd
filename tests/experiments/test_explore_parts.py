"""The parts of the page to look inside a model: layers of every family, and images."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.explored_run import decode_picture

from alexnet_jax.config import with_changes
from alexnet_jax.models.ops import Conv, Dense, ReLU
from alexnet_jax.trained import TrainedModel
from configs import alexnet, cifar, googlenet, resnet, vgg
from experiments.explore import image_content, page
from experiments.explore.channel_content import draw_kernel
from experiments.explore.embedded_images import ImageTable, shrink_channels
from experiments.explore.image_content import ImageCollector
from experiments.explore.layers import ShownLayer, find_layers
from experiments.figures.tiles import color_values, tile_channels, tile_units


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


def test_kernels_of_later_layers() -> None:
    """Catches a kernel of three input channels drawn as one of an RGB image, kernels of one pixel
    left out, and those of the first convolution in tiles."""
    ops = dict(
        conv1=Conv(12, kernel=3), relu1=ReLU(),
        conv2=Conv(8, kernel=3, groups=4), relu2=ReLU(),
        conv3=Conv(4, kernel=1), relu3=ReLU(),
        fc=Dense(0),
    )  # fmt: skip
    changes = {"channels": 3, "num_columns": 4, "num_classes": 2, "ops": ops}
    config = with_changes(
        alexnet.get_config("sample"), {f"model.{k}": v for k, v in changes.items()}
    )
    random = np.random.default_rng(0)
    shapes = {"conv1": (4, 3, 3, 3, 3), "conv2": (4, 3, 3, 3, 2), "conv3": (4, 1, 1, 8, 1)}
    kernels = {name: random.normal(size=shape) for name, shape in shapes.items()}
    params = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    model = TrainedModel(config, 1, {"params": params}, np.zeros((28, 28, 3)), ("a", "b"))
    table = ImageTable()
    conv1, conv2, conv3, fc = find_layers(config)

    def draw(layer: ShownLayer, channel: int) -> np.ndarray:
        index = draw_kernel(table, model, layer, channel)
        assert index is not None
        return decode_picture(table.sources[index]) / 127.5 - 1

    kernel = kernels["conv1"][2, ..., 1]
    np.testing.assert_allclose(draw(conv1, 7), kernel / np.abs(kernel).max(), atol=0.01)
    kernel = kernels["conv2"][3, ..., 0]
    shown = draw(conv2, 6)[..., 0]
    assert shown.shape == (7, 7)  # two by two tiles, the last of them empty
    for tile, i in ((shown[:3, :3], 0), (shown[:3, 4:], 1), (shown[4:, :3], 2)):
        np.testing.assert_allclose(tile, kernel[..., i] / np.abs(kernel).max(), atol=0.03)
    kernel = kernels["conv3"][1, 0, 0, :, 0]
    shown = draw(conv3, 1)[..., 0]
    np.testing.assert_allclose(shown.ravel()[:8], kernel / np.abs(kernel).max(), atol=0.03)
    assert draw_kernel(table, model, fc, 0) is None


def test_colors_of_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches colors of the range of the channels that are shown, or of their blocks of pixels, and
    not of the whole layer, as the page says."""
    values = np.zeros((64, 64, 3), np.float32)
    values[0, 0] = 8, -4, 20
    logits = np.array([-3, 5], np.float32)
    monkeypatch.setattr(
        image_content, "compute_image_activations", lambda *_: {"relu1": values, "fc8": logits}
    )
    first, *_, last = find_layers(with_changes(alexnet.get_config(), {"model.num_classes": 2}))
    content: dict[str, Any] = {"conv1": [SimpleNamespace(channel=0)], "fc8": []}
    nothing: Any = None
    table = ImageTable()
    collector = ImageCollector(nothing, nothing, "test", table, [first, last], content)
    convolution, classifier = collector._collect_activations(nothing)
    assert (convolution["strongest"], convolution["value"]) == (2, 20)
    means = np.zeros((32, 32))
    means[0, 0] = 8 / 4
    shown = decode_picture(table.sources[convolution["picture"]])
    np.testing.assert_array_equal(shown, color_values(means, -4, 20)[..., :3])
    shown = decode_picture(table.sources[classifier["picture"]])
    np.testing.assert_array_equal(shown, color_values(logits[None], -3, 5)[..., :3])


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
