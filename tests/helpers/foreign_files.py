"""Models in the files of other programs, written here with random weights.

Caffe's files are written byte by byte, from the field numbers of its caffe.proto, so that they
do not depend on the reader under test.
"""

import re
import struct
from collections.abc import Iterable
from math import prod

import numpy as np
from PIL import Image

# bvlc_alexnet with few channels. fc7 has more units than fc6, so that its inputs are gathered.
SMALL = dict(conv1=8, conv2=12, conv3=8, conv4=12, conv5=8, fc6=24, fc7=48, fc8=10)
BVLC = dict(conv1=96, conv2=256, conv3=384, conv4=384, conv5=256, fc6=4096, fc7=4096, fc8=1000)
GROUPS = dict(conv2=2, conv4=2, conv5=2)
VGG16_CONVS = [
    f"conv{b}_{n}" for b, count in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, count + 1)
]
GEOMETRY = dict(  # kernel, stride, pad
    conv1=(11, 4, 0), conv2=(5, 1, 2), conv3=(3, 1, 1), conv4=(3, 1, 1), conv5=(3, 1, 1),
    **dict.fromkeys(VGG16_CONVS, (3, 1, 1)),
)  # fmt: skip
OPS = dict(  # Caffe's names of the layers without weights
    conv1=("relu1", "norm1", "pool1"),
    conv2=("relu2", "norm2", "pool2"),
    conv3=("relu3",),
    conv4=("relu4",),
    conv5=("relu5", "pool5"),
    fc6=("relu6", "drop6"),
    fc7=("relu7", "drop7"),
    fc8=("prob",),
)
CAFFENET_OPS = {  # bvlc_reference_caffenet, of the same geometry, pools first
    **OPS,
    **dict(conv1=("relu1", "pool1", "norm1"), conv2=("relu2", "pool2", "norm2")),
}
VGG16_OPS = {  # VGG_ILSVRC_16_layers
    **{name: (f"relu{name[4:]}",) for name in VGG16_CONVS},
    **{f"conv{b}_{n}": (f"relu{b}_{n}", f"pool{b}") for b, n in enumerate((2, 2, 3, 3, 3), 1)},
    **dict(fc6=OPS["fc6"], fc7=OPS["fc7"], fc8=OPS["fc8"]),
}
POOL = (3, 2)  # window, stride
VGG_POOL = (2, 2)
ENUM = dict(  # V1LayerParameter.LayerType
    Convolution=4, Dropout=6, InnerProduct=14, LRN=15, Pooling=17, ReLU=18, Softmax=20
)
# Field numbers of a layer's parameters, by generation.
PARAMETERS = dict(
    layer=dict(Convolution=106, Dropout=108, InnerProduct=117, LRN=118, Pooling=121),
    layers=dict(Convolution=10, Dropout=12, InnerProduct=17, LRN=18, Pooling=19),
)
KINDS = dict(relu="ReLU", norm="LRN", pool="Pooling", drop="Dropout", prob="Softmax")
LRN_ALPHA = 0.05  # strong enough to be seen after layers of random weights

Ops = dict[str, tuple[str, ...]]
Weights = dict[str, tuple[np.ndarray, np.ndarray]]


def weights(
    sizes: dict[str, int], pixels: int = 6, groups: dict[str, int] | None = None
) -> Weights:
    """Return {name: (weight, bias)} in the layout that Caffe, ONNX and PyTorch share.

    Args:
        pixels: a side of the feature maps that fc6 sees.
    """
    rng, inputs, out = np.random.default_rng(0), 3, dict[str, tuple[np.ndarray, np.ndarray]]()
    groups = GROUPS if groups is None else groups
    for name, features in sizes.items():
        if name in GEOMETRY:
            kernel = GEOMETRY[name][0]
            shape: tuple[int, ...] = (features, inputs // groups.get(name, 1), kernel, kernel)
        else:
            shape = (features, inputs * pixels**2 if name == "fc6" else inputs)
        weight = rng.standard_normal(shape, np.float32) * np.float32((2 / prod(shape[1:])) ** 0.5)
        if not out:
            weight /= 40  # pixels have a deviation of about 70
        out[name] = (weight, rng.standard_normal(features, np.float32) * np.float32(0.1))
        inputs = features
    return out


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def wire(number: int, value: int | float | str | bytes) -> bytes:
    """Return a field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, shaped: bool) -> bytes:
    """Return a BlobProto: with `shape`, or with num, channels, height and width."""
    if shaped:
        shape = wire(7, wire(1, b"".join(map(varint, array.shape))))
    else:
        sizes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(wire(number, size) for number, size in enumerate(sizes, start=1))
    return shape + wire(5, array.astype("<f4").tobytes())


def parameter(kind: str, name: str, features: int, pool: tuple[int, int]) -> bytes:
    """Return the message of a layer's own parameters."""
    if kind == "Convolution":
        kernel, stride, pad = GEOMETRY[name]
        fields = [(1, features), (3, pad), (4, kernel), (5, GROUPS.get(name, 1)), (6, stride)]
        return b"".join(wire(*pair) for pair in fields)
    if kind == "InnerProduct":
        return wire(1, features)
    if kind == "LRN":
        return wire(1, 5) + wire(2, LRN_ALPHA) + wire(3, 0.75)
    if kind == "Pooling":
        return wire(2, pool[0]) + wire(3, pool[1])
    return wire(1, 0.5) if kind == "Dropout" else b""


def caffe_layers(sizes: dict[str, int], ops: Ops = OPS) -> Iterable[tuple[str, str, str, str]]:
    """Yield (name, kind, bottom, top) of the layers of a deploy definition."""
    at = "data"
    for name in sizes:
        yield name, "Convolution" if name in GEOMETRY else "InnerProduct", at, name
        at = name
        for op in ops[name]:
            kind = KINDS[re.sub("[0-9_]", "", op)]
            top = at if kind in ("ReLU", "Dropout") else op
            yield op, kind, at, top
            at = top


def caffemodel(
    sizes: dict[str, int],
    arrays: Weights,
    *,
    generation: str,
    shaped: bool,
    ops: Ops = OPS,
    pool: tuple[int, int] = POOL,
) -> bytes:
    """Return a .caffemodel: generation "layer", or "layers" whose types are numbers."""
    net = [wire(1, "AlexNet")]
    for name, kind, bottom, top in caffe_layers(sizes, ops):
        numbers = dict(name=4, type=5, bottom=2, top=3, blobs=6, layer=2)
        given: int | str = ENUM[kind]
        if generation == "layer":
            numbers, given = dict(name=1, type=2, bottom=3, top=4, blobs=7, layer=100), kind
        layer = wire(numbers["bottom"], bottom) + wire(numbers["top"], top)
        layer += wire(numbers["name"], name) + wire(numbers["type"], given)
        for array in arrays.get(name, ()):
            layer += wire(numbers["blobs"], blob(array, shaped))
        if kind in PARAMETERS[generation]:
            number = PARAMETERS[generation][kind]
            layer += wire(number, parameter(kind, name, sizes.get(name, 0), pool))
        net.append(wire(numbers["layer"], layer))
    return b"".join(net)


def prototxt(
    sizes: dict[str, int], crop: int = 227, ops: Ops = OPS, pool: tuple[int, int] = POOL
) -> str:
    """Return the deploy definition as text."""
    text = 'name: "AlexNet"\nlayer { name: "data" type: "Input" top: "data"\n'
    text += f"  input_param {{ shape: {{ dim: 1 dim: 3 dim: {crop} dim: {crop} }} }} }}\n"
    for name, kind, bottom, top in caffe_layers(sizes, ops):
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}"\n'
        if kind == "Convolution":
            kernel, stride, pad = GEOMETRY[name]
            text += (
                f"  convolution_param {{ num_output: {sizes[name]} kernel_size: {kernel} "
                f"stride: {stride} pad: {pad} group: {GROUPS.get(name, 1)} }}\n"
            )
        elif kind == "InnerProduct":
            text += f"  inner_product_param {{ num_output: {sizes[name]} }}\n"
        elif kind == "LRN":
            text += f"  lrn_param {{ local_size: 5 alpha: {LRN_ALPHA} beta: 0.75 }}\n"
        elif kind == "Pooling":
            text += f"  pooling_param {{ pool: MAX kernel_size: {pool[0]} stride: {pool[1]} }}\n"
        elif kind == "Dropout":
            text += "  dropout_param { dropout_ratio: 0.5 }\n"
        text += "}\n"
    return text


def make_image() -> np.ndarray:
    """Return 256×256 RGB pixels with detail of every size."""
    rng = np.random.default_rng(3)
    sizes = (4, 16, 64, 256)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (s, s, 3), np.uint8)).resize((256, 256)))
        for s in sizes
    ]
    mean: np.ndarray = np.mean(layers, axis=0)
    return mean.astype(np.uint8)


def channels_first(activation: np.ndarray) -> np.ndarray:
    """Return (batch, height, width, channels), or (batch, units), with channels on axis 1."""
    moved: np.ndarray = np.moveaxis(np.asarray(activation), -1, 1)
    return moved
