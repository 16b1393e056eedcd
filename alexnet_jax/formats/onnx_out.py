"""A net as an ONNX file that stands alone: raw pixels in, logits out.

The graph subtracts the mean and scales by itself. Two columns are groups of one stack of maps;
what each column does by itself otherwise, LRN and layers that see their own column alone, is split
and put together again, which is exact.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net
from alexnet_jax.formats.layout import Layer, stack_of
from alexnet_jax.inputs import mean_of
from alexnet_jax.models.alexnet import ModelConfig

PRODUCER = "alexnet_jax"
OPSET = 13  # the first whose Split takes its sizes as an input; widely read
IR_VERSION = 8  # what goes with it


def write(path: Path, net: Net) -> None:
    """Write a net; its input is named "images", its output "logits".

    Raises:
        InputError: a step that has no operator.
    """
    builder = _Builder(net)
    data, model = net.config.data, net.config.model
    size = (model.channels, data.crop, data.crop)
    graph = helper.make_graph(
        builder.nodes,
        "alexnet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", *size))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", model.classes))],
        builder.tensors,
        doc_string=(
            f"images: {data.crop}×{data.crop} pixels, the central crop of a square of "
            f"{net.mean_image.shape[0]} (data.resize={data.resize}), channels R, G, B or grey, "
            "0…255, nothing subtracted. logits: one a class, before the softmax."
        ),
    )
    exported = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    helper.set_model_props(exported, {"class_names": json.dumps(net.class_names)})
    onnx.checker.check_model(exported, full_check=True)
    path.write_bytes(exported.SerializeToString())


class _Builder:
    """A chain of operators; `at` is the name of what the last one gives."""

    def __init__(self, net: Net) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.at = "images"
        self.model = ModelConfig.from_dict(net.config.model)
        self._preprocess(net)
        are_maps = True
        for layer in stack_of(net.config, net.params).layers:
            if are_maps and layer.weight.ndim == 2:
                self._do("Flatten", axis=1)
                are_maps = False
            self._layer(layer)
            for step in layer.after:
                self._step(step, f"{layer.name}_{step}", len(layer.weight))
        self._do("Identity", name="logits")

    def _preprocess(self, net: Net) -> None:
        """What `inputs.normalise` does to a central crop."""
        data, channels = net.config.data, self.model.channels
        mean = mean_of(net.mean_image, data, channels)
        if data.mean == "image":
            start = (mean.shape[0] - data.crop) // 2
            mean = mean[start : start + data.crop, start : start + data.crop]
        self._do("Sub", mean.transpose(2, 0, 1)[None], name="subtracted")
        factor = (data.scale / np.asarray(data.std, np.float32)).reshape(1, -1, 1, 1)
        if (factor != 1).any():
            self._do("Mul", factor, name="scaled")
        if data.channel_order == "bgr":
            self._do("Gather", np.arange(channels)[::-1].copy(), name="bgr", axis=1)

    def _layer(self, layer: Layer) -> None:
        weight, bias = layer.weight, layer.bias
        if weight.ndim == 4:
            before, after = layer.padding
            geometry = dict(
                kernel_shape=weight.shape[2:],
                strides=[layer.stride] * 2,
                pads=[before, before, after, after],
                group=layer.groups,
            )
            self._do("Conv", weight, bias, name=layer.name, **geometry)
        elif layer.groups == 1:
            self._do("Gemm", weight, bias, name=layer.name, transB=1)
        else:
            columns = (np.split(array, layer.groups) for array in (weight, bias))
            arrays = [*zip(*columns, strict=True)]
            self._each_column("Gemm", layer.name, weight.shape[1] * layer.groups, arrays, transB=1)

    def _step(self, step: str, name: str, maps: int) -> None:
        pool, norm, columns = self.model.pool, self.model.lrn, self.model.columns
        if step in ("relu", "tanh"):
            self._do(step.capitalize(), name=name)
        elif step in ("pool", "pool_floor"):
            window, stride = [pool.window] * 2, [pool.stride] * 2
            ceil_mode = int(step == "pool")
            self._do("MaxPool", name=name, kernel_shape=window, strides=stride, ceil_mode=ceil_mode)
        elif step == "lrn":
            alpha = norm.alpha if norm.alpha_over_size else norm.alpha * norm.size
            rule = dict(size=norm.size, bias=norm.k, alpha=alpha, beta=norm.beta)
            if norm.across_columns or columns == 1:
                self._do("LRN", name=name, **rule)
            else:
                self._each_column("LRN", name, maps, [()] * columns, **rule)
        elif step == "map_norm":
            self._map_norm(name)
        elif step == "dropout":
            if not self.model.inverted_dropout:
                self._do("Mul", np.array(1 - self.model.dropout, np.float32), name=name)
        else:
            raise InputError(f"the step {step} of model.layers cannot be written as ONNX")

    def _map_norm(self, name: str) -> None:
        """`models.lrn.map_norm`: ONNX has none, so x · (k + alpha · size² · mean of x²) ^ -beta."""
        norm, activities = self.model.map_norm, self.at
        self._mul(activities, f"{name}_squares")
        self._do(
            "AveragePool",
            name=f"{name}_mean",
            kernel_shape=[norm.size] * 2,
            pads=[norm.size // 2] * 4,
            count_include_pad=1,  # so that a sum is size² means at the edges too
        )
        scale = norm.share(norm.size**2) * norm.size**2
        for kind, number in (("Mul", scale), ("Add", norm.k), ("Pow", -norm.beta)):
            self._do(kind, np.array(number, np.float32), name=f"{name}_{kind.lower()}")
        self._mul(activities, name)

    def _mul(self, other: str, name: str) -> None:
        """The last operator's output times another's."""
        self.nodes.append(helper.make_node("Mul", [self.at, other], [name], name))
        self.at = name

    def _each_column(
        self,
        kind: str,
        name: str,
        maps: int,
        arrays: Sequence[tuple[np.ndarray, ...]],
        **attributes,
    ) -> None:
        """One operator for each column of `maps`, which stand on axis 1."""
        parts = [f"{name}_column{c}" for c in range(len(arrays))]
        sizes = np.full(len(parts), maps // len(parts))
        self.nodes.append(
            helper.make_node(
                "Split", [self.at, self._tensor(f"{name}_sizes", sizes)], parts, axis=1
            )
        )
        done = []
        for part, some in zip(parts, arrays, strict=True):
            self.at = part
            self._do(kind, *some, name=f"{part}_{kind.lower()}", **attributes)
            done.append(self.at)
        self.nodes.append(helper.make_node("Concat", done, [name], axis=1))
        self.at = name

    def _do(self, kind: str, *arrays: np.ndarray, name: str = "", **attributes) -> None:
        """Append an operator that takes the last one's output and these arrays."""
        name = name or f"{self.at}_{kind.lower()}"
        tensors = [self._tensor(f"{name}_{i}", array) for i, array in enumerate(arrays)]
        self.nodes.append(helper.make_node(kind, [self.at, *tensors], [name], name, **attributes))
        self.at = name

    def _tensor(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
