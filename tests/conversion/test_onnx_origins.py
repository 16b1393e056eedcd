"""ONNX files of other programs: whose preprocessing they need, and where their weights are."""

import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.foreign_files import make_image
from helpers.onnx_files import make_zoo_model
from helpers.torchvision_files import TorchvisionAlexNet
from helpers.weight_files import TINY, make_external
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax import convert
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError
from alexnet_jax.predict import predict
from alexnet_jax.trained import TrainedModel


def export(path: Path) -> Path:
    """Write torchvision's alexnet as PyTorch exports it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        images = torch.zeros(1, 3, 224, 224)
        torch.onnx.export(TorchvisionAlexNet().eval(), (images,), path, dynamo=False)
    return path


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_torchvisions_preprocessing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches torchvision's file read with Caffe's preprocessing: ONNX Runtime computes the same
    probabilities from RGB in torchvision's standard deviations."""
    path = export(tmp_path / "alexnet.onnx")
    model = convert.read_model(path)
    assert "preprocessing as for torchvision's alexnet" in capsys.readouterr().err
    preset = presets.torchvision_alexnet()
    assert (model.config.data, model.config.optimizer) == (preset.data, preset.optimizer)
    pixels = make_image()
    # torchvision.transforms: CenterCrop(224), ToTensor, Normalize.
    seen = (pixels[16:240, 16:240] / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    images = seen.transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    expected = torch.softmax(torch.tensor(logits), 1)[0].numpy()
    assert np.ptp(expected) > 1e-2
    ((_, best),) = predict(model, [("image", pixels)])
    for name, probability in best:
        # Probabilities near 0.1 of float32 sums in another order.
        assert probability == pytest.approx(float(expected[int(name)]), rel=1e-5)


def test_the_zoos_preprocessing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches Caffe's preprocessing lost for the files that need it."""
    for producer in ("", "onnx-caffe2"):
        model = make_zoo_model(TINY)
        model.producer_name = producer
        read = convert.read_model(write(tmp_path / "zoo.onnx", model))
        assert read.config.data.channel_order == "bgr"
        assert "preprocessing as for Caffe's AlexNet" in capsys.readouterr().err


def with_producer(model: onnx.ModelProto) -> None:
    model.producer_name = "pytorch"


def without_lrn(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "LRN":
            node.CopyFrom(helper.make_node("Relu", node.input, node.output))


@pytest.mark.parametrize("change", [with_producer, without_lrn])
def test_unknown_preprocessing(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Catches preprocessing that is guessed: PyTorch's ports of Caffe's model are trained anew."""
    model = make_zoo_model(TINY)
    change(model)
    with pytest.raises(InputError, match=r"preprocessing .* give it with --config=FILE, such as"):
        convert.read_model(write(tmp_path / "net.onnx", model))


def test_other_layers_of_pytorch(tmp_path: Path) -> None:
    """Catches any model of PyTorch's taken for torchvision's, such as one with another stride."""
    model = onnx.load(export(tmp_path / "alexnet.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("features.3.weight"):
            kernel = numpy_helper.to_array(tensor)[:, :, 1:4, 1:4]
            tensor.CopyFrom(numpy_helper.from_array(kernel.copy(), tensor.name))
    (node,) = (n for n in model.graph.node if "features.3.weight" in "".join(n.input))
    for attribute in node.attribute:
        if attribute.name in ("kernel_shape", "pads"):
            attribute.ints[:] = [3, 3] if attribute.name == "kernel_shape" else [1] * 4
    with pytest.raises(InputError, match=r"written by 'pytorch', without LRN, 1 groups"):
        convert.read_model(write(tmp_path / "other.onnx", model))


def same(model: TrainedModel, other: TrainedModel) -> None:
    jax.tree.map(np.testing.assert_array_equal, model.params, other.params)
    assert model.config == other.config


def test_external_data(tmp_path: Path) -> None:
    """Catches weights beside the file that are refused, and offsets that are ignored."""
    path = make_external(tmp_path)
    assert (tmp_path / "net.onnx.data").stat().st_size > 8000
    expected = write(tmp_path / "one.onnx", make_zoo_model(TINY))
    same(convert.read_model(path), convert.read_model(expected))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../net.onnx.data", "expected one in the folder of the model"),
        ("location", "inside/../net.onnx.data", "expected one in the folder of the model"),
        ("location", "/etc/passwd", "expected one in the folder of the model"),
        ("location", "link", "expected one in the folder of the model"),
        ("location", "link/net.onnx.data", "expected one in the folder of the model"),
        ("location", "a\0b", "which is not there"),
        ("location", "", "which is not there"),
        ("location", "gone", r"which is not there; put it beside .* external_data=False"),
        ("location", "x" * 300, "which is not there"),
        ("offset", "-8", "at byte -8 and 5808 bytes long"),
        ("offset", "99999999", "expected 5,808 of the"),
        ("offset", "x", "expected 5,808 of the"),
        ("offset", "9" * 5000, "expected 5,808 of the"),
        ("length", "4", "4 bytes long; expected 5,808 of the"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, key: str, value: str, message: str) -> None:
    """Catches a file outside the folder that is read, and a position that is not checked."""
    (tmp_path / "net").mkdir()
    path = make_external(tmp_path / "net")
    content = (tmp_path / "net" / "net.onnx.data").read_bytes()
    (tmp_path / "net.onnx.data").write_bytes(content)
    target = tmp_path if "/" in value else tmp_path / "net.onnx.data"
    (tmp_path / "net" / "link").symlink_to(target)
    model = onnx.load(path, load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.name == "conv1_w_0")
    entries = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
    del tensor.external_data[:]
    for name, text in entries.items():
        tensor.external_data.add(key=name, value=text)
    with pytest.raises(InputError, match=message) as raised:
        convert.read_model(write(path, model))
    assert str(raised.value).isprintable()


def test_computed_weights(tmp_path: Path) -> None:
    """Catches weights that operators compute: constants, equal numbers, other names, and axes."""
    plain, model = make_zoo_model(TINY), make_zoo_model(TINY)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors["fc7_b_0"].CopyFrom(numpy_helper.from_array(np.full(8, 0.5, np.float32), "fc7_b_0"))
    for tensor in plain.graph.initializer:
        if tensor.name == "fc7_b_0":
            tensor.CopyFrom(tensors["fc7_b_0"])
    turned = numpy_helper.from_array(numpy_helper.to_array(tensors["fc8_w_0"]).T.copy(), "turned")
    half = numpy_helper.from_array(np.array([0.5], np.float32))
    bias = numpy_helper.to_array(tensors["conv1_b_0"]).tolist()
    for node in model.graph.node:
        if node.op_type == "Dropout":
            del node.attribute[:]  # the ratio, 0.5 without it, is an input from operator set 12 on
    nodes = [
        helper.make_node("Constant", [], ["conv3_w_0"], value=tensors["conv3_w_0"]),
        helper.make_node("Constant", [], ["conv1_b_0"], value_floats=bias),
        helper.make_node("Constant", [], ["eight"], value_ints=[8]),
        helper.make_node("ConstantOfShape", ["eight"], ["fc7_b_0"], value=half),
        helper.make_node("Identity", ["other"], ["conv2_w_0"]),
        helper.make_node("Transpose", ["turned"], ["fc8_w_0"], perm=[1, 0]),
        *model.graph.node,
    ]
    other = numpy_helper.from_array(numpy_helper.to_array(tensors["conv2_w_0"]), "other")
    computed = {output for node in nodes[:6] for output in node.output}
    kept = [t for name, t in tensors.items() if name not in computed]
    images = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, (1, 3, 224, 224))
    graph = helper.make_graph(nodes, "net", [images], model.graph.output, [*kept, turned, other])
    path = tmp_path / "net.onnx"
    write(path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)]))
    onnx.checker.check_model(path, full_check=True)
    same(convert.read_model(path), convert.read_model(write(tmp_path / "p.onnx", plain)))


def test_absurd_constants(tmp_path: Path) -> None:
    """Catches a shape in a small file that asks for any amount of memory."""
    for sizes, message in (([2**20, 2**20], "expected at most"), ([-1, 3], "expected sizes")):
        model = make_zoo_model(TINY)
        tensors = [t for t in model.graph.initializer if t.name != "fc7_w_0"]
        tensors.append(numpy_helper.from_array(np.array(sizes), "sizes"))
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
        model.graph.input.pop([i.name for i in model.graph.input].index("fc7_w_0"))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sizes"], ["fc7_w_0"]))
        with pytest.raises(InputError, match=message):
            convert.read_model(write(tmp_path / "net.onnx", model))
