"""GoogLeNet and residual networks in Caffe's files that are refused, in one message."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.caffe_branched import (
    Definition,
    Layer,
    find,
    given_config,
    make_cifar_resnet,
    make_googlenet,
    write,
)

from alexnet_jax import convert
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError


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
