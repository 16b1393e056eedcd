"""GoogLeNet and residual networks in Caffe's files, read by us and by OpenCV: the same logits."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from helpers.caffe_branched import (
    Definition,
    Layer,
    find,
    given_config,
    make_cifar_resnet,
    make_googlenet,
    make_resnet,
    to_caffemodel,
    to_prototxt,
    write,
)
from helpers.foreign_files import channels_first, make_image

from alexnet_jax import convert
from alexnet_jax.config import Config, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.trained import TrainedModel

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
# Outputs that are compared: their names in Caffe, and here.
GOOGLENET = {
    "pool2/3x3_s2": "pool2",
    "inception_4a/output": "inception_4a/output",
    "loss3/classifier": "fc",
}
HEADS = {f"loss{n}/classifier": f"aux{n}/fc2" for n in (1, 2)}


def read(folder: Path, definition: Definition, config: Config | None = None) -> TrainedModel:
    """Return our model for the files of a definition."""
    path, prototxt = write(folder, definition)
    return convert.read_model(path, config, prototxt=prototxt)


def check(
    model: TrainedModel, definition: Definition, names: Mapping[str, str], *, train: bool = False
) -> None:
    """Assert that our outputs are OpenCV's.

    Args:
        model: our model.
        definition: the layers of the files.
        names: our names of outputs by Caffe's.
        train: whether ours are those while training, but for dropout.
    """
    side, mean = definition.side, (103.0, 116.0, 123.0)
    pixels = np.ascontiguousarray(make_image()[:side, :side, ::-1])
    seen = pixels[None] - np.array(mean, np.float32)
    config = model.config
    if train:
        config = with_changes(config, {"model.dropout": 0.0, "model.aux_dropout": 0.0})
    compute = partial(registry.compute_activations, registry.make_model(config), train=train)
    ours = jax.jit(compute, compiler_options=QUICK)(model.variables, seen)
    for name, expected in zip(names, opencv(definition, pixels, mean, [*names]), strict=True):
        largest = np.abs(expected).max()
        assert expected.std() > 0.1 * largest
        # Float32 sums in another order; LRN by another formula.
        got = channels_first(ours[names[name]])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * largest, err_msg=name)


def opencv(
    definition: Definition, pixels: np.ndarray, mean: tuple[float, ...], names: list[str]
) -> list[np.ndarray]:
    """Return outputs of OpenCV, which has softmaxes in place of losses."""
    definition = copy.copy(definition)
    definition.layers = [
        Layer(layer.name, "Softmax", layer.bottoms[:1], layer.tops)
        if layer.kind == "SoftmaxWithLoss"
        else layer
        for layer in definition.layers
    ]
    files = (to_prototxt(definition).encode(), to_caffemodel(definition.layers))
    peer = cv2.dnn.readNetFromCaffe(*(np.frombuffer(content, np.uint8) for content in files))
    peer.enableFusion(False)
    peer.setInput(cv2.dnn.blobFromImage(pixels, 1.0, (definition.side, definition.side), mean))
    outputs: list[np.ndarray] = [*peer.forward(names)]
    return outputs


def test_googlenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: branches concatenated in another order; LRN with another constant or place; pooling
    that rounds down; auxiliary classifiers swapped, or flattened in another order; preprocessing
    of another model. With an eighth of the filters."""
    definition = make_googlenet(8, 10, heads=True)
    model = read(tmp_path, definition)
    assert "preprocessing as for Caffe's GoogLeNet, by its layers" in capsys.readouterr().err
    assert model.config.data == presets.bvlc_googlenet().data
    assert model.config.model == GoogLeNetConfig(num_classes=10, width=1 / 8)
    check(model, definition, GOOGLENET | HEADS, train=True)


def test_definitions_of_googlenet(tmp_path: Path) -> None:
    """Catches: the weight of auxiliary losses and the mean lost; types of the older format; a
    definition without auxiliary classifiers refused for a file with them, as it is published."""
    definition = make_googlenet(8, 10, heads=True)
    path, prototxt = write(tmp_path, definition, deployed=False)
    text = prototxt.read_text().replace("loss_weight: 0.3", "loss_weight: 0.25")
    for kind in ("Convolution", "ReLU", "LRN", "Pooling", "Dropout", "Data", "Concat"):
        text = text.replace(f'type: "{kind}"', f"type: {kind.upper()}")
    text = text.replace('type: "InnerProduct"', "type: INNER_PRODUCT")
    text = text.replace('type: "SoftmaxWithLoss"', "type: SOFTMAX_LOSS")
    prototxt.write_text(text.replace("layer {", "layers {"))
    model = convert.read_model(path, prototxt=prototxt)
    expected = GoogLeNetConfig(num_classes=10, width=1 / 8, aux_weight=0.25)
    assert model.config.model == expected
    assert model.config.data.given_mean == (123.0, 117.0, 104.0)

    prototxt.write_text(to_prototxt(make_googlenet(8, 10, heads=False)))
    deployed = convert.read_model(path, prototxt=prototxt)
    assert {"aux1", "aux2"} == {*model.params} - {*deployed.params}
    for name, arrays in deployed.params.items():
        jax.tree.map(np.testing.assert_array_equal, arrays, model.params[name])


@pytest.mark.parametrize("conv1_bias", [True, False])
def test_resnet(tmp_path: Path, conv1_bias: bool) -> None:
    """Catches: statistics that are not divided by their factor, a bias before batch normalization
    lost, Scale's two blobs swapped, the stride in the 3×3, the first pooling with padding, a
    shortcut taken for the branch of the block."""
    definition = make_resnet((2, 1, 1, 1), 8, 10, conv1_bias=conv1_bias)
    model = read(tmp_path, definition, given_config("50,v1.5"))
    expected = ResNetConfig(num_classes=10, width=8, stage_sizes=(2, 1, 1, 1))
    assert model.config.model == expected
    check(model, definition, {"pool1": "pool1", "res3a": "conv3_1/sum", "fc10": "fc"})


@pytest.mark.parametrize("plain", [False, True])
def test_cifar_resnet(tmp_path: Path, plain: bool) -> None:
    """Catches: biases of all convolutions lost, a plain network taken for a residual one."""
    definition = make_cifar_resnet(2, 8, plain=plain)
    model = read(tmp_path, definition, given_config("cifar20"))
    assert isinstance(model.config.model, ResNetConfig)
    assert model.config.model.shortcut == ("none" if plain else "B")
    assert (model.config.model.block, model.config.model.stage_sizes) == ("basic", (2, 2, 2))
    assert model.config.data.crop == 32
    check(model, definition, {"group1_block0_relu": "conv3_1/relu", "fc": "fc"})


def test_the_definition_in_the_file(tmp_path: Path) -> None:
    """Catches: the definition that training writes into a file not read: data layers, and a Split
    where two layers have the same input; a last layer that was renamed for fine-tuning refused."""
    definition = make_cifar_resnet(1, 4)
    expected = read(tmp_path, definition, given_config("cifar20"))
    halves = ["first_conv_split_0", "first_conv_split_1"]
    find(definition, "group0_block0_conv0").bottoms = halves[:1]
    find(definition, "group0_block0_sum").bottoms[0] = halves[1]
    index = definition.layers.index(find(definition, "group0_block0_conv0"))
    definition.layers.insert(index, Layer("split", "Split", ["first_conv"], halves))
    definition.layers.insert(0, Layer("data", "Data", [], ["data", "label"], dict(crop_size=32)))
    path = tmp_path / "snapshot.caffemodel"
    path.write_bytes(to_caffemodel(definition.layers))
    model = convert.read_model(path, given_config("cifar20"))
    assert model.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, model.variables, expected.variables)
    find(definition, "fc").name = "mine"
    path.write_bytes(to_caffemodel(definition.layers))
    tuned = convert.read_model(path, given_config("cifar20"), prototxt=tmp_path / "net.prototxt")
    jax.tree.map(np.testing.assert_array_equal, tuned.variables, expected.variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "parameters", "name"),
    [
        (partial(make_googlenet, 1, 1000, heads=False), 6_998_552, "GoogLeNet"),
        (partial(make_googlenet, 1, 1000, heads=True), 13_378_280, "GoogLeNet"),
        (partial(make_resnet, (3, 4, 6, 3), 64, 1000, conv1_bias=True), 25_557_032, "ResNet-50"),
        (partial(make_resnet, (3, 4, 23, 3), 64, 1000, conv1_bias=False), 44_549_160, "ResNet-101"),
        (partial(make_resnet, (3, 8, 36, 3), 64, 1000, conv1_bias=False), 60_192_808, "ResNet-152"),
    ],
)
def test_full_size(
    tmp_path: Path,
    make: Callable[[], Definition],
    parameters: int,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches: what the tests above do, in the models as published; another number of parameters
    than theirs, without the 64 biases before a normalization; preprocessing of another model."""
    definition = make()
    model = read(tmp_path, definition)
    assert f"preprocessing as for Caffe's {name}, by its layers" in capsys.readouterr().err
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == parameters
    if name == "GoogLeNet":
        has_heads = "aux1" in model.params
        check(model, definition, GOOGLENET | (HEADS if has_heads else {}), train=has_heads)
    else:
        check(model, definition, {"fc1000": "fc"})
