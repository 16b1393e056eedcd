"""ONNX files, read and written by us and run by ONNX Runtime."""

import runpy
from pathlib import Path
from typing import Any

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from foreign import stacked
from onnx import TensorProto, helper, numpy_helper
from test_configs import CONFIGS
from torch_twin import config_module, random_params, small_config

from alexnet_jax import convert
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net
from alexnet_jax.inputs import mean_of, normalise
from alexnet_jax.models.alexnet import activations
from alexnet_jax.network import logits, make_model

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once


def zoo(sizes: dict[str, int], opset: int = 9) -> onnx.ModelProto:
    """A net as the model zoo's bvlcalexnet, with its names and its geometry.

    Input of 224 pixels without padding, so maps of 54; pool1 and pool2 leave out what overhangs,
    and pool5 pads by one pixel at the end: 54, 26, 12, 6.
    """
    nodes, at = [], "data_0"
    tensors = [numpy_helper.from_array(np.array([1, 36 * sizes["conv5"]]), "OC2_DUMMY_1")]
    for name, (weight, bias) in foreign.weights(sizes).items():
        tensors += [numpy_helper.from_array(weight, f"{name}_w_0")]
        tensors += [numpy_helper.from_array(bias, f"{name}_b_0")]
        inputs = [at, f"{name}_w_0", f"{name}_b_0"]
        if name == "fc6":
            nodes.append(helper.make_node("Reshape", [at, "OC2_DUMMY_1"], ["OC2_DUMMY_0"]))
            inputs[0] = "OC2_DUMMY_0"
        if name in foreign.GEOMETRY:
            kernel, stride, pad = foreign.GEOMETRY[name]
            geometry: dict[str, Any] = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2)
            geometry |= dict(pads=[pad] * 4, group=foreign.GROUPS.get(name, 1))
            nodes.append(helper.make_node("Conv", inputs, [f"{name}_1"], **geometry))
        else:
            nodes.append(helper.make_node("Gemm", inputs, [f"{name}_1"], transB=1))
        at = f"{name}_1"
        for step in foreign.STEPS[name]:
            kind = step[:-1] if step != "prob" else step
            rule: dict[str, Any] = {}
            if kind == "norm":
                rule = dict(size=5, alpha=foreign.LRN_ALPHA, beta=0.75, bias=1.0)
            elif kind == "pool":
                pads = [0, 0, 1, 1] if name == "conv5" else [0, 0, 0, 0]
                rule = dict(kernel_shape=[3, 3], strides=[2, 2], pads=pads)
            elif kind == "drop":
                rule = dict(ratio=0.5)
            operator = dict(relu="Relu", norm="LRN", pool="MaxPool", drop="Dropout", prob="Softmax")
            nodes.append(helper.make_node(operator[kind], [at], [f"{step}_1"], **rule))
            at = f"{step}_1"
    value = helper.make_tensor_value_info
    values = [value("data_0", TensorProto.FLOAT, (1, 3, 224, 224))]
    # Files of that age list the weights among the inputs as well.
    values += [value(t.name, t.data_type, t.dims) for t in tensors]
    outputs = [value("prob_1", TensorProto.FLOAT, (1, sizes["fc8"]))]
    graph = helper.make_graph(nodes, "AlexNet", values, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3)


def run(model: onnx.ModelProto | Path, images: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Outputs, or other activities, by ONNX Runtime."""
    model = onnx.load(model) if isinstance(model, Path) else model
    listed = {value.name for value in model.graph.output}
    for name in names:
        if name not in listed:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # of weights among the inputs
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(names, {session.get_inputs()[0].name: images})
    return found


def test_a_net_of_the_zoo(tmp_path: Path) -> None:
    """Catches geometry that is assumed: padding of conv1, windows of the three pools, groups."""
    path = tmp_path / "bvlcalexnet.onnx"
    model = zoo(foreign.SMALL)
    path.write_bytes(model.SerializeToString())
    net = convert.read(path)
    after = {name: layer.after for name, layer in net.config.model.layers.items()}
    assert (net.config.data.crop, after["conv1"][-1], after["conv5"][-1]) == (
        *(224, "pool_floor"),
        "pool",
    )
    rng = np.random.default_rng(1)
    seen = rng.normal(0, 70, (1, 224, 224, 3)).astype(np.float32)
    forward = jax.jit(activations, static_argnums=0, compiler_options=QUICK)
    ours = forward(make_model(net.config), net.params, seen)
    names = dict(norm1="conv1_lrn", pool1="conv1_pool_floor", norm2="conv2_lrn", fc8="fc8")
    names |= dict(pool2="conv2_pool_floor", conv4="conv4", pool5="conv5_pool", fc6="fc6")
    theirs = run(model, seen.transpose(0, 3, 1, 2), [f"{name}_1" for name in names])
    for (name, named), expected in zip(names.items(), theirs, strict=True):
        got = np.asarray(ours[named])
        got = got if name == "fc8" else stacked(got)
        # Float32 sums in another order, and LRN by another formula.
        largest = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=name)


def some_net(kind: str) -> Net:
    """A net that a run would leave, with all that the graph has to hold."""
    config = small_config()
    config.model.channels = 3
    if kind == "paper, shrunk":
        config = config_module()["get_config"]()
        for layer in config.model.layers.values():
            layer.features = min(layer.features, 12)
        config.model.classes = 7
        config.model.lrn.alpha = 0.05
    elif kind == "the 2012 program's, shrunk":
        config = runpy.run_path(str(CONFIGS / "source2012.py"))["get_config"]()
        for layer in config.model.layers.values():
            layer.features = min(layer.features, 12)
        config.model.classes = 7
        config.model.map_norm.alpha = 5.0  # as strong as can be seen after random weights
    elif kind == "columns apart, pools that round down":
        config.model.layers.conv3.sees = config.model.layers.fc6.sees = "own"
        config.model.layers.conv1.after = ("tanh", "pool_floor")
        config.data.mean, config.data.given_mean = "given", (120.0, 110.0, 100.0)
    elif kind == "BGR in units of a deviation, LRN across":
        config.data.channel_order = "bgr"
        config.data.std = (50.0, 60.0, 70.0)
        config.data.mean = "center"
        config.model.lrn.across_columns = config.model.inverted_dropout = True
    rng = np.random.default_rng(5)
    side = config.data.crop + 5
    mean = rng.uniform(90, 140, (side, side, 3)).astype(np.float32)
    params = jax.tree.map(np.float32, random_params(config))
    params["conv1"]["kernel"] /= 20
    return Net(config, 0, params, mean, tuple(map(str, range(config.model.classes))))


KINDS = [
    "paper, shrunk",
    "the 2012 program's, shrunk",
    "columns apart, pools that round down",
    "BGR in units of a deviation, LRN across",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_written_stands_alone(tmp_path: Path, kind: str) -> None:
    """Catches a mean of another crop, LRN across columns, our own order of flattened maps, and a
    norm within a map whose windows at the edges divide by fewer activities."""
    net, path = some_net(kind), tmp_path / "net.onnx"
    convert.write(path, net)
    crop = net.config.data.crop
    pixels = np.random.default_rng(2).integers(0, 256, (3, crop, crop, 3), np.uint8)
    start = (net.mean_image.shape[0] - crop) // 2
    batch = {"image": pixels, "offset": np.full((3, 2), start), "flip": np.zeros(3, bool)}
    mean = jnp.asarray(mean_of(net.mean_image, net.config.data, 3))

    @jax.jit
    def forward(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return logits(make_model(net.config), params, normalise(batch, mean, net.config.data))

    (theirs,) = run(path, pixels.transpose(0, 3, 1, 2).astype(np.float32), ["logits"])
    ours = np.asarray(forward(net.params, batch))
    assert np.abs(ours).max() > 0.05
    # As asked for: 1e-4 of logits near 1; sums in another order give a tenth of that.
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * max(1, np.abs(ours).max()))
    assert theirs.std(axis=0).max() > 1e-2  # the images are told apart
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    kernel = net.params["conv3"]["kernel"]
    np.testing.assert_array_equal(weights["conv3_0"][-1, -1], kernel[1, :, :, -1, -1])
    with pytest.raises(InputError, match=r"write it as \.safetensors"):
        convert.read(path)
