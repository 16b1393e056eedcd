"""Read ONNX models of other programs, and chains of operators, such as the zoo's `bvlcalexnet`.

Sizes, padding, rounding and groups are those of the file. For 224×224 pixels, conv1 of the zoo's
file has an output of 54×54 pixels; pool1 and pool2 omit the window that overhangs, and pool5 keeps
it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import origins
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import ForeignModel, convertible_layers
from alexnet_jax.conversion.onnx import graph
from alexnet_jax.conversion.onnx.operators import Operator, Operators
from alexnet_jax.errors import InputError, one_line
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU, Tanh

WITHOUT_EFFECT = ("Identity", "Softmax")  # a Softmax at the end keeps the order of the classes


def read_onnx(path: Path, config: Config | None) -> tuple[Config, ForeignModel | BranchedModel]:
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
    if graph.has_branches(model):
        return _read_branched(path, model, config)
    traits = _traits(model)
    base, program = (config, "") if config else origins.choose_by_traits(path, traits)
    names = None
    if config or traits.fit(base):
        layers = convertible_layers(sequential_model(base))
        names = {name: type(op) for name, op in layers.items()}
    try:
        foreign = _Reader(Operators(model, base.data.crop, path.parent), names).foreign
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if config is None:
        origins.check_chosen(path, traits, base, foreign.ops)
        origins.print_choice(path, program, "its layers and the program that wrote it")
    return base, foreign


def _read_branched(
    path: Path, model: onnx.ModelProto, config: Config | None
) -> tuple[Config, BranchedModel]:
    """Return the given or chosen config, and the model; see `read_onnx`."""
    crop = (config or Config()).data.crop
    try:
        operators = Operators(model, crop, path.parent)
        foreign = graph.read_branched(operators, config.model if config else None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if config is None:
        reason = "its layers and the program that wrote it"
        config = origins.choose_for_branches(path, foreign.model, model.producer_name, reason)
    return config, foreign


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
    """Read the operators of a graph, a chain from its input to its output, into `foreign`."""

    def __init__(self, operators: Operators, names: Mapping[str, type[Op]] | None) -> None:
        self.names = None if names is None else iter(names.items())
        self.ended = False
        self.foreign = ForeignModel()
        self.side = operators.side
        self.foreign.set_data("crop", self.side)
        previous = operators.images  # name of the last operator's output
        for operator in operators:
            node = operator.node
            if not node.input or node.input[0] != previous or not node.output:
                raise InputError(
                    f"{node.op_type} takes {[*node.input][:1]}; expected {previous}, a chain of "
                    "operators"
                )
            self._add(operator)
            previous = node.output[0]
        if previous != operators.output:
            raise InputError(
                f"the last operator computes {previous}; expected {operators.output}, the output"
            )
        if self.names is not None and (missing := [name for name, _ in self.names]):
            raise InputError(f"the file has no layers for {', '.join(missing)} of the config")

    def _add(self, operator: Operator) -> None:
        """Append the op of an operator, unless the operator has no effect."""
        if self.ended and operator.kind != "Identity":
            raise InputError(
                f"{operator.kind} comes after the softmax; expected that at the end of the model"
            )
        match operator.kind:
            case "Conv":
                name = self._name(Conv)
                op, weights = operator.read_convolution(name)
                self.side = (self.side + sum(op.padding) - op.kernel) // op.stride + 1
                self.foreign.add_layer(op, weights, name)
            case "Gemm":
                name = self._name(Dense)
                self.foreign.add_layer(*operator.read_dense(name), name)
            case "Relu":
                self.foreign.add(ReLU())
            case "Tanh":
                self.foreign.add(Tanh())
            case "LRN":
                self.foreign.add(operator.read_lrn())
            case "MaxPool":
                self._pooling(operator)
            case "Dropout":
                self.foreign.add(operator.read_dropout())
            case "Flatten" | "Reshape":
                operator.check_flattens()
            case "AveragePool" if {*operator.attributes.get("kernel_shape", ())} == {1}:
                pass  # adaptive pooling of torchvision, to the size of its input
            case kind if kind in WITHOUT_EFFECT:
                self.ended = self.ended or kind == "Softmax"
            case kind:
                raise InputError(
                    f"the config cannot represent the operator {kind}; expected Conv, Gemm, Relu, "
                    "Tanh, LRN, MaxPool, Dropout, Flatten, Reshape or Softmax"
                )

    def _name(self, kind: type[Conv | Dense]) -> str:
        """Return the name of the next layer.

        Raises:
            InputError: the config has no further layer, or one of another type.
        """
        operator = "Conv" if kind is Conv else "Gemm"
        if self.names is None:
            return f"{'conv' if kind is Conv else 'fc'}{len(self.foreign.weights) + 1}"
        name, expected = next(self.names, ("", kind))
        if not name:
            raise InputError(f"the file has one more {operator} than the config has layers")
        if expected is not kind:
            raise InputError(f"{name} is a {operator}; expected it to be {expected.__name__}")
        return name

    def _pooling(self, operator: Operator) -> None:
        """Append max pooling."""
        name = f"the pooling after {next(reversed(self.foreign.weights), 'nothing')}"
        window = operator.square("kernel_shape", name)
        stride = operator.square("strides", name, [1])
        operator.expect_all(name, "dilations", operator.attributes.get("dilations", [1]), 1)
        begin, end = operator.pads(name)
        if begin or window < 1 or stride < 1 or self.side < window:
            raise InputError(f"{name} pads {begin} pixels or does not fit {self.side}; expected 0")
        extent, rounds_up = self.side - window, operator.attributes.get("ceil_mode", 0) != 0
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
