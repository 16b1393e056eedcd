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
    make_cifar_resnet,
    make_googlenet,
    make_resnet,
    to_caffemodel,
    to_prototxt,
)
from helpers.foreign_files import channels_first, make_image

from alexnet_jax import convert
from alexnet_jax.config import Config, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.trained import TrainedModel
from configs import resnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
# Outputs that are compared: their names in Caffe, and here.
GOOGLENET = {
    "pool2/3x3_s2": "pool2",
    "inception_4a/output": "inception_4a/output",
    "loss3/classifier": "fc",
}
HEADS = {f"loss{n}/classifier": f"aux{n}/fc2" for n in (1, 2)}


def given_config(variant: str) -> Config:
    """Return a config with preprocessing, for models that are not recognized as published ones."""
    return with_changes(resnet.get_config(variant), {"data.mean": "none"})


def write(folder: Path, definition: Definition, *, deployed: bool = True) -> tuple[Path, Path]:
    """Write the weights with their definition, and the definition, and return their paths."""
    path, prototxt = folder / "net.caffemodel", folder / "net.prototxt"
    path.write_bytes(to_caffemodel(definition.layers))
    prototxt.write_text(to_prototxt(definition, deployed=deployed))
    return path, prototxt


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


def find(definition: Definition, name: str) -> Layer:
    """Return a layer by its name."""
    return next(layer for layer in definition.layers if layer.name == name)


def change_kind(name: str, kind: str) -> Callable[[Definition], None]:
    """Return the change of a layer's kind."""
    return lambda definition: setattr(find(definition, name), "kind", kind)


def change(name: str, **parameters: object) -> Callable[[Definition], None]:
    """Return the change of a layer's parameters."""
    return lambda definition: find(definition, name).parameters.update(parameters)


def change_bottom(name: str, index: int, bottom: str) -> Callable[[Definition], None]:
    """Return the change of one of a layer's inputs."""
    return lambda definition: find(definition, name).bottoms.__setitem__(index, bottom)


def remove(*names: str) -> Callable[[Definition], None]:
    """Return the removal of layers; those after them take their inputs."""

    def change(definition: Definition) -> None:
        for name in names:
            removed = find(definition, name)
            definition.layers.remove(removed)
            for layer in definition.layers:
                if removed.tops[0] in layer.bottoms and removed.tops != removed.bottoms:
                    index = layer.bottoms.index(removed.tops[0])
                    layer.bottoms[index] = removed.bottoms[0]

    return change


def cut_after(name: str) -> Callable[[Definition], None]:
    """Return the removal of all layers after one."""

    def change(definition: Definition) -> None:
        definition.layers = definition.layers[: definition.layers.index(find(definition, name)) + 1]

    return change


def forget_statistics(definition: Definition) -> None:
    find(definition, "first_conv_bn").arrays[2][:] = 0


def remove_statistics(definition: Definition) -> None:
    find(definition, "first_conv_bn").arrays = []


def remove_scale_blob(definition: Definition) -> None:
    del find(definition, "first_conv_scale").arrays[1]


def widen(definition: Definition) -> None:
    other = make_cifar_resnet(1, 6)
    for part in ("", "_bn", "_scale"):
        found, wide = (find(of, f"group2_block0_conv1{part}") for of in (definition, other))
        found.parameters, found.arrays = wide.parameters, wide.arrays


def widen_statistics(definition: Definition) -> None:
    find(definition, "first_conv_bn").arrays[0] = np.zeros(5, np.float32)


def enlarge_kernel(definition: Definition) -> None:
    find(definition, "group1_block0_conv1").parameters |= dict(kernel_size=5, pad=2)
    find(definition, "group1_block0_conv1").arrays[0] = np.zeros((8, 8, 5, 5), np.float32)


def remove_projection(definition: Definition) -> None:
    remove(*(f"group2_block0_proj{part}" for part in ("", "_bn", "_scale")))(definition)
    find(definition, "group2_block0_sum").bottoms[0] = "group1_block0_relu"


def halve_at_once(definition: Definition) -> None:
    find(definition, "group0_block0_conv0").parameters["stride"] = 2
    name, bottom = "group0_block0_proj", find(definition, "group0_block0_conv0").bottoms[0]
    definition.conv(name, bottom, 4, 1, 2)
    definition.norm(f"{name}_bn", f"{name}_scale", name)
    *definition.layers, conv, norm, scale = definition.layers
    index = definition.layers.index(find(definition, "group0_block0_conv0"))
    definition.layers[index:index] = [conv, norm, scale]
    find(definition, "group0_block0_sum").bottoms[0] = name


def add_unused(definition: Definition) -> None:
    definition.layers.insert(-1, Layer("extra", "ReLU", ["group1_block0_relu"], ["extra"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_kind("first_conv_relu", "PReLU"), "layer first_conv_relu is a PReLU that the con"),
        (change_kind("first_conv_relu", "TanH"), "first_conv_relu is a Tanh, which GoogLeNet and"),
        (remove("group1_block0_conv0_scale"), "group1_block0_conv0_bn is a BatchNorm and is foll"),
        (cut_after("first_conv_bn"), "first_conv_bn is a BatchNorm and is the last layer; expect"),
        (remove("group1_block0_conv0_bn"), "group1_block0_conv0_scale is a Scale without a Batch"),
        (forget_statistics, r"first_conv_bn has the factor 0\.0, .*expected more than 0"),
        (remove_statistics, r"first_conv_bn has blobs of \[\] numbers; expected means"),
        (remove_scale_blob, "first_conv_scale has 1 blobs along 1 axes from 1 on; expected 2"),
        (widen, r"the mean of group2_block0_conv1_bn is \(24,\); expected \(16,\)"),
        (widen_statistics, r"the mean of first_conv_bn is \(5,\); expected \(4,\), as first_conv"),
        (enlarge_kernel, r"group1_block0_conv1 is a convolution of 5×5 with stride 1, padding"),
        (remove_projection, r"group2_block0_sum takes activations of \[16, 8\] pixels"),
        (change("group1_block0_sum", operation="PROD"), "group1_block0_sum is an Eltwise; expect"),
        (remove("prob"), "does not end with a softmax"),
        (change_bottom("group1_block0_sum", 0, "x"), "group1_block0_sum takes 'x'; expected the"),
        (halve_at_once, "the first block halves the image; expected the first of a later stage"),
        (add_unused, "the output of extra has no effect on that of the model"),
        (change("group1_block0_conv0", stride=0), "conv0 has windows of 3×3 with stride 0, and"),
        (change("first_conv", stride=3), "first_conv is a convolution of 3×3 with stride 3, pad"),
        (remove("group1_block0_relu0"), "after group1_block0_conv0_bn comes group1_block0_conv1,"),
        (remove("group2_block0_relu"), "after group2_block0_sum comes global_avg_pool, a GlobalPo"),
    ],
)
def test_refused(tmp_path: Path, damage: Callable[[Definition], None], message: str) -> None:
    """Catches: a traceback, a model with a layer left out or taken for another, and messages that
    do not name the layer."""
    definition = make_cifar_resnet(1, 4)
    damage(definition)
    path, prototxt = write(tmp_path, definition)
    with pytest.raises(InputError, match=message):
        convert.read_model(path, given_config("cifar20"), prototxt=prototxt)


def swap_branches(definition: Definition) -> None:
    bottoms = find(definition, "inception_4b/output").bottoms
    bottoms[1], bottoms[2] = bottoms[2], bottoms[1]


def drop_branch(definition: Definition) -> None:
    find(definition, "inception_4b/output").bottoms.pop()
    names = ("pool", "pool_proj", "relu_pool_proj")
    remove(*(f"inception_4b/{name}" for name in names))(definition)


def move_head(definition: Definition) -> None:
    find(definition, "loss2/ave_pool").bottoms = ["inception_4b/output"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_branches, "inception_4b/5x5 is a convolution of 5×5 .*expected 3×3 with stride 1"),
        (drop_branch, "inception_4b/output is of 3 branches; expected four"),
        (change("pool1/norm1", alpha=0.01), "pool1/norm1 has size 5, .*as in Caffe's GoogLeNet"),
        (change("inception_3a/pool", pad=0), "inception_3a/output takes activations of"),
        (change("pool3/3x3_s2", pool="AVE"), "pool3/3x3_s2 is average pooling of 3×3 .*expected"),
        (move_head, "has 2 auxiliary classifiers, 1 of them after modules 4a and 4d"),
        (remove("loss1/loss"), "the output of loss1/ave_pool has no effect on that of the model"),
        (lambda of: setattr(find(of, "loss1/loss"), "loss_weight", 0.5), r"weights \[0\.3, 0\.5"),
        (change("loss2/drop_fc", dropout_ratio=0.5), "aux2 has a dropout of 0.5 and 10 classes"),
        (change("pool5/7x7_s1", kernel_size=5), "comes pool5/7x7_s1, a Pool; expected global"),
    ],
)
def test_googlenet_is_refused(
    tmp_path: Path, damage: Callable[[Definition], None], message: str
) -> None:
    """Catches: another model of Inception modules taken for GoogLeNet."""
    definition = make_googlenet(16, 10, heads=True)
    damage(definition)
    path, prototxt = write(tmp_path, definition)
    with pytest.raises(InputError, match=message):
        convert.read_model(path, prototxt=prototxt)


def test_unknown_preprocessing(tmp_path: Path) -> None:
    """Catches: preprocessing that is guessed for a model that nobody published; a config of
    another family, or of a chain."""
    path, prototxt = write(tmp_path, make_cifar_resnet(1, 4))
    with pytest.raises(InputError, match=r"does not state the preprocessing .* --config=FILE"):
        convert.read_model(path, prototxt=prototxt)
    with pytest.raises(InputError, match="a residual network, and the config a SequentialConfig"):
        convert.read_model(path, presets.bvlc_alexnet(), prototxt=prototxt)
    with pytest.raises(InputError, match="a GoogLeNetConfig; expected a ResNetConfig"):
        convert.read_model(path, presets.bvlc_googlenet(), prototxt=prototxt)


def test_a_definition_of_another_kind(tmp_path: Path) -> None:
    """Catches: a definition in which a layer of the file is of another kind."""
    path, prototxt = write(tmp_path, make_cifar_resnet(1, 4))
    text = prototxt.read_text()
    prototxt.write_text(
        text.replace('"first_conv_relu" type: "ReLU"', '"first_conv_relu" type: "TanH"')
    )
    with pytest.raises(InputError, match=r"first_conv_relu, a TanH, but in .* it is a ReLU"):
        convert.read_model(path, given_config("cifar20"), prototxt=prototxt)
