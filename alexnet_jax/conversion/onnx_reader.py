"""Read ONNX models that are chains of operators, such as `bvlcalexnet` of the model zoo.

Sizes, padding, rounding and groups are those of the file. For 224×224 pixels, conv1 of the zoo's
file has an output of 54×54 pixels; pool1 and pool2 omit the window that overhangs, and pool5 keeps
it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import origins
from alexnet_jax.conversion.layout import ForeignModel, Weights, shortest_decimal
from alexnet_jax.conversion.onnx_tensors import compute_constant, read_tensor
from alexnet_jax.errors import InputError, one_line
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, Tanh, parameter_ops

_KINDS = onnx.AttributeProto
ATTRIBUTE_TYPES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "shape"), _KINDS.INTS),
    **dict.fromkeys(("group", "size", "axis", "transA", "transB", "ceil_mode"), _KINDS.INT),
    **dict.fromkeys(("alpha", "beta", "bias", "ratio"), _KINDS.FLOAT),
    **dict(auto_pad=_KINDS.STRING, value=_KINDS.TENSOR, perm=_KINDS.INTS),
    **dict(value_int=_KINDS.INT, value_ints=_KINDS.INTS),
    **dict(value_float=_KINDS.FLOAT, value_floats=_KINDS.FLOATS),
}
WITHOUT_EFFECT = ("Identity", "Softmax")  # a Softmax at the end keeps the order of the classes

Attributes = Mapping[str, Any]  # values have the types of ATTRIBUTE_TYPES


def read_onnx(path: Path, config: Config | None) -> tuple[Config, ForeignModel]:
    """Read an `.onnx` file of another program.

    Args:
        path: the file. Other files with its weights must be in its folder.
        config: preprocessing and recipe, the names and types of the layers with weights, in order,
            and the crop, if the file does not state it. None decides by the file which of
            `conversion.presets` to use; layers that are not those of the preset are named conv1, …,
            fc8 by type and number.

    Returns:
        The given or chosen config, and the model.

    Raises:
        InputError: the file is damaged or no ONNX file, the config cannot represent the model, or
            its preprocessing is unknown.
    """
    model = parse_onnx(path)
    traits = _traits(model)
    base, program = (config, "") if config else origins.choose_by_traits(path, traits)
    names = None
    if config or traits.fit(base):
        names = {name: type(op) for name, op in parameter_ops(sequential_model(base).ops)}
    try:
        foreign = _Reader(model, names, base.data.crop, path.parent).foreign
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if config is None:
        origins.check_chosen(path, traits, base, foreign.ops)
        origins.print_choice(path, program, "its layers and the program that wrote it")
    return base, foreign


def parse_onnx(path: Path) -> onnx.ModelProto:
    """Return the content of an ONNX file.

    Raises:
        InputError: the file is damaged or no ONNX file.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX file, or is damaged: {one_line(error)}") from None
    if not _is_text(model):
        raise InputError(f"{path} has names that are not UTF-8 text; it is damaged")
    return model


def _is_text(message: Any) -> bool:
    """Return whether all text in a protobuf message is UTF-8; protobuf returns other as bytes."""
    for field, value in message.ListFields():
        values = (
            [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        )
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(_is_text, values)):
            return False
    return True


def _traits(model: onnx.ModelProto) -> origins.OnnxTraits:
    """Return what an ONNX file states of where its weights come from."""
    nodes = model.graph.node
    groups = [a.i for node in nodes for a in node.attribute if a.name == "group"]
    kernels = [
        max((a.ints[0] for a in node.attribute if a.name == "kernel_shape" and a.ints), default=0)
        for node in nodes
        if node.op_type in ("Conv", "Gemm")
    ]
    return origins.OnnxTraits(
        producer=model.producer_name,
        has_lrn=any(node.op_type == "LRN" for node in nodes),
        groups=max(groups, default=1),
        kernels=tuple(kernels),
    )


class _Reader:
    """Reads the operators of a graph, a chain from its input to its output, into `foreign`."""

    def __init__(
        self,
        model: onnx.ModelProto,
        names: Mapping[str, type[Op]] | None,
        crop: int,
        folder: Path,
    ) -> None:
        graph = model.graph
        if not model.opset_import or not graph.output:
            raise InputError("the file states no operator set or no output; it is cut off")
        self.arrays = {tensor.name: read_tensor(tensor, folder) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.arrays]
        if len(inputs) != 1:
            raise InputError(f"the inputs are {[i.name for i in inputs]}; expected one of images")
        self.names: Iterator[tuple[str, type[Op]]] | None = None
        if names is not None:
            self.names = iter(names.items())
        self.ended = False
        self.foreign = ForeignModel()
        self.side = self._side(inputs[0], crop)
        self.foreign.set_data("crop", self.side)
        previous = inputs[0].name  # name of the last operator's output
        for node in graph.node:
            attributes = _attributes(node)
            constant = compute_constant(node, attributes, self.arrays, folder)
            if constant is not None and node.output:
                self.arrays[node.output[0]] = constant
                continue
            if not node.input or node.input[0] != previous or not node.output:
                raise InputError(
                    f"{node.op_type} takes {[*node.input][:1]}; expected {previous}, a chain of "
                    "operators"
                )
            self._add(node, attributes)
            previous = node.output[0]
        if previous != graph.output[0].name:
            raise InputError(
                f"the last operator computes {previous}; expected {graph.output[0].name}, the "
                "output"
            )
        if self.names is not None and (missing := [name for name, _ in self.names]):
            raise InputError(f"the file has no layers for {', '.join(missing)} of the config")

    def _side(self, value: onnx.ValueInfoProto, crop: int) -> int:
        """Return the side in pixels of the input; `crop` if the file does not state it."""
        sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[2] != sizes[3]:
            raise InputError(f"the input {value.name} is {sizes}; expected square images, NCHW")
        return sizes[2] or crop

    def _add(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        """Append the op of an operator, unless the operator has no effect."""
        if self.ended and node.op_type != "Identity":
            raise InputError(
                f"{node.op_type} comes after the softmax; expected that at the end of the model"
            )
        match node.op_type:
            case "Conv":
                self._convolution(node, attributes)
            case "Gemm":
                self._dense(node, attributes)
            case "Relu":
                self.foreign.add(ReLU())
            case "Tanh":
                self.foreign.add(Tanh())
            case "LRN":
                self.foreign.add(_lrn(attributes))
            case "MaxPool":
                self._pooling(attributes)
            case "Dropout":
                self._dropout(node, attributes)
            case "Flatten" | "Reshape":
                self._check_flatten(node, attributes)
            case "AveragePool" if {*attributes.get("kernel_shape", ())} == {1}:
                pass  # adaptive pooling of torchvision, to the size of its input
            case kind if kind in WITHOUT_EFFECT:
                self.ended = self.ended or kind == "Softmax"
            case kind:
                raise InputError(
                    f"the config cannot represent the operator {kind}; expected Conv, Gemm, Relu, "
                    "Tanh, LRN, MaxPool, Dropout, Flatten, Reshape or Softmax"
                )

    def _convolution(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        """Append a convolution."""
        name = self._name(node, Conv)
        weight, bias = self._weights(name, node)
        if weight.ndim != 4:
            raise InputError(f"{name} has weights {weight.shape}; expected four dimensions")
        pads = self._pads(name, attributes)
        stride = _equal_size(name, "strides", attributes.get("strides", [1]))
        if stride < 1:
            raise InputError(f"{name} has strides {stride}; expected 1 or more")
        features, _, kernel, _ = weight.shape
        _expect_all(name, "dilations", attributes.get("dilations", [1]), 1)
        for sizes in (weight.shape[2:], attributes.get("kernel_shape", ())):
            _expect_all(name, "kernel_shape", sizes, kernel)
        self.side = (self.side + sum(pads) - kernel) // stride + 1
        op = Conv(features, kernel, stride, pads, attributes.get("group", 1))
        self.foreign.add_layer(op, Weights(weight, bias), name)

    def _dense(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        """Append a fully-connected layer."""
        name = self._name(node, Dense)
        weight, bias = self._weights(name, node, transposed=not attributes.get("transB", 0))
        for factor in ("alpha", "beta"):
            _expect_all(name, factor, [attributes.get(factor, 1.0)], 1.0)
        _expect_all(name, "transA", [attributes.get("transA", 0)], 0)
        if weight.ndim != 2:
            raise InputError(f"{name} has weights {weight.shape}; expected two dimensions")
        self.foreign.add_layer(Dense(len(weight)), Weights(weight, bias), name)

    def _name(self, node: onnx.NodeProto, kind: type[Conv | Dense]) -> str:
        """Return the name of the next layer.

        Raises:
            InputError: the config has no further layer, or one of another type.
        """
        if self.names is None:
            return f"{'conv' if kind is Conv else 'fc'}{len(self.foreign.weights) + 1}"
        name, expected = next(self.names, ("", kind))
        if not name:
            raise InputError(f"the file has one more {node.op_type} than the config has layers")
        if expected is not kind:
            raise InputError(f"{name} is a {node.op_type}; expected it to be {expected.__name__}")
        return name

    def _weights(
        self, name: str, node: onnx.NodeProto, *, transposed: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights (outputs, …) and biases (outputs,), zeros if the file has none.

        Args:
            name: name of the layer.
            node: its operator.
            transposed: whether the weights in the file are (inputs, outputs).
        """
        arrays = []
        for tensor in filter(None, node.input[1:]):  # an omitted input may be named ""
            if tensor not in self.arrays:
                raise InputError(f"{name} takes the tensor {tensor}, which is not in the file")
            arrays.append(self.arrays[tensor])
        if not arrays:
            raise InputError(f"{name} has no weights")
        weight = arrays[0].T if transposed else arrays[0]
        if len(arrays) > 1:
            return weight, arrays[1].reshape(-1)
        return weight, np.zeros(weight.shape[:1], np.float32)

    def _pads(self, name: str, attributes: Attributes) -> tuple[int, int]:
        """Return the padding before and after the input, which must be the same for both axes."""
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InputError(f"{name} has auto_pad={attributes['auto_pad']!r}; expected pads")
        match attributes.get("pads", [0, 0, 0, 0]):
            case [int(top), int(left), int(bottom), int(right)] if (
                top == left >= 0 and bottom == right >= 0
            ):
                return top, bottom
            case pads:
                raise InputError(f"{name} has pads {pads}; expected the same for both axes")

    def _pooling(self, attributes: Attributes) -> None:
        """Append max pooling."""
        name = f"the pooling after {next(reversed(self.foreign.weights), 'nothing')}"
        window = _equal_size(name, "kernel_shape", attributes.get("kernel_shape", []))
        stride = _equal_size(name, "strides", attributes.get("strides", [1]))
        _expect_all(name, "dilations", attributes.get("dilations", [1]), 1)
        begin, end = self._pads(name, attributes)
        if begin or window < 1 or stride < 1 or self.side < window:
            raise InputError(f"{name} pads {begin} pixels or does not fit {self.side}; expected 0")
        extent, rounds_up = self.side - window, attributes.get("ceil_mode", 0) != 0
        padded = extent + end
        count = 1 + (-(-padded // stride) if rounds_up else padded // stride)
        # Padding never enters a maximum, so padding at the end only cuts off a window there.
        counts = {False: 1 + extent // stride, True: 1 - (-extent // stride)}
        modes = [ceil_mode for ceil_mode, windows in counts.items() if windows == count]
        if not modes:
            raise InputError(f"{name} has {count} windows per row; expected {counts[True]}")
        ceil_mode = modes[-1] if end or rounds_up else modes[0]
        self.foreign.add(MaxPool(window, stride, ceil_mode))
        self.side = count

    def _dropout(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        """Append dropout."""
        ratio = attributes.get("ratio", 0.5)  # an attribute before operator set 12, then an input
        if len(node.input) > 1 and node.input[1]:
            array = self.arrays.get(node.input[1], np.array(0.5))
            if array.size != 1:
                raise InputError(f"a Dropout has a ratio of shape {array.shape}; expected a number")
            ratio = array.item()
        self.foreign.add(Dropout(shortest_decimal(ratio), inverted=True))

    def _check_flatten(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        """Raise InputError for an operator that does not flatten to (batch, units)."""
        shape = attributes.get("shape", self.arrays.get(node.input[-1], ()))
        is_flatten = node.op_type == "Flatten"
        if attributes.get("axis", 1) != 1 if is_flatten else np.size(shape) != 2:
            raise InputError(f"{node.op_type} to {shape}; expected (batch, units)")


def _lrn(attributes: Attributes) -> LRN:
    """Return the op of an LRN operator."""
    if "size" not in attributes:
        raise InputError("an LRN has no size")
    return LRN(
        size=attributes["size"],
        k=shortest_decimal(attributes.get("bias", 1.0)),
        alpha=shortest_decimal(attributes.get("alpha", 1e-4)),
        beta=shortest_decimal(attributes.get("beta", 0.75)),
        alpha_over_size=True,
        across_columns=True,
    )


def _attributes(node: onnx.NodeProto) -> Attributes:
    """Return the attributes of an operator that are in ATTRIBUTE_TYPES, after a check of types."""
    found = {}
    for attribute in node.attribute:
        if attribute.name not in ATTRIBUTE_TYPES:
            continue
        if attribute.type != ATTRIBUTE_TYPES[attribute.name]:
            raise InputError(f"{node.op_type} has an attribute {attribute.name} of another type")
        found[attribute.name] = onnx.helper.get_attribute_value(attribute)
    return found


def _equal_size(name: str, what: str, sizes: Sequence[int]) -> int:
    """Return a size that must be the same for both axes."""
    if len({*sizes}) != 1:
        raise InputError(f"{name} has {what} {[*sizes]}; expected squares")
    return sizes[0]


def _expect_all(name: str, what: str, found: Sequence[float], expected: float) -> None:
    """Raise InputError unless all values are the expected one."""
    if any(value != expected for value in found):
        raise InputError(f"{name} has {what} {[*found]}; expected {expected}")
