"""Read models of Caffe: `.caffemodel`, with the definition inside it or in a prototxt beside it.

Files are parsed by Google's protobuf from the part of `caffe.proto` (BVLC/caffe,
src/caffe/proto) that such models use. Both generations of layers are read, `layer` and the older
`layers`, whose types are an enumeration.
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

from alexnet_jax.conversion.layout import ForeignNet, Weights
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

# The numbers of a blob are packed floats; read as bytes they need no list of Python numbers.
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

DATA = ("Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
WITH_WEIGHTS = ("Convolution", "InnerProduct")
ENDS = ("Softmax", "SoftmaxWithLoss")
OPS = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling", "Dropout")
# The older types, without their underlines, by their newer names.
TYPES = {name.upper(): name for name in (*DATA, *OPS, "Softmax", "Split", "Accuracy")}
TYPES["SOFTMAXLOSS"] = "SoftmaxWithLoss"

# The weights of layers by name; messages of protobuf have no static types here.
Blobs = Mapping[str, Iterable[Any]]


def read(path: Path, prototxt: Path | None) -> ForeignNet:
    """Read a `.caffemodel`.

    Args:
        prototxt: a definition of the model, whose geometry is taken instead of the one inside the
            weights' file; layers are matched by name.

    Raises:
        InputError: not such a file, a damaged one, or a model that the config cannot hold.
    """
    content = _parse(path.read_bytes(), "NetParameter", path)
    layers = _layers(content, path)
    if not layers:
        raise InputError(f"{path} has no layers; expected a .caffemodel")
    with_blobs = [layer for layer in layers if layer.blobs]
    blobs = {layer.name: layer.blobs for layer in with_blobs}
    if len(blobs) < len(with_blobs):
        raise InputError(f"{path} has two layers with weights of one name; expected one for each")
    source = path
    if prototxt is not None:
        content, source = _message("NetParameter"), prototxt
        try:
            text_format.Parse(prototxt.read_text(), content, allow_unknown_field=True)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise InputError(f"{prototxt} is not a Caffe prototxt: {error}") from None
    try:
        return _net(content, blobs, source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_mean(path: Path) -> np.ndarray:
    """Read a mean image `.binaryproto`; return (height, width, channels) in RGB, 0…255.

    Raises:
        InputError: not such a file, or a damaged one.
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


def _net(content: Any, blobs: Blobs, source: Path) -> ForeignNet:
    """Return the ops of a definition with their weights, checked to be one chain."""
    net = ForeignNet()
    for dims in ([*content.input_dim], *(shape.dim for shape in content.input_shape)):
        _set_crop(net, dims)
    names: set[str] = set()
    at: set[str] = set()  # names of the activations that the next layer takes
    ended = False
    for layer in _layers(content, source):
        kind = _kind(layer)
        if kind in DATA:
            _read_data(net, layer)
            continue
        if kind == "Accuracy":
            continue
        if not layer.bottom or (at and layer.bottom[0] not in at):
            raise InputError(
                f"layer {layer.name} takes {[*layer.bottom]}; expected {sorted(at)}, a chain of "
                "layers"
            )
        if kind in ENDS:
            ended = True
            continue
        if kind in WITH_WEIGHTS and layer.name in names:
            raise InputError(f"two layers are called {layer.name}; expected a name for each")
        names.add(layer.name)
        if kind == "Convolution":
            net.add_layer(*_convolution(layer, blobs.get(layer.name, ())), layer.name)
        elif kind == "InnerProduct":
            net.add_layer(*_inner_product(layer, blobs.get(layer.name, ())), layer.name)
        elif kind != "Split":  # Caffe inserts it where two layers take the same
            net.add(_op(layer, kind), layer.name)
        at = {*layer.top}
    if not ended:
        raise InputError("the model ends without a softmax; the file is cut off, or no classifier")
    return net


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
        return Dropout(_short(layer.dropout_param.dropout_ratio), inverted=True)
    raise InputError(
        f"layer {layer.name} is {kind} of a kind that the config has not; expected one of "
        f"{', '.join(OPS)} as AlexNet has it"
    )


def _lrn(given: Any) -> LRN | WithinChannelLRN:
    size, alpha, beta = given.local_size, _short(given.alpha), _short(given.beta)
    if given.norm_region == 0:
        k = _short(given.k)
        return LRN(size, k, alpha, beta, alpha_over_size=True, across_columns=True)
    return WithinChannelLRN(size, 1.0, alpha, beta, alpha_over_size=True)  # Caffe ignores k there


def _convolution(layer: Any, blobs: Iterable[Any]) -> tuple[Conv, Weights]:
    given = layer.convolution_param
    if any(dilation != 1 for dilation in given.dilation):
        raise InputError(f"layer {layer.name} has dilation {[*given.dilation]}; expected 1")
    kernel, stride = _square(layer, given, "kernel", 0), _square(layer, given, "stride", 1)
    pad = _square(layer, given, "pad", 0)
    weights = _weights(layer, blobs, given, (kernel, kernel))
    return Conv(given.num_output, kernel, stride, (pad, pad), given.group), weights


def _inner_product(layer: Any, blobs: Iterable[Any]) -> tuple[Dense, Weights]:
    given = layer.inner_product_param
    if given.axis != 1 or given.transpose:
        raise InputError(f"layer {layer.name} is transposed or along axis {given.axis}; expected 1")
    return Dense(given.num_output), _weights(layer, blobs, given, ())


def _pooling(layer: Any) -> MaxPool:
    given = layer.pooling_param
    if given.pool != 0 or given.global_pooling or _square(layer, given, "pad", 0):
        raise InputError(f"layer {layer.name} pools otherwise; expected MAX without padding")
    window, stride = _square(layer, given, "kernel", 0), _square(layer, given, "stride", 1)
    return MaxPool(window, stride, ceil_mode=given.round_mode == 0)


def _weights(layer: Any, blobs: Iterable[Any], given: Any, window: tuple[int, ...]) -> Weights:
    """Return the arrays of a layer; its biases are zero where it has none.

    Args:
        window: height and width of the kernels; () for a fully-connected layer.
    """
    try:
        arrays = [_array(blob) for blob in blobs]
    except InputError as error:
        raise InputError(f"layer {layer.name}: {error}") from None
    if len(arrays) != 1 + given.bias_term:
        raise InputError(
            f"layer {layer.name} has {len(arrays)} blobs; expected {1 + given.bias_term}"
        )
    weight, *biases = arrays
    if not window and weight.ndim == 4 and weight.shape[:2] == (1, 1):  # in older files
        weight = weight[0, 0]
    expected = (given.num_output, *weight.shape[1:2], *window)
    if weight.shape != expected:
        raise InputError(f"layer {layer.name} has weights {weight.shape}; expected {expected}")
    return Weights(weight, biases[0].reshape(-1) if biases else np.zeros(len(weight), np.float32))


def _array(blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    kind, parts = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    content = b"".join(parts)
    if min(shape) < 1 or len(content) != prod(shape) * np.dtype(kind).itemsize:
        raise InputError(f"a blob of shape {shape} has {len(content)} bytes of numbers")
    return np.frombuffer(content, kind).reshape(shape)


def _read_data(net: ForeignNet, layer: Any) -> None:
    """Record what a data layer states of the crop and its preparation."""
    if _kind(layer) == "Input":
        for shape in layer.input_param.shape:
            _set_crop(net, shape.dim)
        return
    given = layer.transform_param
    if given.crop_size:
        net.set_data("crop", given.crop_size)
    if given.scale != 1:
        net.set_data("scale", _short(given.scale))
    if given.mean_file:
        net.mean_file = given.mean_file
    if given.mean_value:
        mean = tuple(map(_short, given.mean_value))
        net.set_data("given_mean", mean[::-1] if len(mean) == 3 else mean * 3)


def _set_crop(net: ForeignNet, dims: Iterable[int]) -> None:
    match [*dims]:
        case []:
            return
        case [_, _, height, width] if height == width:
            net.set_data("crop", height)
        case other:
            raise InputError(
                f"the input is {other}; expected images, channels, and as many rows as columns"
            )


def _kind(layer: Any) -> str:
    """Return the newer name of a layer's type."""
    if isinstance(layer.type, str):
        return layer.type
    name: str = type(layer).LayerType.Name(layer.type)
    return TYPES.get(name.replace("_", ""), name)


def _square(layer: Any, given: Any, name: str, default: int) -> int:
    """Return a size that may be stated once, for each direction, or for both by themselves."""
    stated = getattr(given, "kernel_size" if name == "kernel" else name)
    sizes = {*stated} if not isinstance(stated, int) else {stated}
    if given.HasField(f"{name}_h") or given.HasField(f"{name}_w"):
        sizes = {getattr(given, f"{name}_h"), getattr(given, f"{name}_w")}
    if len(sizes) > 1:
        raise InputError(f"layer {layer.name} has {name} {sorted(sizes)}; expected squares")
    return next(iter(sizes), default)


def _short(number: float) -> float:
    """Return the shortest decimal number that is this float32: 0.0001 and not 9.99999974e-05."""
    return float(str(np.float32(number)))


def _layers(content: Any, source: Path) -> Sequence[Any]:
    if len(content.layer) and len(content.layers):
        raise InputError(f"{source} has both `layer` and `layers`; expected one of them")
    if any(layer.HasField("layer") for layer in content.layers):
        raise InputError(
            f"{source} is in the format before `layers` had types; upgrade it with Caffe's "
            "upgrade_net_proto_binary"
        )
    layers: Sequence[Any] = content.layer or content.layers
    for layer in layers:
        # What is no UTF-8 comes as bytes; the type may be a number.
        words = (layer.name, *layer.bottom, *layer.top, layer.type)
        if any(isinstance(word, bytes) for word in words):
            raise InputError(f"{source} has a layer {layer.name!r} whose names are no text")
    return layers


def _parse(content: bytes, name: str, path: Path) -> Any:
    message = _message(name)
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"{path} is not a file of Caffe's, or is damaged: {error}") from None
    return message


def _message(name: str) -> Any:
    message: Message = message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))()
    return message


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Return the descriptors of SCHEMA."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    for name, body in re.findall(r"message (\w+) \{((?:[^{}]|\{[^{}]*\})*)\}", SCHEMA):
        message = file.message_type.add(name=name)
        for enum, values in re.findall(r"enum (\w+) \{([^}]*)\}", body):
            numbers = [(word, int(number)) for word, number in re.findall(r"(\w+) = (\d+)", values)]
            kind = message.enum_type.add(name=enum)
            for word, number in numbers:
                kind.value.add(name=word, number=number)
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
