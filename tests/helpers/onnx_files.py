"""A model as the ONNX model zoo's bvlcalexnet, with random weights."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers import foreign_files


def make_zoo_model(sizes: dict[str, int], opset: int = 9) -> onnx.ModelProto:
    """Return a model as the model zoo's bvlcalexnet, with its names and its geometry.

    Input of 224 pixels without padding, so feature maps of 54; pool1 and pool2 leave out what
    overhangs, and pool5 pads by one pixel at the end: 54, 26, 12, 6.
    """
    nodes, at = [], "data_0"
    tensors = [numpy_helper.from_array(np.array([1, 36 * sizes["conv5"]]), "OC2_DUMMY_1")]
    for name, (weight, bias) in foreign_files.weights(sizes).items():
        tensors += [numpy_helper.from_array(weight, f"{name}_w_0")]
        tensors += [numpy_helper.from_array(bias, f"{name}_b_0")]
        inputs = [at, f"{name}_w_0", f"{name}_b_0"]
        if name == "fc6":
            nodes.append(helper.make_node("Reshape", [at, "OC2_DUMMY_1"], ["OC2_DUMMY_0"]))
            inputs[0] = "OC2_DUMMY_0"
        if name in foreign_files.GEOMETRY:
            kernel, stride, pad = foreign_files.GEOMETRY[name]
            geometry: dict[str, Any] = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2)
            geometry |= dict(pads=[pad] * 4, group=foreign_files.GROUPS.get(name, 1))
            nodes.append(helper.make_node("Conv", inputs, [f"{name}_1"], **geometry))
        else:
            nodes.append(helper.make_node("Gemm", inputs, [f"{name}_1"], transB=1))
        at = f"{name}_1"
        for op in foreign_files.OPS[name]:
            kind = op[:-1] if op != "prob" else op
            rule: dict[str, Any] = {}
            if kind == "norm":
                rule = dict(size=5, alpha=foreign_files.LRN_ALPHA, beta=0.75, bias=1.0)
            elif kind == "pool":
                pads = [0, 0, 1, 1] if name == "conv5" else [0, 0, 0, 0]
                rule = dict(kernel_shape=[3, 3], strides=[2, 2], pads=pads)
            elif kind == "drop":
                rule = dict(ratio=0.5)
            operator = dict(relu="Relu", norm="LRN", pool="MaxPool", drop="Dropout", prob="Softmax")
            nodes.append(helper.make_node(operator[kind], [at], [f"{op}_1"], **rule))
            at = f"{op}_1"
    value = helper.make_tensor_value_info
    values = [value("data_0", TensorProto.FLOAT, (1, 3, 224, 224))]
    # Files of that age list the weights among the inputs as well.
    values += [value(t.name, t.data_type, t.dims) for t in tensors]
    outputs = [value("prob_1", TensorProto.FLOAT, (1, sizes["fc8"]))]
    graph = helper.make_graph(nodes, "AlexNet", values, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3)
