"""Read ONNX models whose operators branch, such as `inception_v1` and `resnet50` of the zoo."""

from dataclasses import replace

import onnx

from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import shortest_decimal
from alexnet_jax.conversion.onnx.operators import Operator, Operators
from alexnet_jax.conversion.recognition import families
from alexnet_jax.conversion.recognition.families import Head
from alexnet_jax.conversion.recognition.graph import (
    BatchNorm,
    Concat,
    GlobalPool,
    Graph,
    GraphOp,
    LayerArrays,
    Node,
    Pool,
    Sum,
    conv_side,
    make_pool,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import ReLU

JOINING = ("Add", "Concat", "Sum")
WITHOUT_EFFECT = ("Flatten", "Identity", "Reshape", "Softmax")  # for the order of the classes
KNOWN = (
    "Conv, BatchNormalization, Relu, LRN, MaxPool, AveragePool, GlobalAveragePool, Concat, Add, "
    "Sum, Dropout, Flatten, Reshape, Gemm and Softmax"
)


def has_branches(model: onnx.ModelProto) -> bool:
    """Return whether a model has operators that only models with branches have here."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type == "BatchNormalization"
        or (node.op_type in JOINING and len({*node.input} - stored) > 1)
        for node in model.graph.node
    )


def read_branched(operators: Operators, base: ModelConfig | None) -> BranchedModel:
    """Return the model of a graph with its arrays.

    Args:
        operators: the operators.
        base: see `families.recognize`.

    Raises:
        InputError: the model is neither GoogLeNet nor a residual network.
    """
    reader = _Reader(operators)
    head = Head(reader.name(operators.output))
    model = families.recognize(reader.graph, [head], base)
    return replace(model, data={"crop": operators.side})


class _Reader:
    """Read operators into `graph`, in which activations have the names of the file."""

    def __init__(self, operators: Operators) -> None:
        self.graph = Graph(operators.images, operators.side)
        self._same: dict[str, str] = {}  # outputs of operators without an effect, and their inputs
        self._probabilities: set[str] = set()  # outputs of the softmax, by their names in the file
        for operator in operators:
            self._add(operator)

    def name(self, output: str) -> str:
        """Return the name in the graph of an operator's output."""
        return self._same.get(output, output)

    def _add(self, operator: Operator) -> None:
        """Add an operator, unless it has no effect."""
        kind, activations = operator.kind, operator.activations()
        if not operator.node.output or not activations:
            raise InputError(f"{kind} takes {[*operator.node.input]}; expected activations")
        if kind not in JOINING and len(activations) > 1:
            raise InputError(f"{kind} takes {activations}; expected weights that are in the file")
        output, inputs = operator.node.output[0], tuple(map(self.name, activations))
        ended = not self._probabilities.isdisjoint(activations)
        if ended and kind != "Identity":
            raise InputError(
                f"{kind} comes after the softmax; expected that at the end of the model"
            )
        if kind in ("Flatten", "Reshape"):
            operator.check_flattens()
        if kind in WITHOUT_EFFECT:
            self._same[output] = inputs[0]
            if ended or kind == "Softmax":
                self._probabilities.add(output)
            return
        has_weights = len(operator.node.input) > len(inputs)
        name = operator.node.name or (operator.node.input[1] if has_weights else output)
        op, side, arrays = _read(operator, name, self.graph.side_of(inputs[0]))
        self.graph.add(Node(name, op, inputs, output, side, arrays))


def _read(operator: Operator, name: str, side: int) -> tuple[GraphOp, int, LayerArrays]:
    """Return the op of an operator, the side of its output in pixels, and its weights.

    Args:
        operator: the operator.
        name: its name for messages.
        side: side of its input in pixels.
    """
    match operator.kind:
        case "Conv":
            conv, weights = operator.read_convolution(name)
            return conv, conv_side(name, conv, side), vars(weights)
        case "Gemm":
            dense, weights = operator.read_dense(name)
            return dense, 1, vars(weights)
        case "BatchNormalization":
            norm, statistics = _batch_norm(operator, name)
            return norm, side, statistics
        case "Relu":
            return ReLU(), side, {}
        case "LRN":
            return operator.read_lrn(), side, {}
        case "Dropout":
            return operator.read_dropout(), side, {}
        case "Add" | "Sum":
            if len(operator.node.input) > len(operator.activations()):
                raise InputError(f"{name} adds a constant; expected activations only")
            return Sum(), side, {}
        case "Concat":
            operator.expect_all(name, "axis", [operator.attributes.get("axis", 1)], 1)
            return Concat(), side, {}
        case "MaxPool" | "AveragePool":
            return *_pooling(operator, name, side), {}
        case "GlobalAveragePool":
            return GlobalPool(), 1, {}
    raise InputError(
        f"the config cannot represent the operator {operator.kind}; expected {KNOWN}, as in "
        "GoogLeNet and residual networks"
    )


def _batch_norm(operator: Operator, name: str) -> tuple[BatchNorm, LayerArrays]:
    """Return the op of a BatchNormalization, and its arrays."""
    operator.expect_all(name, "training_mode", [operator.attributes.get("training_mode", 0)], 0)
    operator.expect_all(name, "spatial", [operator.attributes.get("spatial", 1)], 1)
    arrays = operator.read_constants(name)
    if len(arrays) != 4:
        raise InputError(
            f"{name} has {len(arrays)} constants; expected scale, bias, mean and variance"
        )
    epsilon = shortest_decimal(operator.attributes.get("epsilon", 1e-5))
    return BatchNorm(epsilon), dict(zip(("scale", "bias", "mean", "var"), arrays, strict=True))


def _pooling(operator: Operator, name: str, side: int) -> tuple[Pool | GlobalPool, int]:
    """Return the op of a MaxPool or AveragePool, and the side of its output in pixels."""
    window = operator.square("kernel_shape", name)
    stride = operator.square("strides", name, [1])
    operator.expect_all(name, "dilations", operator.attributes.get("dilations", [1]), 1)
    pads = operator.pads(name)
    kind = "max" if operator.kind == "MaxPool" else "average"
    if kind == "average" and any(pads):
        counted = operator.attributes.get("count_include_pad", 0)
        operator.expect_all(name, "count_include_pad", [counted], 0)
    ceil = operator.attributes.get("ceil_mode", 0) != 0
    return make_pool(name, kind, window, stride, pads, side, ceil=ceil)
