"""Nets of ONNX: `bvlcalexnet` of the model zoo, and others of one chain.

The geometry is the file's: how convolutions round, where windows overhang, which layers have
groups. In the zoo's file conv1 makes 54×54 maps of 224×224 pixels, pool1 and pool2 leave out the
window that overhangs, and pool5 does not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from alexnet_jax.errors import InputError
from alexnet_jax.formats import onnx_out
from alexnet_jax.formats.layout import Layer, Stack

STEPS = {"Relu": "relu", "Tanh": "tanh"}
KINDS = onnx.AttributeProto
TYPES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "shape"), KINDS.INTS),
    **dict.fromkeys(("group", "size", "axis", "transA", "transB", "ceil_mode"), KINDS.INT),
    **dict.fromkeys(("alpha", "beta", "bias", "ratio"), KINDS.FLOAT),
    **dict(auto_pad=KINDS.STRING, value=KINDS.TENSOR),
}
NOTHING = ("Identity", "Softmax")  # Identity changes nothing, and a last Softmax no order


def read(path: Path, names: list[str], crop: int) -> Stack:
    """The net of an `.onnx` file.

    Args:
        names: of the layers with weights, in their order; ONNX names no layers.
        crop: pixels a side of the input where the file leaves it open.

    Raises:
        InputError: not such a file, a damaged one, or a net that the config cannot hold.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is no ONNX file, or a damaged one: {error}") from None
    try:
        return _Reader(model, names, crop).stack
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Reader:
    """Follows the chain of a graph from its input to its output."""

    def __init__(self, model: Any, names: list[str], crop: int) -> None:
        graph = model.graph
        if model.producer_name == onnx_out.PRODUCER:
            raise InputError(
                "this program wrote the file, in which ONNX holds what it computes and not its "
                "config; to read a net back, write it as .safetensors"
            )
        if not model.opset_import or not graph.output:
            raise InputError("the file states no operator set or no output; it is cut off")
        self.arrays = {tensor.name: _array(tensor) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.arrays]
        if len(inputs) != 1:
            raise InputError(f"the inputs are {[i.name for i in inputs]}; expected one of images")
        self.names = iter(names)
        self.ended = False
        self.stack = Stack([])
        self.side = self._side(inputs[0], crop)
        self.stack.state("data", "crop", self.side)
        at = inputs[0].name
        for node in graph.node:
            attributes = _attributes(node)
            if node.op_type == "Constant":
                self.arrays[node.output[0]] = _array(attributes.get("value"))
                continue
            if not node.input or node.input[0] != at or not node.output:
                raise InputError(
                    f"{node.op_type} takes {[*node.input][:1]}; expected {at}, a chain of operators"
                )
            self._add(node, attributes)
            at = node.output[0]
        if at != graph.output[0].name:
            raise InputError(f"the last operator gives {at}, the output is {graph.output[0].name}")

    def _side(self, value: Any, crop: int) -> int:
        sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[2] != sizes[3]:
            raise InputError(f"the input {value.name} is {sizes}; expected square images, NCHW")
        return sizes[2] or crop

    def _add(self, node: Any, given: dict[str, Any]) -> None:
        """One more layer, or one more step after the last one."""
        kind, layers = node.op_type, self.stack.layers
        if self.ended and kind != "Identity":
            raise InputError(f"{kind} comes after the softmax; expected that at the end of the net")
        if kind == "Conv":
            layers.append(self._convolution(node, given))
        elif kind == "Gemm":
            layers.append(self._dense(node, given))
        elif kind in NOTHING:
            self.ended = self.ended or kind == "Softmax"
        elif not layers:
            raise InputError(f"{kind} comes before any convolution")
        elif kind in STEPS:
            layers[-1].after.append(STEPS[kind])
        elif kind == "LRN":
            if "size" not in given:
                raise InputError("an LRN has no size")
            rule = dict(size=given["size"], k=given.get("bias", 1.0))
            rule |= dict(alpha=given.get("alpha", 1e-4), beta=given.get("beta", 0.75))
            rule = {
                n: v if isinstance(v, int) else float(str(np.float32(v))) for n, v in rule.items()
            }
            shared = dict(alpha_over_size=True, across_columns=True)
            self.stack.state("model", "lrn", {**rule, **shared})
            layers[-1].after.append("lrn")
        elif kind == "MaxPool":
            self._pooling(given)
        elif kind == "Dropout":
            self._dropout(node, given)
        elif kind in ("Flatten", "Reshape"):
            self._flatten(node, given)
        elif kind == "AveragePool" and {*given.get("kernel_shape", ())} == {1}:
            return  # torchvision's adaptive pooling, at its own size
        else:
            raise InputError(
                f"the operator {kind} is none that the config has; expected Conv, Gemm, Relu, "
                "Tanh, LRN, MaxPool, Dropout, Flatten, Reshape or Softmax"
            )

    def _convolution(self, node: Any, given: dict[str, Any]) -> Layer:
        name, weight, bias = self._weights(node)
        if weight.ndim != 4:
            raise InputError(f"{name} has weights {weight.shape}; expected four dimensions")
        pads = self._pads(name, given)
        stride = _one(name, "strides", given.get("strides", [1]))
        if stride < 1:
            raise InputError(f"{name} has strides {stride}; expected 1 or more")
        _expect(name, "dilations", given.get("dilations", [1]), 1)
        _expect(name, "kernel_shape", given.get("kernel_shape", weight.shape[2:]), weight.shape[2])
        self.side = (self.side + sum(pads) - weight.shape[2]) // stride + 1
        bias = _bias(weight, bias)
        return Layer(name, weight, bias, given.get("group", 1), stride, pads)

    def _dense(self, node: Any, given: dict[str, Any]) -> Layer:
        name, weight, bias = self._weights(node)
        for factor in ("alpha", "beta"):
            _expect(name, factor, [given.get(factor, 1.0)], 1.0)
        _expect(name, "transA", [given.get("transA", 0)], 0)
        if weight.ndim != 2:
            raise InputError(f"{name} has weights {weight.shape}; expected two dimensions")
        weight = weight if given.get("transB", 0) else weight.T
        return Layer(name, weight, _bias(weight, bias))

    def _weights(self, node: Any) -> tuple[str, np.ndarray, np.ndarray | None]:
        name = next(self.names, None)
        if name is None:
            raise InputError(f"one more {node.op_type} than the config has layers")
        arrays = []
        for tensor in filter(None, node.input[1:]):  # an input left out may be named ""
            if tensor not in self.arrays:
                raise InputError(f"{name} wants the tensor {tensor}, which is not in the file")
            arrays.append(self.arrays[tensor])
        if not arrays:
            raise InputError(f"{name} has no weights")
        return name, arrays[0], arrays[1] if arrays[1:] else None

    def _pads(self, name: str, given: dict[str, Any]) -> tuple[int, int]:
        """Pixels before and after, in both directions."""
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InputError(f"{name} has auto_pad={given['auto_pad'].decode()}; expected pads")
        match given.get("pads", [0, 0, 0, 0]):
            case [top, left, bottom, right] if top == left >= 0 and bottom == right >= 0:
                return top, bottom
            case other:
                raise InputError(f"{name} has pads {other}; expected the same in both directions")

    def _pooling(self, given: dict[str, Any]) -> None:
        name = f"the pooling after {self.stack.layers[-1].name}"
        window = _one(name, "kernel_shape", given.get("kernel_shape", []))
        stride = _one(name, "strides", given.get("strides", [1]))
        _expect(name, "dilations", given.get("dilations", [1]), 1)
        before, after = self._pads(name, given)
        if before or window < 1 or stride < 1 or self.side < window:
            raise InputError(f"{name} pads {before} pixels or does not fit {self.side}; expected 0")
        spare, ceil_mode = self.side - window, given.get("ceil_mode", 0)
        padded = spare + after
        count = 1 + (-(-padded // stride) if ceil_mode else padded // stride)
        # Padding of a maximum is no number, so a window that overhangs is cut off by either way.
        rounded = {"pool_floor": 1 + spare // stride, "pool": 1 - (-spare // stride)}
        fits = [step for step, windows in rounded.items() if windows == count]
        if not fits:
            raise InputError(f"{name} has {count} windows a row; expected {rounded['pool']}")
        self.stack.state("model", "pool", dict(window=window, stride=stride))
        self.stack.layers[-1].after.append(fits[-1] if after or ceil_mode else fits[0])
        self.side = count

    def _dropout(self, node: Any, given: dict[str, Any]) -> None:
        ratio = given.get("ratio", 0.5)  # an attribute before operator set 12, then an input
        if len(node.input) > 1 and node.input[1]:
            ratio = float(self.arrays.get(node.input[1], np.float32(0.5)))
        self.stack.state("model", "dropout", float(str(np.float32(ratio))))
        self.stack.layers[-1].after.append("dropout")

    def _flatten(self, node: Any, given: dict[str, Any]) -> None:
        shape = given.get("shape", self.arrays.get(node.input[-1], ()))
        wrong = given.get("axis", 1) != 1 if node.op_type == "Flatten" else np.size(shape) != 2
        if wrong:
            raise InputError(f"{node.op_type} to {shape}; expected (batch, units)")


def _bias(weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The biases of weights (out, …), zeros where there are none."""
    return np.zeros(len(weight), np.float32) if bias is None else bias.reshape(-1)


def _attributes(node: Any) -> dict[str, Any]:
    """The attributes of an operator that are read here, each of its own type."""
    found = {}
    for attribute in node.attribute:
        if attribute.name not in TYPES:
            continue
        if attribute.type != TYPES[attribute.name]:
            raise InputError(f"{node.op_type} has an attribute {attribute.name} of another type")
        found[attribute.name] = onnx.helper.get_attribute_value(attribute)
    return found


def _array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor, which must lie in the file itself."""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError("a tensor lies in another file; expected all weights in one")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the tensor {tensor.name} is damaged: {error}") from None


def _one(name: str, what: str, sizes: list[int]) -> int:
    if len({*sizes}) != 1:
        raise InputError(f"{name} has {what} {[*sizes]}; expected squares")
    return sizes[0]


def _expect(name: str, what: str, found: Any, expected: float) -> None:
    if any(value != expected for value in found):
        raise InputError(f"{name} has {what} {[*found]}; expected {expected}")
