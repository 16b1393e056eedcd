"""Append operators to an ONNX graph whose input is raw pixels."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_jax.inputs import mean_of_center
from alexnet_jax.trained import TrainedModel


class GraphBuilder:
    """Build a graph from the input "images", which it normalizes first.

    Attributes:
        nodes: the operators.
        tensors: the arrays in the file.
        output: name of the last operator's output.
    """

    def __init__(self, model: TrainedModel) -> None:
        """Begin the graph of a model with the normalization of its input."""
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.output = "images"
        self._normalize(model)

    def _normalize(self, model: TrainedModel) -> None:
        """Append the operators for what `inputs.normalize` does to a central crop."""
        data, channels = model.config.data, model.config.model.channels
        mean = mean_of_center(model.mean_image, data, channels)
        self.append("Sub", mean.transpose(2, 0, 1)[None], name="subtracted")
        factor = (data.scale / np.asarray(data.std, np.float32)).reshape(1, -1, 1, 1)
        if (factor != 1).any():
            self.append("Mul", factor, name="scaled")
        if data.channel_order == "bgr":
            self.append("Gather", np.arange(channels)[::-1].copy(), name="bgr", axis=1)

    def append(
        self, kind: str, *inputs: np.ndarray | str, name: str = "", **attributes: Any
    ) -> None:
        """Append an operator.

        Args:
            kind: type of the operator.
            inputs: its inputs after the last operator's output: arrays, which are added to the
                file, or names of outputs or arrays.
            name: name of its output; "" makes one from its type.
            attributes: attributes of the operator.
        """
        name = name or f"{self.output}_{kind.lower()}"
        names = [
            item if isinstance(item, str) else self.add_tensor(f"{name}_{number}", item)
            for number, item in enumerate(inputs)
        ]
        self.nodes.append(helper.make_node(kind, [self.output, *names], [name], name, **attributes))
        self.output = name

    def add_tensor(self, name: str, array: np.ndarray) -> str:
        """Add an array to the file and return its name."""
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
