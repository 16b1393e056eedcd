"""Read Caffe's definitions whose layers branch, such as GoogLeNet's and those of residual networks.

Batch normalization is two layers in Caffe: BatchNorm, which subtracts the mean and divides by the
standard deviation, and Scale, with the weight and the bias of each channel.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.caffe.layers import (
    DATA_LAYERS,
    JOINING,
    NORMALIZING,
    SOFTMAX_LAYERS,
    Blobs,
    kind_of,
    read_blobs,
    read_convolution,
    read_data,
    read_inner_product,
    read_op,
    set_crop,
    square_size,
)
from alexnet_jax.conversion.layout import StatedData, shortest_decimal
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
from alexnet_jax.models.ops import Tanh, WithinChannelLRN


def has_branches(layers: Sequence[Any]) -> bool:
    """Return whether a definition has layers that only models with branches have here."""
    return any(kind_of(layer) in (*JOINING, *NORMALIZING) for layer in layers)


def read_branched(
    content: Any, layers: Sequence[Any], blobs: Blobs, base: ModelConfig | None
) -> BranchedModel:
    """Return the model of a definition with its arrays.

    Args:
        content: the definition, a NetParameter.
        layers: its layers.
        blobs: the blobs of the layers.
        base: see `families.recognize`.

    Raises:
        InputError: the model is not GoogLeNet or a residual network, or has no softmax.
    """
    stated = StatedData()
    for dims in ([*content.input_dim], *(shape.dim for shape in content.input_shape)):
        set_crop(stated, dims)
    images = [*content.input][:1]
    for layer in layers:
        if kind_of(layer) in DATA_LAYERS:
            read_data(stated, layer)
            images += [*layer.top][:1]
    side = stated.data.get("crop")
    if not images or not isinstance(side, int):
        raise InputError(
            "the definition states no size of the images; expected an input layer with a shape, or "
            "a crop_size"
        )
    reader = _Reader(images[0], side, blobs)
    for layer in layers:
        if kind_of(layer) not in (*DATA_LAYERS, "Accuracy"):
            reader.add(layer)
    reader.end()
    model = families.recognize(reader.graph, reader.heads, base)
    return replace(model, data=stated.data, mean_file=stated.mean_file)


class _Reader:
    """Read the layers of a definition into `graph`, and the ends of its classifiers into `heads`.

    In Caffe a layer may give its output the name of its input. In the graph, activations have the
    names of the layers that compute them.
    """

    def __init__(self, images: str, side: int, blobs: Blobs) -> None:
        self.graph = Graph(images, side)
        self.heads: list[Head] = []
        self._blobs = blobs
        self._names = {images: images}  # in the graph, by the names in the file
        # BatchNorm layers whose Scale has not come yet, and what they take, by their own names.
        self._unscaled: dict[str, tuple[Any, str]] = {}

    def add(self, layer: Any) -> None:
        """Add a layer.

        Raises:
            InputError: the layer is not supported, or takes what no layer before it computes.
        """
        kind = kind_of(layer)
        inputs = self._inputs(layer, kind)
        if kind in SOFTMAX_LAYERS:
            weight = shortest_decimal(layer.loss_weight[0]) if layer.loss_weight else None
            self.heads.append(Head(inputs[0], weight))
        elif kind == "Split":  # Caffe inserts it where two layers have the same input
            self._names.update(dict.fromkeys(layer.top, inputs[0]))
        elif kind == "BatchNorm":
            self._unscaled[layer.name] = (layer, inputs[0])
            self._names.update(dict.fromkeys(layer.top, layer.name))
        else:
            if kind == "Scale":
                node = self._batch_norm(*self._unscaled.pop(inputs[0]), layer)
            else:
                op, side, arrays = self._layer(layer, kind, self.graph.side_of(inputs[0]))
                node = Node(layer.name, op, inputs, layer.name, side, arrays)
            self.graph.add(node)
            self._names.update(dict.fromkeys(layer.top, layer.name))

    def end(self) -> None:
        """Raise InputError if a layer is missing after the last one."""
        if self._unscaled:
            raise _unscaled(next(iter(self._unscaled)), "is the last layer")
        if not self.heads:
            raise InputError(
                "the model does not end with a softmax; the file is cut off, or the model is no "
                "classifier"
            )

    def _inputs(self, layer: Any, kind: str) -> tuple[str, ...]:
        """Return the names of a layer's inputs in the graph."""
        # The second input of a loss is the label.
        bottoms = layer.bottom[:1] if kind in SOFTMAX_LAYERS else layer.bottom
        for name in bottoms:
            if name not in self._names:
                raise InputError(
                    f"layer {layer.name} takes {name!r}; expected the output of a layer before it"
                )
        inputs = tuple(self._names[name] for name in bottoms)
        if not inputs or (kind not in JOINING and len(inputs) > 1):
            raise InputError(f"layer {layer.name} takes {[*layer.bottom]}; expected one input")
        for name in inputs:
            if (name in self._unscaled) and kind != "Scale":
                raise _unscaled(name, f"is followed by {layer.name}, a {kind}")
        if kind == "Scale" and inputs[0] not in self._unscaled:
            raise InputError(
                f"layer {layer.name} is a Scale without a BatchNorm before it; expected both, in "
                "this order, which are one batch normalization"
            )
        return inputs

    def _layer(self, layer: Any, kind: str, side: int) -> tuple[GraphOp, int, LayerArrays]:
        """Return the op of a layer, the side of its output in pixels, and its weights.

        Args:
            layer: the layer.
            kind: its type.
            side: side of its input in pixels.
        """
        blobs = self._blobs.get(layer.name, ())
        if kind == "Convolution":
            conv, weights = read_convolution(layer, blobs)
            return conv, conv_side(layer.name, conv, side), vars(weights)
        if kind == "InnerProduct":
            dense, weights = read_inner_product(layer, blobs)
            return dense, 1, vars(weights)
        if kind == "Pooling":
            return *_pooling(layer, side), {}
        if kind == "Eltwise":
            param = layer.eltwise_param
            if param.operation != 1 or {*param.coeff} - {1.0}:
                raise InputError(
                    f"layer {layer.name} is an Eltwise; expected a sum without factors"
                )
            return Sum(), side, {}
        if kind == "Concat":
            if (layer.concat_param.axis, layer.concat_param.concat_dim) != (1, 1):
                raise InputError(f"layer {layer.name} is along another axis; expected channels, 1")
            return Concat(), side, {}
        op = read_op(layer, kind)
        if isinstance(op, Tanh | WithinChannelLRN):
            raise InputError(
                f"layer {layer.name} is a {type(op).__name__}, which GoogLeNet and residual "
                "networks do not have; expected ReLU, and LRN across channels"
            )
        return op, side, {}

    def _batch_norm(self, norm: Any, source: str, scale: Any) -> Node:
        """Return the batch normalization that two layers are together.

        Args:
            norm: the BatchNorm layer.
            source: name of what it takes in the graph.
            scale: the Scale layer.
        """
        op = BatchNorm(shortest_decimal(norm.batch_norm_param.eps))
        arrays = self._statistics(norm) | self._scale(scale)
        return Node(norm.name, op, (source,), scale.name, self.graph.side_of(source), arrays)

    def _statistics(self, layer: Any) -> LayerArrays:
        """Return the mean and the variance of a BatchNorm layer.

        Caffe stores sums of averages, and by what to divide them.
        """
        arrays = read_blobs(layer, self._blobs.get(layer.name, ()))
        if len(arrays) != 3 or arrays[2].size != 1:
            raise InputError(
                f"layer {layer.name} has blobs of {[a.size for a in arrays]} numbers; expected "
                "means, variances and one factor"
            )
        mean, var, factor = (array.reshape(-1) for array in arrays)
        if not factor[0] > 0:
            raise InputError(
                f"layer {layer.name} has the factor {factor[0]}, by which its statistics are "
                "divided; expected more than 0, as after training"
            )
        return dict(mean=mean / factor[0], var=var / factor[0])

    def _scale(self, layer: Any) -> LayerArrays:
        """Return the scale and the bias of a Scale layer."""
        param = layer.scale_param
        arrays = read_blobs(layer, self._blobs.get(layer.name, ()))
        if (param.axis, param.num_axes) != (1, 1) or len(arrays) != 1 + param.bias_term:
            raise InputError(
                f"layer {layer.name} has {len(arrays)} blobs along {param.num_axes} axes from "
                f"{param.axis} on; expected {1 + param.bias_term} along axis 1, channels"
            )
        scale = arrays[0].reshape(-1)
        return dict(scale=scale, bias=arrays[-1].reshape(-1) if param.bias_term else scale * 0)


def _pooling(layer: Any, side: int) -> tuple[Pool | GlobalPool, int]:
    """Return the op of a Pooling layer, and the side of its output in pixels.

    Args:
        layer: the layer.
        side: side of its input in pixels.
    """
    param = layer.pooling_param
    if param.pool not in (0, 1):
        raise InputError(f"layer {layer.name} pools at random; expected MAX or AVE")
    kind = "average" if param.pool else "max"
    if param.global_pooling:
        return make_pool(layer.name, kind, side, 1, (0, 0), side, ceil=False)
    window, stride = square_size(layer, param, "kernel", 0), square_size(layer, param, "stride", 1)
    pad = square_size(layer, param, "pad", 0)
    if pad and kind == "average":
        raise InputError(f"layer {layer.name} averages padding; expected a pad of 0")
    ceil = param.round_mode == 0
    return make_pool(layer.name, kind, window, stride, (pad, pad), side, ceil=ceil)


def _unscaled(name: str, where: str) -> InputError:
    """Return the error for a BatchNorm without a Scale."""
    return InputError(
        f"layer {name} is a BatchNorm and {where}; expected a Scale after it, which are together "
        "one batch normalization"
    )
