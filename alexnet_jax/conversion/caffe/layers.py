"""Read single layers of Caffe's definitions, of both formats, and the numbers in their blobs."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.conversion.layout import StatedData, Weights, shortest_decimal
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, ReLU, Tanh, WithinChannelLRN

DATA_LAYERS = ("Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
WITH_WEIGHTS = ("Convolution", "InnerProduct")
SOFTMAX_LAYERS = ("Softmax", "SoftmaxWithLoss")
OP_LAYERS = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling", "Dropout")
JOINING = ("Concat", "Eltwise")
NORMALIZING = ("BatchNorm", "Scale")  # batch normalization in two layers
WITH_BLOBS = (*WITH_WEIGHTS, *NORMALIZING)
# Names of layer types by their names in the older format, without underscores.
LAYER_TYPES = {
    name.upper(): name
    for name in (*DATA_LAYERS, *OP_LAYERS, *JOINING, "Softmax", "Split", "Accuracy")
}
LAYER_TYPES["SOFTMAXLOSS"] = "SoftmaxWithLoss"
# Messages of the older format in which data layers had what is in transform_param now.
OLD_TRANSFORMATIONS = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "WindowData": "window_data_param",
}

# The blobs of layers by the layer's name; protobuf messages have no static types here.
Blobs = Mapping[str, Iterable[Any]]


def read_op(layer: Any, kind: str) -> ReLU | Tanh | LRN | WithinChannelLRN | Dropout:
    """Return the op of a layer without weights that is no pooling."""
    if kind == "ReLU" and layer.relu_param.negative_slope == 0:
        return ReLU()
    if kind == "TanH":
        return Tanh()
    if kind == "LRN":
        return _read_lrn(layer.lrn_param)
    if kind == "Dropout":
        return Dropout(shortest_decimal(layer.dropout_param.dropout_ratio), inverted=True)
    raise InputError(
        f"layer {layer.name} is a {kind} that the config cannot represent; expected one of "
        f"{', '.join(OP_LAYERS)} as in AlexNet, or the layers of GoogLeNet or a residual network"
    )


def _read_lrn(param: Any) -> LRN | WithinChannelLRN:
    """Return the op of an LRNParameter."""
    size, alpha, beta = (
        param.local_size,
        shortest_decimal(param.alpha),
        shortest_decimal(param.beta),
    )
    if param.norm_region == 0:
        k = shortest_decimal(param.k)
        return LRN(size, k, alpha, beta, alpha_over_size=True, across_columns=True)
    # Caffe ignores k within channels.
    return WithinChannelLRN(size, 1.0, alpha, beta, alpha_over_size=True)


def read_convolution(layer: Any, blobs: Iterable[Any]) -> tuple[Conv, Weights]:
    """Return the op and the weights of a Convolution layer."""
    param = layer.convolution_param
    if any(dilation != 1 for dilation in param.dilation):
        raise InputError(f"layer {layer.name} has dilation {[*param.dilation]}; expected 1")
    kernel, stride = square_size(layer, param, "kernel", 0), square_size(layer, param, "stride", 1)
    pad = square_size(layer, param, "pad", 0)
    weights = _read_weights(layer, blobs, param, (kernel, kernel))
    return Conv(param.num_output, kernel, stride, (pad, pad), param.group), weights


def read_inner_product(layer: Any, blobs: Iterable[Any]) -> tuple[Dense, Weights]:
    """Return the op and the weights of an InnerProduct layer."""
    param = layer.inner_product_param
    if param.axis != 1 or param.transpose:
        raise InputError(f"layer {layer.name} is transposed or along axis {param.axis}; expected 1")
    return Dense(param.num_output), _read_weights(layer, blobs, param, ())


def _read_weights(layer: Any, blobs: Iterable[Any], param: Any, window: tuple[int, ...]) -> Weights:
    """Return the weights of a layer, with biases of zero if it has none.

    Args:
        layer: the layer of the definition.
        blobs: the blobs of the layer in the `.caffemodel`.
        param: the layer's convolution_param or inner_product_param.
        window: height and width of the kernels; () for a fully-connected layer.
    """
    arrays = read_blobs(layer, blobs)
    if len(arrays) != 1 + param.bias_term:
        raise InputError(
            f"layer {layer.name} has {len(arrays)} blobs; expected {1 + param.bias_term}"
        )
    weight, *biases = arrays
    if not window and weight.ndim == 4 and weight.shape[:2] == (1, 1):  # in older files
        weight = weight[0, 0]
    expected = (param.num_output, *weight.shape[1:2], *window)
    if weight.shape != expected:
        raise InputError(f"layer {layer.name} has weights {weight.shape}; expected {expected}")
    return Weights(weight, biases[0].reshape(-1) if biases else np.zeros(len(weight), np.float32))


def read_blobs(layer: Any, blobs: Iterable[Any]) -> list[np.ndarray]:
    """Return the numbers of a layer's blobs."""
    try:
        return [read_blob(blob) for blob in blobs]
    except InputError as error:
        raise InputError(f"layer {layer.name}: {error}") from None


def read_blob(blob: Any) -> np.ndarray:
    """Return the numbers of a blob."""
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    kind, parts = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    content = b"".join(parts)
    if min(shape) < 1 or len(content) != prod(shape) * np.dtype(kind).itemsize:
        raise InputError(f"a blob of shape {shape} has {len(content)} bytes of numbers")
    return np.frombuffer(content, kind).reshape(shape)


def read_data(model: StatedData, layer: Any) -> None:
    """Record the crop, mean and scale that a data layer states."""
    if kind_of(layer) == "Input":
        for shape in layer.input_param.shape:
            set_crop(model, shape.dim)
        return
    if crop := _transformation(layer, "crop_size"):
        model.set_data("crop", crop)
    if (scale := _transformation(layer, "scale")) != 1:
        model.set_data("scale", shortest_decimal(scale))
    if mean_file := _transformation(layer, "mean_file"):
        model.mean_file = mean_file
    if mean_value := layer.transform_param.mean_value:
        mean = tuple(map(shortest_decimal, mean_value))
        model.set_data("given_mean", mean[::-1] if len(mean) == 3 else mean * 3)


def _transformation(layer: Any, name: str) -> Any:
    """Return a field of a data layer's transformation of images.

    Files of 2014 have it in another message, from which Caffe moves it when it reads the file
    (UpgradeNetDataTransformation in src/caffe/util/upgrade_proto.cpp), over what is there.
    """
    old = OLD_TRANSFORMATIONS.get(kind_of(layer), "")
    if old and layer.DESCRIPTOR.name == "V1LayerParameter" and getattr(layer, old).HasField(name):
        return getattr(getattr(layer, old), name)
    return getattr(layer.transform_param, name)


def set_crop(model: StatedData, dims: Iterable[int]) -> None:
    """Record the crop from the shape of the input, (images, channels, height, width)."""
    match [*dims]:
        case []:
            return
        case [_, _, height, width] if height == width:
            model.set_data("crop", height)
        case shape:
            raise InputError(
                f"the input has the shape {shape}; expected (images, channels, side, side)"
            )


def kind_of(layer: Any) -> str:
    """Return the type of a layer by its name in the newer format."""
    if isinstance(layer.type, str):
        return layer.type
    name: str = type(layer).LayerType.Name(layer.type)
    return LAYER_TYPES.get(name.replace("_", ""), name)


def square_size(layer: Any, param: Any, name: str, default: int) -> int:
    """Return a size that must be the same for both axes; Caffe has several fields for it."""
    values = getattr(param, "kernel_size" if name == "kernel" else name)
    sizes = {*values} if not isinstance(values, int) else {values}
    if param.HasField(f"{name}_h") or param.HasField(f"{name}_w"):
        sizes = {getattr(param, f"{name}_h"), getattr(param, f"{name}_w")}
    if len(sizes) > 1:
        raise InputError(f"layer {layer.name} has {name} {sorted(sizes)}; expected squares")
    return next(iter(sizes), default)


def layers_of(content: Any, source: Path) -> Sequence[Any]:
    """Return the layers of a model, of either format."""
    if len(content.layer) and len(content.layers):
        raise InputError(f"{source} has both `layer` and `layers`; expected one of them")
    if any(layer.HasField("layer") for layer in content.layers):
        raise InputError(
            f"{source} is in the oldest format, whose `layers` have no types; upgrade it with "
            "Caffe's upgrade_net_proto_binary"
        )
    layers: Sequence[Any] = content.layer or content.layers
    for layer in layers:
        # protobuf returns text that is not UTF-8 as bytes; the type may be a number.
        names = (layer.name, *layer.bottom, *layer.top, layer.type)
        if any(isinstance(name, bytes) for name in names):
            raise InputError(f"{source} has a layer {layer.name!r} whose names are not UTF-8 text")
    return layers
