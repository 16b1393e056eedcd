"""Read single operators of ONNX models: their attributes, and the constants that they take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alexnet_jax.conversion.layout import Weights, shortest_decimal
from alexnet_jax.conversion.onnx.tensors import TensorsByName, compute_constant, read_tensor
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout

_KINDS = onnx.AttributeProto
ATTRIBUTE_TYPES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "shape"), _KINDS.INTS),
    **dict.fromkeys(("group", "size", "axis", "transA", "transB", "ceil_mode"), _KINDS.INT),
    **dict.fromkeys(("count_include_pad", "training_mode", "spatial"), _KINDS.INT),
    **dict.fromkeys(("alpha", "beta", "bias", "ratio", "epsilon"), _KINDS.FLOAT),
    **dict(auto_pad=_KINDS.STRING, value=_KINDS.TENSOR, perm=_KINDS.INTS),
    **dict(value_int=_KINDS.INT, value_ints=_KINDS.INTS),
    **dict(value_float=_KINDS.FLOAT, value_floats=_KINDS.FLOATS),
}

Attributes = Mapping[str, Any]  # values have the types of ATTRIBUTE_TYPES


@dataclass(frozen=True)
class Operator:
    """An operator whose output depends on the images.

    Attributes:
        node: its content in the file.
        attributes: its attributes by name.
        constants: constants of the model by name.
    """

    node: onnx.NodeProto
    attributes: Attributes
    constants: TensorsByName

    @property
    def kind(self) -> str:
        """The name that ONNX has for what it does."""
        kind: str = self.node.op_type
        return kind

    def activations(self) -> list[str]:
        """Return the names of its inputs that are no constants."""
        return [name for name in self.node.input if name and name not in self.constants]

    def read_constants(self, name: str) -> list[np.ndarray]:
        """Return the inputs after the first, which must be constants.

        Args:
            name: name of the operator, for messages.
        """
        arrays = []
        for tensor in filter(None, self.node.input[1:]):  # an omitted input may be named ""
            if tensor not in self.constants:
                raise InputError(f"{name} takes the tensor {tensor}, which is not in the file")
            arrays.append(self.constants[tensor])
        return arrays

    def read_convolution(self, name: str) -> tuple[Conv, Weights]:
        """Return a Conv and its weights; its name is for messages."""
        weights = self._weights(name)
        weight = weights.weight
        if weight.ndim != 4:
            raise InputError(f"{name} has weights {weight.shape}; expected four dimensions")
        pads = self.pads(name)
        stride = self.square("strides", name, [1])
        if stride < 1:
            raise InputError(f"{name} has strides {stride}; expected 1 or more")
        features, _, kernel, _ = weight.shape
        self.expect_all(name, "dilations", self.attributes.get("dilations", [1]), 1)
        for sizes in (weight.shape[2:], self.attributes.get("kernel_shape", ())):
            self.expect_all(name, "kernel_shape", sizes, kernel)
        return Conv(features, kernel, stride, pads, self.attributes.get("group", 1)), weights

    def read_dense(self, name: str) -> tuple[Dense, Weights]:
        """Return a Gemm and its weights; its name is for messages."""
        weights = self._weights(name, transposed=not self.attributes.get("transB", 0))
        for factor in ("alpha", "beta"):
            self.expect_all(name, factor, [self.attributes.get(factor, 1.0)], 1.0)
        self.expect_all(name, "transA", [self.attributes.get("transA", 0)], 0)
        if weights.weight.ndim != 2:
            raise InputError(f"{name} has weights {weights.weight.shape}; expected two dimensions")
        return Dense(len(weights.weight)), weights

    def _weights(self, name: str, *, transposed: bool = False) -> Weights:
        """Return the weights, with biases of zero if the operator has none.

        Args:
            name: name of the layer, for messages.
            transposed: whether the weights in the file are (inputs, outputs).
        """
        arrays = self.read_constants(name)
        if not arrays:
            raise InputError(f"{name} has no weights")
        weight = arrays[0].T if transposed else arrays[0]
        bias = arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(weight.shape[:1], np.float32)
        return Weights(weight, bias)

    def read_lrn(self) -> LRN:
        """Return the op of an LRN."""
        if "size" not in self.attributes:
            raise InputError("an LRN has no size")
        return LRN(
            size=self.attributes["size"],
            k=shortest_decimal(self.attributes.get("bias", 1.0)),
            alpha=shortest_decimal(self.attributes.get("alpha", 1e-4)),
            beta=shortest_decimal(self.attributes.get("beta", 0.75)),
            alpha_over_size=True,
            across_columns=True,
        )

    def read_dropout(self) -> Dropout:
        """Return the op of a Dropout."""
        # The rate is an attribute before operator set 12, then an input.
        ratio = self.attributes.get("ratio", 0.5)
        if len(self.node.input) > 1 and self.node.input[1]:
            array = self.constants.get(self.node.input[1], np.array(0.5))
            if array.size != 1:
                raise InputError(f"a Dropout has a ratio of shape {array.shape}; expected a number")
            ratio = array.item()
        return Dropout(shortest_decimal(ratio), inverted=True)

    def check_flattens(self) -> None:
        """Raise InputError for a Flatten or Reshape that does not flatten to (batch, units)."""
        shape = self.attributes.get("shape", self.constants.get(self.node.input[-1], ()))
        is_flatten = self.kind == "Flatten"
        if self.attributes.get("axis", 1) != 1 if is_flatten else np.size(shape) != 2:
            raise InputError(f"{self.kind} to {shape}; expected (batch, units)")

    def pads(self, name: str) -> tuple[int, int]:
        """Return the padding before and after the input, which must be the same for both axes."""
        if self.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InputError(f"{name} has auto_pad={self.attributes['auto_pad']!r}; expected pads")
        match self.attributes.get("pads", [0, 0, 0, 0]):
            case [int(top), int(left), int(bottom), int(right)] if (
                top == left >= 0 and bottom == right >= 0
            ):
                return top, bottom
            case pads:
                raise InputError(f"{name} has pads {pads}; expected the same for both axes")

    def square(self, what: str, name: str, default: Sequence[int] = ()) -> int:
        """Return an attribute of sizes that must be the same for both axes."""
        sizes = self.attributes.get(what, default)
        if len({*sizes}) != 1:
            raise InputError(f"{name} has {what} {[*sizes]}; expected squares")
        size: int = sizes[0]
        return size

    def expect_all(self, name: str, what: str, found: Sequence[float], expected: float) -> None:
        """Raise InputError unless all values are the expected one."""
        if any(value != expected for value in found):
            raise InputError(f"{name} has {what} {[*found]}; expected {expected}")


class Operators:
    """The operators of a model whose outputs depend on the images, in the order of the file.

    Attributes:
        images: name of the input.
        side: side of the images in pixels.
        output: name of the first output.
    """

    def __init__(self, model: onnx.ModelProto, crop: int, folder: Path) -> None:
        """Read the constants that the file contains.

        Args:
            model: the model.
            crop: side of the images in pixels if the file does not state it.
            folder: folder of the file, in which other files with its weights must be.

        Raises:
            InputError: the model does not take one input of square images, or is damaged.
        """
        graph = model.graph
        if not model.opset_import or not graph.output:
            raise InputError("the file states no operator set or no output; it is cut off")
        self._nodes, self._folder = graph.node, folder
        self._constants = {tensor.name: read_tensor(tensor, folder) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self._constants]
        if len(inputs) != 1:
            raise InputError(f"the inputs are {[i.name for i in inputs]}; expected one of images")
        self.images, self.output = inputs[0].name, graph.output[0].name
        sizes = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[2] != sizes[3]:
            raise InputError(f"the input {self.images} is {sizes}; expected square images, NCHW")
        self.side = sizes[2] or crop

    def __iter__(self) -> Iterator[Operator]:
        """Iterate over the operators; constants of the others are computed on the way."""
        for node in self._nodes:
            attributes = _read_attributes(node)
            constant = compute_constant(node, attributes, self._constants, self._folder)
            if constant is None or not node.output:
                yield Operator(node, attributes, self._constants)
            else:
                self._constants[node.output[0]] = constant


def _read_attributes(node: onnx.NodeProto) -> Attributes:
    """Return the attributes of an operator that are in ATTRIBUTE_TYPES, after a check of types."""
    found = {}
    for attribute in node.attribute:
        if attribute.name not in ATTRIBUTE_TYPES:
            continue
        if attribute.type != ATTRIBUTE_TYPES[attribute.name]:
            raise InputError(f"{node.op_type} has an attribute {attribute.name} of another type")
        found[attribute.name] = onnx.helper.get_attribute_value(attribute)
    return found
