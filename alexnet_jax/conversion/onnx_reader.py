"""Read models of ONNX: `bvlcalexnet` of the model zoo, and others of one chain.

The geometry is the file's: how convolutions round, where windows overhang, which layers have
groups. In the zoo's file conv1 makes 54×54 feature maps of 224×224 pixels, pool1 and pool2 leave
out the window that overhangs, and pool5 does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from alexnet_jax.conversion import onnx_writer
from alexnet_jax.conversion.layout import ForeignNet, Weights
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, Tanh

KINDS = onnx.AttributeProto
TYPES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "shape"), KINDS.INTS),
    **dict.fromkeys(("group", "size", "axis", "transA", "transB", "ceil_mode"), KINDS.INT),
    **dict.fromkeys(("alpha", "beta", "bias", "ratio"), KINDS.FLOAT),
    **dict(auto_pad=KINDS.STRING, value=KINDS.TENSOR),
}
WITHOUT_EFFECT = ("Identity", "Softmax")  # the last Softmax changes no order of the classes

Attributes = Mapping[str, Any]  # each value of the type in TYPES


def read(path: Path, names: Mapping[str, type[Op]] | None, crop: int) -> ForeignNet:
    """Read an `.onnx` file.

    Args:
        names: of the layers with weights, in their order, with their types, since ONNX names no
            layers; None names them conv1, …, fc8 by type and number.
        crop: pixels a side of the input where the file leaves it open.

    Raises:
        InputError: not such a file, a damaged one, or a model that the config cannot hold.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is no ONNX file, or a damaged one: {error}") from None
    try:
        return _Reader(model, names, crop).net
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Reader:
    """Follows the chain of a graph from its input to its output."""

    def __init__(
        self, model: onnx.ModelProto, names: Mapping[str, type[Op]] | None, crop: int
    ) -> None:
        graph = model.graph
        if model.producer_name == onnx_writer.PRODUCER:
            raise InputError(
                "this program wrote the file, in which ONNX holds what it computes and not its "
                "config; to read a model back, write it as .safetensors"
            )
        if not model.opset_import or not graph.output:
            raise InputError("the file states no operator set or no output; it is cut off")
        self.arrays = {tensor.name: _array(tensor) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.arrays]
        if len(inputs) != 1:
            raise InputError(f"the inputs are {[i.name for i in inputs]}; expected one of images")
        self.names: Iterator[tuple[str, type[Op]]] | None = None
        if names is not None:
            self.names = iter(names.items())
        self.ended = False
        self.net = ForeignNet()
        self.side = self._side(inputs[0], crop)
        self.net.set_data("crop", self.side)
        at = inputs[0].name
        for node in graph.node:
            given = _attributes(node)
            if node.op_type == "Constant" and node.output:
                self.arrays[node.output[0]] = _array(given.get("value"))
                continue
            if not node.input or node.input[0] != at or not node.output:
                raise InputError(
                    f"{node.op_type} takes {[*node.input][:1]}; expected {at}, a chain of operators"
                )
            self._add(node, given)
            at = node.output[0]
        if at != graph.output[0].name:
            raise InputError(f"the last operator gives {at}, the output is {graph.output[0].name}")
        if self.names is not None and (missing := [name for name, _ in self.names]):
            raise InputError(f"the file has no layers for {', '.join(missing)} of the config")

    def _side(self, value: onnx.ValueInfoProto, crop: int) -> int:
        sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[2] != sizes[3]:
            raise InputError(f"the input {value.name} is {sizes}; expected square images, NCHW")
        return sizes[2] or crop

    def _add(self, node: onnx.NodeProto, given: Attributes) -> None:
        """Append the op of an operator, if it is one."""
        if self.ended and node.op_type != "Identity":
            raise InputError(
                f"{node.op_type} comes after the softmax; expected that at the end of the model"
            )
        match node.op_type:
            case "Conv":
                self._convolution(node, given)
            case "Gemm":
                self._dense(node, given)
            case "Relu":
                self.net.add(ReLU())
            case "Tanh":
                self.net.add(Tanh())
            case "LRN":
                self.net.add(_lrn(given))
            case "MaxPool":
                self._pooling(given)
            case "Dropout":
                self._dropout(node, given)
            case "Flatten" | "Reshape":
                self._check_flatten(node, given)
            case "AveragePool" if {*given.get("kernel_shape", ())} == {1}:
                pass  # torchvision's adaptive pooling, at its own size
            case kind if kind in WITHOUT_EFFECT:
                self.ended = self.ended or kind == "Softmax"
            case kind:
                raise InputError(
                    f"the operator {kind} is none that the config has; expected Conv, Gemm, Relu, "
                    "Tanh, LRN, MaxPool, Dropout, Flatten, Reshape or Softmax"
                )

    def _convolution(self, node: onnx.NodeProto, given: Attributes) -> None:
        name = self._name(node, Conv)
        weight, bias = self._weights(name, node)
        if weight.ndim != 4:
            raise InputError(f"{name} has weights {weight.shape}; expected four dimensions")
        pads = self._pads(name, given)
        stride = _one(name, "strides", given.get("strides", [1]))
        if stride < 1:
            raise InputError(f"{name} has strides {stride}; expected 1 or more")
        features, _, kernel, _ = weight.shape
        _expect(name, "dilations", given.get("dilations", [1]), 1)
        for sizes in (weight.shape[2:], given.get("kernel_shape", ())):
            _expect(name, "kernel_shape", sizes, kernel)
        self.side = (self.side + sum(pads) - kernel) // stride + 1
        op = Conv(features, kernel, stride, pads, given.get("group", 1))
        self.net.add_layer(op, Weights(weight, bias), name)

    def _dense(self, node: onnx.NodeProto, given: Attributes) -> None:
        name = self._name(node, Dense)
        weight, bias = self._weights(name, node, turned=not given.get("transB", 0))
        for factor in ("alpha", "beta"):
            _expect(name, factor, [given.get(factor, 1.0)], 1.0)
        _expect(name, "transA", [given.get("transA", 0)], 0)
        if weight.ndim != 2:
            raise InputError(f"{name} has weights {weight.shape}; expected two dimensions")
        self.net.add_layer(Dense(len(weight)), Weights(weight, bias), name)

    def _name(self, node: onnx.NodeProto, kind: type[Conv | Dense]) -> str:
        """Return the name of the next layer.

        Raises:
            InputError: the config names no further layer, or one of another type.
        """
        if self.names is None:
            return f"{'conv' if kind is Conv else 'fc'}{len(self.net.weights) + 1}"
        name, expected = next(self.names, ("", kind))
        if not name:
            raise InputError(f"one more {node.op_type} than the config has layers")
        if expected is not kind:
            raise InputError(f"{name} is a {node.op_type}; expected it to be {expected.__name__}")
        return name

    def _weights(
        self, name: str, node: onnx.NodeProto, *, turned: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (out, …) and biases (out,), zero where there are none.

        Args:
            turned: the file has the weights as (in, out).
        """
        arrays = []
        for tensor in filter(None, node.input[1:]):  # an input left out may be named ""
            if tensor not in self.arrays:
                raise InputError(f"{name} takes the tensor {tensor}, which is not in the file")
            arrays.append(self.arrays[tensor])
        if not arrays:
            raise InputError(f"{name} has no weights")
        weight = arrays[0].T if turned else arrays[0]
        if len(arrays) > 1:
            return weight, arrays[1].reshape(-1)
        return weight, np.zeros(weight.shape[:1], np.float32)

    def _pads(self, name: str, given: Attributes) -> tuple[int, int]:
        """Return the pixels before and after, which must be the same in both directions."""
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InputError(f"{name} has auto_pad={given['auto_pad']!r}; expected pads")
        match given.get("pads", [0, 0, 0, 0]):
            case [int(top), int(left), int(bottom), int(right)] if (
                top == left >= 0 and bottom == right >= 0
            ):
                return top, bottom
            case other:
                raise InputError(f"{name} has pads {other}; expected the same in both directions")

    def _pooling(self, given: Attributes) -> None:
        name = f"the pooling after {next(reversed(self.net.weights), 'nothing')}"
        window = _one(name, "kernel_shape", given.get("kernel_shape", []))
        stride = _one(name, "strides", given.get("strides", [1]))
        _expect(name, "dilations", given.get("dilations", [1]), 1)
        before, after = self._pads(name, given)
        if before or window < 1 or stride < 1 or self.side < window:
            raise InputError(f"{name} pads {before} pixels or does not fit {self.side}; expected 0")
        spare, rounds_up = self.side - window, given.get("ceil_mode", 0) != 0
        padded = spare + after
        count = 1 + (-(-padded // stride) if rounds_up else padded // stride)
        # Padding of a maximum is no number, so a window that overhangs is cut off by either way.
        counts = {False: 1 + spare // stride, True: 1 - (-spare // stride)}
        fits = [ceil_mode for ceil_mode, windows in counts.items() if windows == count]
        if not fits:
            raise InputError(f"{name} has {count} windows a row; expected {counts[True]}")
        ceil_mode = fits[-1] if after or rounds_up else fits[0]
        self.net.add(MaxPool(window, stride, ceil_mode))
        self.side = count

    def _dropout(self, node: onnx.NodeProto, given: Attributes) -> None:
        ratio = given.get("ratio", 0.5)  # an attribute before operator set 12, then an input
        if len(node.input) > 1 and node.input[1]:
            array = self.arrays.get(node.input[1], np.array(0.5))
            if array.size != 1:
                raise InputError(f"a Dropout has a ratio of shape {array.shape}; expected a number")
            ratio = array.item()
        self.net.add(Dropout(_short(ratio), inverted=True))

    def _check_flatten(self, node: onnx.NodeProto, given: Attributes) -> None:
        shape = given.get("shape", self.arrays.get(node.input[-1], ()))
        wrong = given.get("axis", 1) != 1 if node.op_type == "Flatten" else np.size(shape) != 2
        if wrong:
            raise InputError(f"{node.op_type} to {shape}; expected (batch, units)")


def _lrn(given: Attributes) -> LRN:
    if "size" not in given:
        raise InputError("an LRN has no size")
    return LRN(
        size=given["size"],
        k=_short(given.get("bias", 1.0)),
        alpha=_short(given.get("alpha", 1e-4)),
        beta=_short(given.get("beta", 0.75)),
        alpha_over_size=True,
        across_columns=True,
    )


def _short(number: float) -> float:
    """Return the shortest decimal number that is this float32: 0.0001 and not 9.99999974e-05."""
    return float(str(np.float32(number)))


def _attributes(node: onnx.NodeProto) -> Attributes:
    """Return the attributes of an operator that are read here, each of its own type."""
    found = {}
    for attribute in node.attribute:
        if attribute.name not in TYPES:
            continue
        if attribute.type != TYPES[attribute.name]:
            raise InputError(f"{node.op_type} has an attribute {attribute.name} of another type")
        found[attribute.name] = onnx.helper.get_attribute_value(attribute)
    return found


def _array(tensor: onnx.TensorProto | None) -> np.ndarray:
    """Return the numbers of a tensor, which must lie in the file itself."""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError("a tensor lies in another file; expected all weights in one")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the tensor {tensor.name} is damaged: {error}") from None
    if array.dtype.kind in "OSUc":
        raise InputError(f"the tensor {tensor.name} has the type {array.dtype}; expected numbers")
    return array


def _one(name: str, what: str, sizes: Sequence[int]) -> int:
    if len({*sizes}) != 1:
        raise InputError(f"{name} has {what} {[*sizes]}; expected squares")
    return sizes[0]


def _expect(name: str, what: str, found: Sequence[float], expected: float) -> None:
    if any(value != expected for value in found):
        raise InputError(f"{name} has {what} {[*found]}; expected {expected}")
