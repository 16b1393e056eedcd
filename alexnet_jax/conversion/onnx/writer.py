"""Write a model as an ONNX file whose input is raw pixels and whose output is logits.

The graph includes the subtraction of the mean and the scaling of the input. In chains, columns are
groups of channels; for an LRN within columns, and for dense layers with groups, the channels are
split into columns and concatenated again, which does not change the numbers. `branched_builder` has
the graphs of other models.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from alexnet_jax.config import sequential_model
from alexnet_jax.conversion.layout import Weights, to_foreign
from alexnet_jax.conversion.metadata import MEAN, PROGRAM, make_metadata
from alexnet_jax.conversion.onnx.branched_builder import BranchedBuilder, without_aux
from alexnet_jax.conversion.onnx.builder import GraphBuilder
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import (
    LRN,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Op,
    ReLU,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.trained import TrainedModel

OPSET = 13  # the first whose Split takes its sizes as an input; widely supported
IR_VERSION = 8  # the version that belongs to OPSET


def to_onnx(model: TrainedModel) -> bytes:
    """Return the content of an ONNX file of a model, from "images" to "logits".

    Raises:
        InputError: ONNX has no operator for an op.
    """
    model = without_aux(model)
    is_chain = isinstance(model.config.model, SequentialConfig)
    builder = (_ChainBuilder if is_chain else BranchedBuilder)(model)
    data, channels = model.config.data, model.config.model.channels
    classes = model.config.model.num_classes
    size = (channels, data.crop, data.crop)
    graph = helper.make_graph(
        builder.nodes,
        "alexnet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", *size))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", classes))],
        builder.tensors,
        doc_string=(
            f"images: {data.crop}×{data.crop} pixels, the central crop of a square of "
            f"{model.mean_image.shape[0]} (data.resize={data.resize}), channels R, G, B or gray, "
            "0…255, nothing subtracted. logits: one per class, before the softmax."
        ),
    )
    exported = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PROGRAM,
    )
    # Metadata are text, so that the whole mean image is the Base64 of float32.
    mean = base64.b64encode(np.asarray(model.mean_image, "<f4").tobytes()).decode()
    helper.set_model_props(exported, {**make_metadata(model), MEAN: mean})
    onnx.checker.check_model(exported, full_check=True)
    content: bytes = exported.SerializeToString()
    return content


def tensor_names(name: str, op: Conv | Dense, part: int) -> list[str]:
    """Return the names of the tensors of a layer, one for each column that is written apart.

    Args:
        name: name of the layer.
        op: its op.
        part: 0 for weights, 1 for biases.
    """
    if isinstance(op, Conv) or op.groups == 1:
        return [f"{name}_{part}"]
    return [f"{_column(name, c)}_gemm_{part}" for c in range(op.groups)]


def _column(name: str, column: int) -> str:
    """Return the name of the input of an operator that is applied to one column."""
    return f"{name}_column{column}"


class _ChainBuilder(GraphBuilder):
    """Build the graph of a sequential model."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.num_columns = sequential_model(model.config).num_columns
        foreign = to_foreign(model.config, model.variables)
        channels, is_flat = model.config.model.channels, False
        for name, op in foreign.ops.items():
            if isinstance(op, Dense) and not is_flat:
                self.append("Flatten", axis=1)
                is_flat = True
            if isinstance(op, Conv | Dense):
                self._append_layer(name, op, foreign.weights[name])
                channels = op.features
            elif is_flat and isinstance(op, LRN):
                raise InputError(
                    f"{name} normalizes the units of a fully-connected layer, which LRN of ONNX "
                    "cannot; expected it after a convolution"
                )
            else:
                self._append_op(name, op, channels)
        self.append("Identity", name="logits")

    def _append_layer(self, name: str, op: Conv | Dense, weights: Weights) -> None:
        """Append the operators of a convolution or a fully-connected layer."""
        weight, bias = weights.weight, weights.bias
        if isinstance(op, Conv):
            begin, end = op.padding
            self.append(
                "Conv",
                weight,
                bias,
                name=name,
                kernel_shape=[op.kernel] * 2,
                strides=[op.stride] * 2,
                pads=[begin, begin, end, end],
                group=op.groups,
            )
        elif op.groups == 1:
            self.append("Gemm", weight, bias, name=name, transB=1)
        else:
            columns = (np.split(array, op.groups) for array in (weight, bias))
            arrays = [*zip(*columns, strict=True)]
            self._append_each_column("Gemm", name, weight.shape[1] * op.groups, arrays, transB=1)

    def _append_op(self, name: str, op: Op, channels: int) -> None:
        """Append the operators of an op without weights."""
        match op:
            case ReLU():
                self.append("Relu", name=name)
            case Tanh():
                self.append("Tanh", name=name)
            case MaxPool():
                window, stride = [op.window] * 2, [op.stride] * 2
                ceil_mode = int(op.ceil_mode)
                self.append(
                    "MaxPool", name=name, kernel_shape=window, strides=stride, ceil_mode=ceil_mode
                )
            case LRN():
                self._append_lrn(name, op, channels)
            case WithinChannelLRN():
                self._append_within_channel_lrn(name, op)
            case Dropout():
                if not op.inverted:
                    self.append("Mul", np.array(1 - op.rate, np.float32), name=name)
            case _:
                raise InputError(
                    f"{name}, a {type(op).__name__}, cannot be written as ONNX; expected a model "
                    "without it, or --output=FILE.safetensors"
                )

    def _append_lrn(self, name: str, op: LRN, channels: int) -> None:
        """Append LRN, within each column or across columns."""
        alpha = op.alpha if op.alpha_over_size else op.alpha * op.size
        if op.across_columns or self.num_columns == 1:
            self.append("LRN", name=name, size=op.size, bias=op.k, alpha=alpha, beta=op.beta)
        else:
            self._append_each_column(
                "LRN",
                name,
                channels,
                [()] * self.num_columns,
                size=op.size,
                bias=op.k,
                alpha=alpha,
                beta=op.beta,
            )

    def _append_within_channel_lrn(self, name: str, op: WithinChannelLRN) -> None:
        """Append `layers.lrn.within_channel_lrn`, for which ONNX has no operator, as

        x · (k + coefficient · size² · mean of x²) ^ -beta.
        """
        activations = self.output
        self.append("Mul", activations, name=f"{name}_squares")
        self.append(
            "AveragePool",
            name=f"{name}_mean",
            kernel_shape=[op.size] * 2,
            pads=[op.size // 2] * 4,
            count_include_pad=1,  # so that the sum is size² · mean at the edges too
        )
        scale = op.coefficient() * op.size**2
        for kind, number in (("Mul", scale), ("Add", op.k), ("Pow", -op.beta)):
            self.append(kind, np.array(number, np.float32), name=f"{name}_{kind.lower()}")
        self.append("Mul", activations, name=name)

    def _append_each_column(
        self,
        kind: str,
        name: str,
        channels: int,
        arrays: Sequence[tuple[np.ndarray, ...]],
        **attributes: Any,
    ) -> None:
        """Append an operator that is applied to each column of the channels, axis 1, separately.

        Args:
            kind: type of the operator.
            name: name of the output.
            channels: number of channels of all columns.
            arrays: further inputs of the operator for each column.
            attributes: attributes of the operator.
        """
        parts = [_column(name, c) for c in range(len(arrays))]
        sizes = self.add_tensor(f"{name}_sizes", np.full(len(parts), channels // len(parts)))
        self.nodes.append(helper.make_node("Split", [self.output, sizes], parts, axis=1))
        outputs = []
        for part, inputs in zip(parts, arrays, strict=True):
            self.output = part
            self.append(kind, *inputs, name=f"{part}_{kind.lower()}", **attributes)
            outputs.append(self.output)
        self.nodes.append(helper.make_node("Concat", outputs, [name], axis=1))
        self.output = name
