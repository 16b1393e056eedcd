"""Read Caffe models: `.caffemodel` files, with the definition inside them or in a prototxt file.

Both formats of layers are supported: `layer`, and the older `layers` (see `caffe_schema`).
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.conversion.caffe_schema import parse_binary, parse_text
from alexnet_jax.conversion.layout import ForeignModel, Weights, shortest_decimal
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

DATA_LAYERS = ("Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
WITH_WEIGHTS = ("Convolution", "InnerProduct")
SOFTMAX_LAYERS = ("Softmax", "SoftmaxWithLoss")
OP_LAYERS = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling", "Dropout")
ORDERED = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling")  # kinds whose order has an effect
# Names of layer types by their names in the older format, without underscores.
LAYER_TYPES = {
    name.upper(): name for name in (*DATA_LAYERS, *OP_LAYERS, "Softmax", "Split", "Accuracy")
}
LAYER_TYPES["SOFTMAXLOSS"] = "SoftmaxWithLoss"

# The blobs of layers by the layer's name; protobuf messages have no static types here.
Blobs = Mapping[str, Iterable[Any]]


def read_caffemodel(path: Path, prototxt: Path | None) -> ForeignModel:
    """Read a `.caffemodel` file.

    Args:
        path: the file.
        prototxt: definition of the model to use in place of that in the file; layers are matched
            by name.

    Raises:
        InputError: the file is damaged or no `.caffemodel`, or the config cannot represent the
            model.
    """
    content = parse_binary(path, "NetParameter")
    layers = _layers(content, path)
    if not layers:
        raise InputError(f"{path} has no layers; expected a .caffemodel")
    with_blobs = [layer for layer in layers if layer.blobs]
    blobs: dict[str, Iterable[Any]] = {layer.name: layer.blobs for layer in with_blobs}
    if len(blobs) < len(with_blobs):
        raise InputError(
            f"{path} has two layers with weights and the same name; expected different names"
        )
    source = path
    if prototxt is not None:
        content, source = parse_text(prototxt), prototxt
        defined = _layers(content, prototxt)
        _check_same_order(path, layers, prototxt, defined)
        _match_last_layer(path, blobs, prototxt, defined)
    try:
        return _read_model(content, blobs, source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_same_order(
    path: Path, layers: Sequence[Any], prototxt: Path, defined: Sequence[Any]
) -> None:
    """Raise InputError if a definition applies other kinds of layers, or in another order.

    Dropout, whose order with ReLU has no effect, and layers for training are not compared; nor is
    anything if the file contains only layers with weights.
    """
    stated, given = ([*filter(ORDERED.__contains__, map(_kind, ls))] for ls in (layers, defined))
    if stated == given or {*stated} <= {*WITH_WEIGHTS}:
        return
    raise InputError(
        f"{prototxt} has the layers {', '.join(given)}, but {path} was trained as "
        f"{', '.join(stated)}; expected the same order. Give the definition that belongs to the "
        "weights, or none: the file contains its own"
    )


def _match_last_layer(
    path: Path, blobs: dict[str, Iterable[Any]], prototxt: Path, defined: Sequence[Any]
) -> None:
    """Name the last layer's blobs as the definition does, if this is the only other name.

    To fine-tune a model, users of Caffe rename its last layer.
    """
    names = [layer.name for layer in defined if _kind(layer) in WITH_WEIGHTS]
    others = [name for name in blobs if name not in names]
    if names and names[-1] not in blobs and others == [[*blobs][-1]]:
        blobs[names[-1]] = blobs.pop(others[0])
        print(
            f"{path}: the last layer, {others[0]!r}, is taken as {names[-1]!r} of {prototxt}.",
            file=sys.stderr,
        )


def read_mean_image(path: Path) -> np.ndarray:
    """Read a mean image, a `.binaryproto` file; return (height, width, channels) RGB, 0…255.

    Raises:
        InputError: the file is damaged or no mean image.
    """
    try:
        mean = _array(parse_binary(path, "BlobProto"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] not in (1, 3):
        raise InputError(f"{path} holds {mean.shape}; expected a mean image (1, 3, side, side)")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))


def _read_model(content: Any, blobs: Blobs, source: Path) -> ForeignModel:
    """Return the ops of a definition with their weights.

    Raises:
        InputError: the layers are not a chain that ends with a softmax.
    """
    model = ForeignModel()
    for dims in ([*content.input_dim], *(shape.dim for shape in content.input_shape)):
        _set_crop(model, dims)
    names: set[str] = set()
    outputs: set[str] = set()  # names of the outputs of the last layer
    ended = False
    for layer in _layers(content, source):
        kind = _kind(layer)
        if kind in DATA_LAYERS:
            _read_data(model, layer)
            continue
        if kind == "Accuracy":
            continue
        if not layer.bottom or (outputs and layer.bottom[0] not in outputs):
            raise InputError(
                f"layer {layer.name} takes {[*layer.bottom]}; expected {sorted(outputs)}, a chain "
                "of layers"
            )
        if kind in SOFTMAX_LAYERS:
            ended = True
            continue
        if kind in WITH_WEIGHTS and layer.name in names:
            raise InputError(f"two layers are named {layer.name}; expected different names")
        names.add(layer.name)
        if kind == "Convolution":
            model.add_layer(*_convolution(layer, blobs.get(layer.name, ())), layer.name)
        elif kind == "InnerProduct":
            model.add_layer(*_inner_product(layer, blobs.get(layer.name, ())), layer.name)
        elif kind != "Split":  # Caffe inserts it where two layers have the same input
            model.add(_op(layer, kind), layer.name)
        outputs = {*layer.top}
    if not ended:
        raise InputError(
            "the model does not end with a softmax; the file is cut off, or the model is no "
            "classifier"
        )
    return model


def _op(layer: Any, kind: str) -> Op:
    """Return the op of a layer without weights."""
    if kind == "ReLU" and layer.relu_param.negative_slope == 0:
        return ReLU()
    if kind == "TanH":
        return Tanh()
    if kind == "LRN":
        return _lrn(layer.lrn_param)
    if kind == "Pooling":
        return _pooling(layer)
    if kind == "Dropout":
        return Dropout(shortest_decimal(layer.dropout_param.dropout_ratio), inverted=True)
    raise InputError(
        f"layer {layer.name} is a {kind} that the config cannot represent; expected one of "
        f"{', '.join(OP_LAYERS)} as in AlexNet"
    )


def _lrn(param: Any) -> LRN | WithinChannelLRN:
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


def _convolution(layer: Any, blobs: Iterable[Any]) -> tuple[Conv, Weights]:
    """Return the op and the weights of a Convolution layer."""
    param = layer.convolution_param
    if any(dilation != 1 for dilation in param.dilation):
        raise InputError(f"layer {layer.name} has dilation {[*param.dilation]}; expected 1")
    kernel, stride = _square(layer, param, "kernel", 0), _square(layer, param, "stride", 1)
    pad = _square(layer, param, "pad", 0)
    weights = _weights(layer, blobs, param, (kernel, kernel))
    return Conv(param.num_output, kernel, stride, (pad, pad), param.group), weights


def _inner_product(layer: Any, blobs: Iterable[Any]) -> tuple[Dense, Weights]:
    """Return the op and the weights of an InnerProduct layer."""
    param = layer.inner_product_param
    if param.axis != 1 or param.transpose:
        raise InputError(f"layer {layer.name} is transposed or along axis {param.axis}; expected 1")
    return Dense(param.num_output), _weights(layer, blobs, param, ())


def _pooling(layer: Any) -> MaxPool:
    """Return the op of a Pooling layer."""
    param = layer.pooling_param
    if param.pool != 0 or param.global_pooling or _square(layer, param, "pad", 0):
        raise InputError(
            f"layer {layer.name} pools in an unsupported way; expected MAX without padding"
        )
    window, stride = _square(layer, param, "kernel", 0), _square(layer, param, "stride", 1)
    return MaxPool(window, stride, ceil_mode=param.round_mode == 0)


def _weights(layer: Any, blobs: Iterable[Any], param: Any, window: tuple[int, ...]) -> Weights:
    """Return the weights of a layer, with biases of zero if it has none.

    Args:
        layer: the layer of the definition.
        blobs: the blobs of the layer in the `.caffemodel`.
        param: the layer's convolution_param or inner_product_param.
        window: height and width of the kernels; () for a fully-connected layer.
    """
    try:
        arrays = [_array(blob) for blob in blobs]
    except InputError as error:
        raise InputError(f"layer {layer.name}: {error}") from None
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


def _array(blob: Any) -> np.ndarray:
    """Return the numbers of a blob."""
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    kind, parts = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    content = b"".join(parts)
    if min(shape) < 1 or len(content) != prod(shape) * np.dtype(kind).itemsize:
        raise InputError(f"a blob of shape {shape} has {len(content)} bytes of numbers")
    return np.frombuffer(content, kind).reshape(shape)


def _read_data(model: ForeignModel, layer: Any) -> None:
    """Record the crop, mean and scale that a data layer states."""
    if _kind(layer) == "Input":
        for shape in layer.input_param.shape:
            _set_crop(model, shape.dim)
        return
    param = layer.transform_param
    if param.crop_size:
        model.set_data("crop", param.crop_size)
    if param.scale != 1:
        model.set_data("scale", shortest_decimal(param.scale))
    if param.mean_file:
        model.mean_file = param.mean_file
    if param.mean_value:
        mean = tuple(map(shortest_decimal, param.mean_value))
        model.set_data("given_mean", mean[::-1] if len(mean) == 3 else mean * 3)


def _set_crop(model: ForeignModel, dims: Iterable[int]) -> None:
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


def _kind(layer: Any) -> str:
    """Return the type of a layer by its name in the newer format."""
    if isinstance(layer.type, str):
        return layer.type
    name: str = type(layer).LayerType.Name(layer.type)
    return LAYER_TYPES.get(name.replace("_", ""), name)


def _square(layer: Any, param: Any, name: str, default: int) -> int:
    """Return a size that must be the same for both axes; Caffe has several fields for it."""
    values = getattr(param, "kernel_size" if name == "kernel" else name)
    sizes = {*values} if not isinstance(values, int) else {values}
    if param.HasField(f"{name}_h") or param.HasField(f"{name}_w"):
        sizes = {getattr(param, f"{name}_h"), getattr(param, f"{name}_w")}
    if len(sizes) > 1:
        raise InputError(f"layer {layer.name} has {name} {sorted(sizes)}; expected squares")
    return next(iter(sizes), default)


def _layers(content: Any, source: Path) -> Sequence[Any]:
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
