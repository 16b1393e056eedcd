"""The part of Caffe's file formats that AlexNet-like models use, parsed by Google's protobuf.

SCHEMA is that part of `caffe.proto` (BVLC/caffe, src/caffe/proto). It has both formats of layers:
`layer`, and the older `layers`, whose types are an enumeration.
"""

import functools
import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

from alexnet_jax.errors import InputError, one_line

# The numbers of a blob, packed floats, are declared as bytes, which NumPy reads without a list.
# OldDataParameter is what DataParameter, ImageDataParameter and WindowDataParameter have in common.
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
message BatchNormParameter { optional float eps = 3 [1e-5]; }
message ScaleParameter {
  optional int32 axis = 1 [1]; optional int32 num_axes = 2 [1]; optional bool bias_term = 4; }
message ConcatParameter { optional uint32 concat_dim = 1 [1]; optional int32 axis = 2 [1]; }
message EltwiseParameter {
  enum EltwiseOp { PROD = 0; SUM = 1; MAX = 2; }
  optional EltwiseOp operation = 1 [SUM]; repeated float coeff = 2; }
message DropoutParameter { optional float dropout_ratio = 1 [0.5]; }
message ReLUParameter { optional float negative_slope = 1; }
message InputParameter { repeated BlobShape shape = 1; }
message TransformationParameter {
  optional float scale = 1 [1]; optional uint32 crop_size = 3; optional string mean_file = 4;
  repeated float mean_value = 5; }
message OldDataParameter {
  optional float scale = 2 [1]; optional string mean_file = 3; optional uint32 crop_size = 5; }
message LayerParameter {
  optional string name = 1; optional string type = 2; repeated string bottom = 3;
  repeated string top = 4; repeated float loss_weight = 5; repeated BlobProto blobs = 7;
  optional TransformationParameter transform_param = 100;
  optional ConcatParameter concat_param = 104;
  optional ConvolutionParameter convolution_param = 106;
  optional DropoutParameter dropout_param = 108; optional EltwiseParameter eltwise_param = 110;
  optional InnerProductParameter inner_product_param = 117; optional LRNParameter lrn_param = 118;
  optional PoolingParameter pooling_param = 121; optional ReLUParameter relu_param = 123;
  optional BatchNormParameter batch_norm_param = 139; optional ScaleParameter scale_param = 142;
  optional InputParameter input_param = 143; }
message V1LayerParameter {
  enum LayerType {
    NONE = 0; ACCURACY = 1; CONCAT = 3; CONVOLUTION = 4; DATA = 5; DROPOUT = 6; HDF5_DATA = 9;
    IMAGE_DATA = 12; INNER_PRODUCT = 14; LRN = 15; POOLING = 17; RELU = 18; SOFTMAX = 20;
    SOFTMAX_LOSS = 21; SPLIT = 22; TANH = 23; WINDOW_DATA = 24; ELTWISE = 25; MEMORY_DATA = 29; }
  optional bytes layer = 1; repeated string bottom = 2; repeated string top = 3;
  optional string name = 4; optional LayerType type = 5; repeated BlobProto blobs = 6;
  optional ConcatParameter concat_param = 9; optional ConvolutionParameter convolution_param = 10;
  optional OldDataParameter data_param = 11; optional DropoutParameter dropout_param = 12;
  optional OldDataParameter image_data_param = 15;
  optional InnerProductParameter inner_product_param = 17; optional LRNParameter lrn_param = 18;
  optional PoolingParameter pooling_param = 19; optional OldDataParameter window_data_param = 20;
  optional EltwiseParameter eltwise_param = 24;
  optional ReLUParameter relu_param = 30; repeated float loss_weight = 35;
  optional TransformationParameter transform_param = 36; }
message NetParameter {
  optional string name = 1; repeated V1LayerParameter layers = 2; repeated string input = 3;
  repeated int64 input_dim = 4; repeated BlobShape input_shape = 8;
  repeated LayerParameter layer = 100; }
"""
SOLVER = re.compile(r"^\s*(base_lr|net|train_net|lr_policy)\s*:", re.MULTILINE)


def parse_binary(path: Path, name: str) -> Any:
    """Return the message of a type in SCHEMA that a file contains.

    Raises:
        InputError: the file is damaged or no such message.
    """
    message = _message(name)
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is not a Caffe file, or is damaged: {one_line(error)}") from None
    return message


def parse_text(path: Path) -> Any:
    """Return the NetParameter that a prototxt file contains.

    Raises:
        InputError: the file is no such definition.
    """
    message = _message("NetParameter")
    try:
        text = path.read_text(encoding="utf-8")
        text_format.Parse(text, message, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        reason = (
            "its messages are nested too deeply"
            if isinstance(error, RecursionError)
            else one_line(error)
        )
        raise InputError(f"{path} is not a Caffe prototxt: {reason}") from None
    if SOLVER.search(text) and not (message.layer or message.layers):
        raise InputError(
            f"{path} is a solver's definition; expected that of the model, which it names in net"
        )
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
