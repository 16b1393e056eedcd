"""Files of other programs that are refused in one line, and oddities that are not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
import safetensors
import safetensors.numpy
import torch
from helpers import foreign_files, torchvision_files
from helpers.onnx_files import make_zoo_model
from helpers.weight_files import TINY, caffemodel, make_caffe_resnet, make_ours
from onnx import helper, numpy_helper

from alexnet_jax import convert
from alexnet_jax.config import with_changes
from alexnet_jax.errors import InputError
from configs import resnet

# What a config has as its last op.
CLASSIFIER = {"fc8": dict(type="Dense", features=0, groups=1, std=0.01, bias=0.0)}


def refused(path: Path, message: str, **given: Any) -> None:
    """The file is refused with a message of one line."""
    with pytest.raises(InputError, match=message) as raised:
        convert.read_model(
            path, torchvision_files.small_config() if path.suffix == ".pth" else None, **given
        )
    assert "\n" not in str(raised.value)


def node(model: onnx.ModelProto, output: str) -> Any:
    (found,) = (n for n in model.graph.node if n.output[0] == output)
    return found


def no_stride(model: onnx.ModelProto) -> None:
    (strides,) = (a for a in node(model, "conv2_1").attribute if a.name == "strides")
    strides.ints[:] = [0, 0]


def scalar_weight(model: onnx.ModelProto) -> None:
    del node(model, "fc6_1").input[2]
    (tensor,) = (t for t in model.graph.initializer if t.name == "fc6_w_0")
    tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.float32), "fc6_w_0"))


def softmax_inside(model: onnx.ModelProto) -> None:
    node(model, "relu6_1").op_type = "Softmax"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_stride, "conv2 has strides 0; expected 1 or more"),
        (scalar_weight, r"fc6 has weights \(\); expected two dimensions"),
        (softmax_inside, "Dropout comes after the softmax"),
    ],
)
def test_onnx(tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    """Catches a division by zero, the length of a number, and a softmax that is left out."""
    model = make_zoo_model(TINY)
    change(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "net.onnx", message)


def large_crops(model: onnx.ModelProto) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 288


def test_crops_larger_than_the_images(tmp_path: Path) -> None:
    """Catches: a crop that is cut from images smaller than it, of chains or of branched models; a
    crop refused that fits the images of the config."""
    message = (
        "takes crops of {} pixels, but images are .*={}; give --config=FILE with --config.data"
    )
    model = make_zoo_model(TINY)
    large_crops(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "net.onnx", message.format(288, 256))
    path = make_caffe_resnet(tmp_path, crop=36)
    config = with_changes(resnet.get_config("cifar20"), {"data.mean": "none"})
    with pytest.raises(InputError, match=message.format(36, 32)):
        convert.read_model(path, config)
    read = convert.read_model(path, with_changes(config, {"data.image_size": 36}))
    assert (read.config.data.crop, read.mean_image.shape) == (36, (36, 36, 3))


def test_onnx_without_biases(tmp_path: Path) -> None:
    """Catches zero biases as many as the inputs of a weight (in, out), and an input that is left
    out by the name of nothing taken for a tensor of this name."""
    (tmp_path / "net.onnx").write_bytes(make_zoo_model(TINY).SerializeToString())
    expected = convert.read_model(tmp_path / "net.onnx").params
    model = make_zoo_model(TINY)
    dense = node(model, "fc7_1")
    dense.CopyFrom(helper.make_node("Gemm", dense.input[:2], dense.output))
    node(model, "conv3_1").input[2] = ""
    (tensor,) = (t for t in model.graph.initializer if t.name == "fc7_w_0")
    turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
    tensor.CopyFrom(numpy_helper.from_array(turned, "fc7_w_0"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    params = convert.read_model(tmp_path / "net.onnx").params
    np.testing.assert_array_equal(params["fc7"]["kernel"], expected["fc7"]["kernel"])
    assert not params["fc7"]["bias"].any()
    assert not params["conv3"]["bias"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.6.weight": torch.tensor(1.0)}, r"fc8 \(\); expected \(0,"),
        ({7: torch.zeros(1)}, "expected a state dict of tensors"),
        (
            {"features.0.weight": torch.zeros(8, 3, 11, 11).to_sparse()},
            "tensors that are not plain",
        ),
    ],
)
def test_pytorch(tmp_path: Path, change: dict[Any, torch.Tensor], message: str) -> None:
    """Catches a traceback for a number, a name that is a number, and numbers that lie otherwise."""
    torchvision_files.write_weights(tmp_path / "net.pth")
    state = torch.load(tmp_path / "net.pth", weights_only=True)
    torch.save({**state, **change}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", message)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("model", "num_classes", "x", "config that cannot be used: model.num_classes is 'x'"),
        ("model", "num_columns", None, "config that cannot be used: model.num_columns is None"),
        ("model", "ops", [1], "config that cannot be used: model.ops is"),
        ("model", "ops", {"param": {"type": "ReLU"}, **CLASSIFIER}, "name 'param'; expected"),
        ("model", "type", "GoogLeNet", "config that cannot be used: model has type='GoogLeNet'"),
        ("model", "colums", 1, "config that cannot be used: .*no field model.colums; did you mean"),
        ("data", "std", [], r"cannot be used: data\.std is \(\)"),
        ("data", "mean", 3, "cannot be used: data.mean is 3"),
    ],
)
def test_own_config(tmp_path: Path, part: str, name: str, value: object, message: str) -> None:
    """Catches a config in our own file that nobody checks before it is used."""
    path = make_ours(tmp_path)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    config[part][name] = value
    metadata["config"] = json.dumps(config)
    safetensors.numpy.save_file(arrays, path, metadata)
    refused(path, message)


@pytest.mark.parametrize("name", ["format_version", "config", "class_names", "axes"])
def test_own_metadata(tmp_path: Path, name: str) -> None:
    """Catches a file of another format version, or without a part, that is read by chance, and a
    part that is no JSON."""
    path = make_ours(tmp_path)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    for value in ("1", "[", None):
        changed = {n: v for n, v in metadata.items() if n != name}
        changed |= {} if value is None else {name: value}
        safetensors.numpy.save_file(arrays, path, changed)
        refused(path, "another version of this program" if name == "format_version" else name)


@pytest.mark.parametrize(
    "shape", [(256, 256, 2), (256, 255, 3), (226, 226, 3), (257, 257, 3), (256, 256), ()]
)
def test_own_mean_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Catches: a mean image that is smaller than the crop, which is then cut from its corner; that
    is larger than the images, which are then scaled to its size; or of other channels."""
    path = make_ours(tmp_path)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    changed = {**arrays, "mean_image": np.zeros(shape, np.float32)}
    safetensors.numpy.save_file(changed, path, metadata)
    refused(
        path, r"has mean_image .*; expected \(side, side, 3 or 1\) with a side from data.crop=227"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_own_gray_mean_image(tmp_path: Path, suffix: str) -> None:
    """Catches: the mean image of gray data refused, whose channel a model with three repeats."""
    gray = np.random.default_rng(0).uniform(0, 255, (256, 256, 1)).astype(np.float32)
    model = dataclasses.replace(convert.read_model(make_ours(tmp_path)), mean_image=gray)
    convert.write_model(tmp_path / f"gray{suffix}", model)
    read = convert.read_model(tmp_path / f"gray{suffix}")
    np.testing.assert_array_equal(read.mean_image, gray)


def test_flags_that_would_be_ignored(tmp_path: Path) -> None:
    """Catches names or a config that are given and not used, and names that are no text."""
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\nb\nc\n")
    refused(make_ours(tmp_path), "class_names is for files", class_names=tmp_path / "names.txt")
    with pytest.raises(InputError, match="config is for files of other programs"):
        convert.read_model(tmp_path / "ours.safetensors", torchvision_files.small_config())
    refused(tmp_path / "net.caffemodel", "is not UTF-8 text", class_names=tmp_path / "names.txt")


def test_a_mean_image_that_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches silence about the mean image that a definition names and nobody gave."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(TINY))
    data = 'layer { name: "data" type: "Data" top: "data" transform_param { crop_size: 227 '
    deploy = foreign_files.prototxt(TINY)
    text = data + 'mean_file: "mean.binaryproto" } }\n' + deploy[deploy.index("layer", 20) :]
    text = text.replace('layer { name: "data" type: "Input"', 'layer { name: "input" type: "Input"')
    (tmp_path / "train.prototxt").write_text(text)
    model = convert.read_model(tmp_path / "net.caffemodel", prototxt=tmp_path / "train.prototxt")
    printed = capsys.readouterr().err
    assert "mean image 'mean.binaryproto', but data.mean=given (122.67891434, " in printed
    jax.tree.map(
        np.testing.assert_array_equal,
        model.params,
        convert.read_model(tmp_path / "net.caffemodel").params,
    )
    assert capsys.readouterr().err == ""
