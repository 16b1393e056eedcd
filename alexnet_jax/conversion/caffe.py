"""Read Caffe models: `.caffemodel` files, with the definition inside them or in a prototxt file.

Files are parsed by Google's protobuf with SCHEMA, the part of `caffe.proto` (BVLC/caffe,
src/caffe/proto) that AlexNet-like models use. Both formats of layers are supported: `layer`, and
the older `layers`, whose types are an enumeration.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

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

# The numbers of a blob, packed floats, are declared as bytes, which NumPy reads without a list.
SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  optional int64 num = 1; optional int64 channels = 2; optional int64 height = 3;
  optional int64 width = 4; repeated bytes data = 5; optional BlobShape shape = 7;
  repeated bytes double_data = 8; }
message ConvolutionParameter {
  optional uint32 num_output = 1; optional bool bias_term = 2 [true]; repeated uint32 pad = 3;
  repeated uint32 kernel_size = 4; optional uint32 group = 5 [1]; repeated uint32 stride = 6;
  optional uint32 pad_h = 9; optional uint32 pad_w = 10; optional uint32 kernel_h = 11;
  optional uint32 kernel_w = 12; optional uint32 stride_h = 13; optional uint32 stride_w = 14;
  repeated uint32 dilation = 18; }
message InnerProductParameter {
  optional uint32 num_output = 1; optional bool bias_term = 2 [true];
  optional int32 axis = 5 [1]; optional bool transpose = 6; }
message LRNParameter {
  enum NormRegion { ACROSS_CHANNELS = 0; WITHIN_CHANNEL = 1; }
  optional uint32 local_size = 1 [5]; optional float alpha = 2 [1]; optional float beta = 3 [0.75];
  optional NormRegion norm_region = 4; optional float k = 5 [1]; }
message PoolingParameter {
  enum PoolMethod { MAX = 0; AVE = 1; STOCHASTIC = 2; }
  enum RoundMode { CEIL = 0; FLOOR = 1; }
  optional PoolMethod pool = 1; optional uint32 kernel_size = 2; optional uint32 stride = 3 [1];
  optional uint32 pad = 4; optional uint32 kernel_h = 5; optional uint32 kernel_w = 6;
  optional uint32 stride_h = 7; optional uint32 stride_w = 8; optional uint32 pad_h = 9;
  optional uint32 pad_w = 10; optional bool global_pooling = 12;
  optional RoundMode round_mode = 13; }
message DropoutParameter { optional float dropout_ratio = 1 [0.5]; }
message ReLUParameter { optional float negative_slope = 1; }
message InputParameter { repeated BlobShape shape = 1; }
message TransformationParameter {
  optional float scale = 1 [1]; optional uint32 crop_size = 3; optional string mean_file = 4;
  repeated float mean_value = 5; }
message LayerParameter {
  optional string name = 1; optional string type = 2; repeated string bottom = 3;
  repeated string top = 4; repeated BlobProto blobs = 7;
  optional TransformationParameter transform_param = 100;
  optional ConvolutionParameter convolution_param = 106;
  optional DropoutParameter dropout_param = 108;
  optional InnerProductParameter inner_product_param = 117; optional LRNParameter lrn_param = 118;
  optional PoolingParameter pooling_param = 121; optional ReLUParameter relu_param = 123;
  optional InputParameter input_param = 143; }
message V1LayerParameter {
  enum LayerType {
    NONE = 0; ACCURACY = 1; CONVOLUTION = 4; DATA = 5; DROPOUT = 6; HDF5_DATA = 9;
    IMAGE_DATA = 12; INNER_PRODUCT = 14; LRN = 15; POOLING = 17; RELU = 18; SOFTMAX = 20;
    SOFTMAX_LOSS = 21; SPLIT = 22; TANH = 23; WINDOW_DATA = 24; MEMORY_DATA = 29; }
  optional bytes layer = 1; repeated string bottom = 2; repeated string top = 3;
  optional string name = 4; optional LayerType type = 5; repeated BlobProto blobs = 6;
  optional ConvolutionParameter convolution_param = 10;
  optional DropoutParameter dropout_param = 12;
  optional InnerProductParameter inner_product_param = 17; optional LRNParameter lrn_param = 18;
  optional PoolingParameter pooling_param = 19; optional ReLUParameter relu_param = 30;
  optional TransformationParameter transform_param = 36; }
message NetParameter {
  optional string name = 1; repeated V1LayerParameter layers = 2; repeated string input = 3;
  repeated int64 input_dim = 4; repeated BlobShape input_shape = 8;
  repeated LayerParameter layer = 100; }
"""

DATA_LAYERS = ("Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
WITH_WEIGHTS = ("Convolution", "InnerProduct")
SOFTMAX_LAYERS = ("Softmax", "SoftmaxWithLoss")
OP_LAYERS = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling", "Dropout")
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
    content = _parse(path.read_bytes(), "NetParameter", path)
    layers = _layers(content, path)
    if not layers:
        raise InputError(f"{path} has no layers; expected a .caffemodel")
    with_blobs = [layer for layer in layers if layer.blobs]
    blobs = {layer.name: layer.blobs for layer in with_blobs}
    if len(blobs) < len(with_blobs):
        raise InputError(
            f"{path} has two layers with weights and the same name; expected different names"
        )
    source = path
    if prototxt is not None:
        content, source = _message("NetParameter"), prototxt
        try:
            text_format.Parse(prototxt.read_text(), content, allow_unknown_field=True)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise InputError(f"{prototxt} is not a Caffe prototxt: {error}") from None
    try:
        return _read_model(content, blobs, source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_mean_image(path: Path) -> np.ndarray:
    """Read a mean image, a `.binaryproto` file; return (height, width, channels) RGB, 0…255.

    Raises:
        InputError: the file is damaged or no mean image.
    """
    try:
        mean = _array(_parse(path.read_bytes(), "BlobProto", path))
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


def _parse(content: bytes, name: str, path: Path) -> Any:
    """Return the message of a type in SCHEMA that a file contains."""
    message = _message(name)
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"{path} is not a Caffe file, or is damaged: {error}") from None
    return message


def _message(name: str) -> Any:
    """Return an empty message of a type in SCHEMA."""
    message: Message = message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))()
    return message


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Return the protobuf descriptors of the messages in SCHEMA."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    for name, body in re.findall(r"message (\w+) \{((?:[^{}]|\{[^{}]*\})*)\}", SCHEMA):
        message = file.message_type.add(name=name)
        for enum, values in re.findall(r"enum (\w+) \{([^}]*)\}", body):
            kind = message.enum_type.add(name=enum)
            for value, number in re.findall(r"(\w+) = (\d+)", values):
                kind.value.add(name=value, number=int(number))
        for label, kind, name, number, _, default in re.findall(
            r"(optional|repeated) (\w+) (\w+) = (\d+)( \[(.*?)\])?;", body
        ):
            scalar = getattr(field, f"TYPE_{kind.upper()}", None)
            message.field.add(
                name=name,
                number=int(number),
                label=getattr(field, f"LABEL_{label.upper()}"),
                type=scalar,
                type_name=None if scalar else kind,
                default_value=default or None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
