"""ONNX models whose operators branch, of the model zoo and of PyTorch: read, and refused."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
import torch
from helpers.light_models import check_logits, make_light_model
from helpers.torchvision_models import make_model
from onnx import helper, numpy_helper

from alexnet_jax import convert
from alexnet_jax.config import Config, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import BatchNormConfig, GoogLeNetConfig, ResNetConfig
from alexnet_jax.trained import TrainedModel
from configs import resnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
NAMES = dict(googlenet="inception_v1", resnet="resnet50")


def given_config() -> Config:
    """Return a config whose data section is given, of another residual network than the file's."""
    return with_changes(resnet.get_config("18"), {"data.mean": "none"})


def read(folder: Path, model: onnx.ModelProto, config: Config | None) -> TrainedModel:
    """Return our model for an ONNX model."""
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return convert.read_model(path, config)


def test_the_zoos_googlenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: pooling that rounds up, as in Caffe; an average over padding; auxiliary classifiers
    that the file lacks; preprocessing of another model; weights that are reshaped before they are
    used; LRN with another constant. With an eighth of the channels and units."""
    model = make_light_model("inception_v1", 8)
    trained = read(tmp_path, model, None)
    assert "preprocessing as for Caffe's GoogLeNet, by its layers" in capsys.readouterr().err
    assert trained.config.data == presets.bvlc_googlenet().data
    expected = GoogLeNetConfig(num_classes=1000, width=1 / 8, ceil_mode=False, aux_weight=0.0)
    assert trained.config.model == expected
    check_logits(trained, model)


def test_the_zoos_resnet(tmp_path: Path) -> None:
    """Catches: the stride in the first 1×1 convolution; no padding before the pooling; a scale
    taken for a mean; another epsilon than the file's; preprocessing that is guessed. With an eighth
    of the channels."""
    model = make_light_model("resnet50", 8)
    with pytest.raises(InputError, match=r"written by 'onnx-caffe2'\); give it with --config=FILE"):
        read(tmp_path, model, None)
    trained = read(tmp_path, model, given_config())
    assert trained.config.model == ResNetConfig(
        num_classes=1000,
        width=8,
        pool_padding=1,
        stride_in="3x3",
        batch_norm=BatchNormConfig(epsilon=1.0000001e-05),  # the float32 above 1e-5
    )
    assert trained.config.data.crop == 224
    check_logits(trained, model)


def export(path: Path, model: torch.nn.Module, images: np.ndarray) -> None:
    """Write PyTorch's ONNX export of a model, with its batch normalizations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        torch.onnx.export(
            model, (torch.tensor(images),), path, dynamo=False, do_constant_folding=False
        )


def test_torchvisions_googlenet(tmp_path: Path) -> None:
    """Catches: batch normalization of GoogLeNet lost or assigned to another convolution than from
    a state dict, 3×3 kernels in place of 5×5 and the 2×2 pooling refused, preprocessing that is
    guessed."""
    model = make_model("googlenet", num_classes=10, aux_logits=False, init_weights=False)
    path = tmp_path / "net.onnx"
    export(path, model, np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(InputError, match=r"written by 'pytorch'\); give it with --config"):
        convert.read_model(path)
    trained = convert.read_model(path, presets.torchvision_googlenet())
    torch.save(model.state_dict(), tmp_path / "net.pth")
    expected = convert.read_model(tmp_path / "net.pth")
    jax.tree.map(np.testing.assert_array_equal, trained.variables, expected.variables)
    assert isinstance(expected.config.model, GoogLeNetConfig)  # an export has no dropout
    assert trained.config.model == replace(expected.config.model, dropout=0.0)


def test_torchvisions_resnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: torchvision's preprocessing not known by the layers of its residual networks, or
    given to others; shortcuts without projections taken for the branches of blocks."""
    images = np.zeros((1, 3, 32, 32), np.float32)
    export(tmp_path / "net.onnx", make_model("resnet18", num_classes=10), images)
    trained = convert.read_model(tmp_path / "net.onnx")
    assert "preprocessing as for torchvision's resnet18, by its layers" in capsys.readouterr().err
    assert trained.config.data.std == presets.torchvision_resnet("basic", 2, 2, 2, 2).data.std
    assert trained.config.model == ResNetConfig(
        num_classes=10, pool_padding=1, stage_sizes=(2, 2, 2, 2), block="basic"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("googlenet", 6_998_552), ("resnet", 25_557_032)])
def test_logits_at_full_size(tmp_path: Path, name: str, parameters: int) -> None:
    """Catches: what the tests above do, in the models as they are; another number of parameters
    than the package's."""
    model = make_light_model(NAMES[name])
    trained = read(tmp_path, model, given_config() if name == "resnet" else None)
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.params)) == parameters
    check_logits(trained, model)


def find(model: onnx.ModelProto, kind: str, index: int = 0) -> onnx.NodeProto:
    """Return the operator of a kind with a number."""
    return [node for node in model.graph.node if node.op_type == kind][index]


def set_attribute(model: onnx.ModelProto, kind: str, index: int, **values: object) -> None:
    """Set attributes of an operator."""
    node = find(model, kind, index)
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def change(kind: str, index: int = 0, **values: object) -> Callable[[onnx.ModelProto], None]:
    """Return the change of an operator's attributes."""
    return lambda model: set_attribute(model, kind, index, **values)


def rename(kind: str, other: str, index: int = 0) -> Callable[[onnx.ModelProto], None]:
    """Return the change of an operator's kind."""
    return lambda model: setattr(find(model, kind, index), "op_type", other)


def drop_mean(model: onnx.ModelProto) -> None:
    del find(model, "BatchNormalization").input[3:]


def fold_norm(model: onnx.ModelProto) -> None:
    norm = find(model, "BatchNormalization", 4)
    find(model, "Conv", 4).output[0] = norm.output[0]
    model.graph.node.remove(norm)


def add_constant(model: onnx.ModelProto) -> None:
    find(model, "Sum", 1).input[1] = find(model, "Conv").input[1]


def add_three(model: onnx.ModelProto) -> None:
    find(model, "Sum", 1).input.append(find(model, "Sum", 1).input[1])


def add_after_softmax(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [model.graph.output[0].name], ["end"]))
    model.graph.output[0].name = "end"


def take_activations(model: onnx.ModelProto) -> None:
    find(model, "Gemm").input[1] = find(model, "Relu").output[0]


def reshape_wrongly(model: onnx.ModelProto) -> None:
    shape = find(model, "Reshape", 1).input[1]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored[shape].CopyFrom(numpy_helper.from_array(np.array([7, 7]), shape))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("resnet", rename("Relu", "Sigmoid", 5), "cannot represent the operator Sigmoid; expected"),
        ("resnet", rename("Sum", "Mul", 1), r"Mul takes \['.*expected weights that are in the fi"),
        ("resnet", change("BatchNormalization", 3, training_mode=1), r"has training_mode \[1\]"),
        ("resnet", change("BatchNormalization", 3, epsilon=1e-3), r"epsilon 0\.001, and others 1"),
        ("resnet", drop_mean, "has 2 constants; expected scale, bias, mean and variance"),
        (
            "resnet",
            fold_norm,
            "expected batch normalization, which exporters fold into the convol",
        ),
        ("resnet", add_constant, "adds a constant; expected activations only"),
        ("resnet", add_three, "is the sum of 3 branches; expected two"),
        ("resnet", add_after_softmax, "Relu comes after the softmax"),
        ("resnet", change("Conv", 2, strides=[2, 2]), r"takes activations of \[28, 56\] pixels"),
        ("resnet", change("MaxPool", pads=[0] * 4), "has a padding of 0 and rounds sizes down"),
        ("googlenet", take_activations, r"Gemm takes \['r141', 'r1'\]; expected weights"),
        ("googlenet", reshape_wrongly, r"a Reshape of \(1, 1, 1000, 128\): cannot reshape"),
        ("googlenet", change("Concat", 2, axis=2), r"has axis \[2\]; expected 1"),
        ("googlenet", change("AveragePool", count_include_pad=1), r"count_include_pad \[1\]; exp"),
        ("googlenet", change("LRN", bias=2.0), "has size 5, k 2.0, alpha 2e-05 per channel"),
        ("googlenet", rename("AveragePool", "LpPool"), "cannot represent the operator LpPool"),
        ("googlenet", change("MaxPool", ceil_mode=1), "some max poolings round sizes up and"),
    ],
)
def test_refused(
    tmp_path: Path, name: str, damage: Callable[[onnx.ModelProto], None], message: str
) -> None:
    """Catches: a traceback, an operator left out or taken for another, and messages that do not
    name it."""
    model = make_light_model(NAMES[name], 8)
    damage(model)
    with pytest.raises(InputError, match=message):
        read(tmp_path, model, given_config() if name == "resnet" else None)
