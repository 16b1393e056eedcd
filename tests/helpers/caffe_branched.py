"""GoogLeNet and residual networks in Caffe's files, written here with drawn weights.

The layers have the names, kinds and order of BVLC's GoogLeNet, of the residual networks that the
paper's authors published, and of residual networks for CIFAR-10 by others. Like `foreign_files`,
this module writes Caffe's files byte by byte.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import Config, with_changes
from configs import resnet
from helpers.foreign_files import blob, wire

# Field number of the parameters of a kind of layer, their name, and the numbers of their fields.
PARAMETERS: dict[str, tuple[int, str, dict[str, int]]] = {
    "Convolution": (
        106,
        "convolution_param",
        dict(num_output=1, bias_term=2, pad=3, kernel_size=4, stride=6),
    ),
    "InnerProduct": (117, "inner_product_param", dict(num_output=1)),
    "Pooling": (
        121,
        "pooling_param",
        dict(pool=1, kernel_size=2, stride=3, pad=4, global_pooling=12),
    ),
    "LRN": (118, "lrn_param", dict(local_size=1, alpha=2, beta=3)),
    "Dropout": (108, "dropout_param", dict(dropout_ratio=1)),
    "Scale": (142, "scale_param", dict(bias_term=4)),
    "Data": (100, "transform_param", dict(crop_size=3)),
    "Eltwise": (110, "eltwise_param", dict(operation=1)),
    "BatchNorm": (139, "batch_norm_param", dict(use_global_stats=1)),
}
WORDS = dict(MAX=0, AVE=1, PROD=0)
# Filters of an Inception module: 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, projection of the pooling.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
INPUT = """
layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape: {{ dim: 1 dim: 3 dim: {side} dim: {side} }} }} }}
"""
DATA = """
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ mirror: true crop_size: {side}
    mean_value: 104 mean_value: 117 mean_value: 123 }}
  data_param {{ source: "train_lmdb" batch_size: 32 backend: LMDB }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ mirror: false crop_size: {side}
    mean_value: 104 mean_value: 117 mean_value: 123 }}
  data_param {{ source: "val_lmdb" batch_size: 50 backend: LMDB }} }}
"""
FACTOR = 3.0  # by which Caffe's sums of statistics are to be divided


@dataclass
class Layer:
    """A layer of a definition.

    Attributes:
        name, kind, bottoms, tops: as in Caffe.
        parameters: its own parameters.
        arrays: its blobs.
        loss_weight: of a loss; None for none.
    """

    name: str
    kind: str
    bottoms: list[str]
    tops: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)
    arrays: list[np.ndarray] = field(default_factory=list)
    loss_weight: float | None = None


class Definition:
    """Layers that are added one after another.

    Attributes:
        layers: the layers.
        side: side of the images.
        channels: number of channels of every output.
    """

    def __init__(self, side: int) -> None:
        self.layers: list[Layer] = []
        self.side = side
        self.channels = {"data": 3}
        self._rng = np.random.default_rng(0)

    def add(
        self, name: str, kind: str, bottom: str, *, in_place: bool = False, **given: Any
    ) -> str:
        """Add a layer without weights, and return the name of its output."""
        top = bottom if in_place else name
        self.layers.append(Layer(name, kind, [bottom], [top], given))
        self.channels[top] = self.channels[bottom]
        return top

    def join(self, name: str, kind: str, bottoms: Sequence[str]) -> str:
        """Add a layer that adds or concatenates."""
        self.layers.append(Layer(name, kind, [*bottoms], [name]))
        sizes = [self.channels[bottom] for bottom in bottoms]
        self.channels[name] = sum(sizes) if kind == "Concat" else sizes[0]
        return name

    def conv(
        self,
        name: str,
        bottom: str,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = True,
    ) -> str:
        """Add a convolution that keeps the size, but for its stride."""
        shape = (features, self.channels[bottom], kernel, kernel)
        scale = 1 / 40 if bottom == "data" else 1.0  # pixels have a deviation of about 70
        arrays = [self.draw(shape, scale * (2 / prod(shape[1:])) ** 0.5)]
        given: dict[str, Any] = dict(num_output=features, kernel_size=kernel, stride=stride)
        given["pad"] = kernel // 2
        if bias:
            arrays.append(self.draw((features,), 0.1))
        else:
            given["bias_term"] = False
        self.layers.append(Layer(name, "Convolution", [bottom], [name], given, arrays))
        self.channels[name] = features
        return name

    def dense(self, name: str, bottom: str, units: int, pixels: int = 1) -> str:
        """Add a fully-connected layer on activations of so many pixels."""
        shape = (units, self.channels[bottom] * pixels)
        arrays = [self.draw(shape, (2 / shape[1]) ** 0.5), self.draw((units,), 0.1)]
        given = dict(num_output=units)
        self.layers.append(Layer(name, "InnerProduct", [bottom], [name], given, arrays))
        self.channels[name] = units
        return name

    def norm(self, name: str, scale_name: str, bottom: str) -> None:
        """Add batch normalization, two layers in place."""
        size = (self.channels[bottom],)
        mean, var = self.draw(size, 0.5), self._rng.uniform(0.5, 1.5, size)
        factor = np.full(1, FACTOR, np.float32)
        self.add(name, "BatchNorm", bottom, in_place=True, use_global_stats=True)
        self.layers[-1].arrays = [mean * factor, (var * FACTOR).astype(np.float32), factor]
        self.add(scale_name, "Scale", bottom, in_place=True, bias_term=True)
        scale = self._rng.uniform(0.5, 1.5, size).astype(np.float32)
        self.layers[-1].arrays = [scale, self.draw(size, 0.3)]

    def loss(self, name: str, bottom: str, weight: float) -> None:
        """Add a loss."""
        layer = Layer(name, "SoftmaxWithLoss", [bottom, "label"], [name], loss_weight=weight)
        self.layers.append(layer)

    def draw(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        """Return numbers from a normal distribution."""
        array: np.ndarray = self._rng.standard_normal(shape, np.float32) * np.float32(deviation)
        return array


def make_googlenet(share: int, classes: int, *, heads: bool) -> Definition:
    """Return BVLC's GoogLeNet, as for training with its auxiliary classifiers or as deployed.

    Args:
        share: divisor of the numbers of filters and units.
        classes: number of classes.
        heads: whether the auxiliary classifiers are present; all classifiers end with losses then.
    """
    definition = Definition(224)

    def conv(
        name: str, short: str, bottom: str, features: int, kernel: int, stride: int = 1
    ) -> str:
        top = definition.conv(f"{name}/{short}", bottom, features // share, kernel, stride)
        return definition.add(
            f"{name}/relu_{short.removesuffix('_s2')}", "ReLU", top, in_place=True
        )

    def pool(name: str, bottom: str, stride: int = 2, pad: int = 0) -> str:
        return definition.add(
            name, "Pooling", bottom, pool="MAX", kernel_size=3, stride=stride, pad=pad
        )

    def norm(name: str, bottom: str) -> str:
        return definition.add(name, "LRN", bottom, local_size=5, alpha=1e-4, beta=0.75)

    def head(name: str, bottom: str) -> None:
        top = definition.add(
            f"{name}/ave_pool", "Pooling", bottom, pool="AVE", kernel_size=5, stride=3
        )
        top = conv(name, "conv", top, 128, 1)
        top = definition.dense(f"{name}/fc", top, 1024 // share, pixels=16)
        definition.add(f"{name}/relu_fc", "ReLU", top, in_place=True)
        definition.add(f"{name}/drop_fc", "Dropout", top, in_place=True, dropout_ratio=0.7)
        definition.loss(f"{name}/loss", definition.dense(f"{name}/classifier", top, classes), 0.3)

    at = pool("pool1/3x3_s2", conv("conv1", "7x7_s2", "data", 64, 7, 2))
    at = conv("conv2", "3x3_reduce", norm("pool1/norm1", at), 64, 1)
    at = pool("pool2/3x3_s2", norm("conv2/norm2", conv("conv2", "3x3", at, 192, 3)))
    for module, (ones, reduce3, threes, reduce5, fives, projection) in MODULES.items():
        name = f"inception_{module}"
        tops = [conv(name, "1x1", at, ones, 1)]
        tops += [conv(name, "3x3", conv(name, "3x3_reduce", at, reduce3, 1), threes, 3)]
        tops += [conv(name, "5x5", conv(name, "5x5_reduce", at, reduce5, 1), fives, 5)]
        tops += [conv(name, "pool_proj", pool(f"{name}/pool", at, 1, 1), projection, 1)]
        at = definition.join(f"{name}/output", "Concat", tops)
        if heads and module in ("4a", "4d"):
            head("loss1" if module == "4a" else "loss2", at)
        if module in ("3b", "4e"):
            at = pool("pool3/3x3_s2" if module == "3b" else "pool4/3x3_s2", at)
    at = definition.add("pool5/7x7_s1", "Pooling", at, pool="AVE", kernel_size=7, stride=1)
    definition.add("pool5/drop_7x7_s1", "Dropout", at, in_place=True, dropout_ratio=0.4)
    at = definition.dense("loss3/classifier", at, classes)
    if heads:
        definition.loss("loss3/loss3", at, 1.0)
    else:
        definition.add("prob", "Softmax", at)
    return definition


def make_resnet(
    stage_sizes: Sequence[int], width: int, classes: int, *, conv1_bias: bool
) -> Definition:
    """Return a residual network of bottleneck blocks as the paper's authors published it.

    The first convolution of a block and its projection have the stride.

    Args:
        stage_sizes: number of blocks of each stage.
        width: number of filters of the first convolution.
        classes: number of classes.
        conv1_bias: whether the first convolution has a bias, as in ResNet-50.
    """
    definition = Definition(224)

    def conv(name: str, bottom: str, features: int, kernel: int, stride: int = 1) -> str:
        top = definition.conv(f"res{name}", bottom, features, kernel, stride, bias=False)
        definition.norm(f"bn{name}", f"scale{name}", top)
        return top

    at = definition.conv("conv1", "data", width, 7, 2, bias=conv1_bias)
    definition.norm("bn_conv1", "scale_conv1", at)
    definition.add("conv1_relu", "ReLU", at, in_place=True)
    at = definition.add("pool1", "Pooling", at, pool="MAX", kernel_size=3, stride=2)
    for stage, size in enumerate(stage_sizes):
        for index in range(size):
            name = f"{stage + 2}{chr(ord('a') + index)}"
            features, stride = width * 2**stage, 2 if stage and not index else 1
            bottom = at
            if not index:
                at = conv(f"{name}_branch1", bottom, 4 * features, 1, stride)
            top = conv(f"{name}_branch2a", bottom, features, 1, stride)
            definition.add(f"res{name}_branch2a_relu", "ReLU", top, in_place=True)
            top = conv(f"{name}_branch2b", top, features, 3)
            definition.add(f"res{name}_branch2b_relu", "ReLU", top, in_place=True)
            top = conv(f"{name}_branch2c", top, 4 * features, 1)
            at = definition.join(f"res{name}", "Eltwise", [at, top])
            definition.add(f"res{name}_relu", "ReLU", at, in_place=True)
    at = definition.add("pool5", "Pooling", at, pool="AVE", kernel_size=7, stride=1)
    definition.add("prob", "Softmax", definition.dense(f"fc{classes}", at, classes))
    return definition


def make_cifar_resnet(n: int, width: int, *, plain: bool = False) -> Definition:
    """Return a network of 6n + 2 layers with biases everywhere and projections, or a plain one."""
    definition = Definition(32)

    def conv(name: str, bottom: str, features: int, kernel: int, stride: int = 1) -> str:
        top = definition.conv(name, bottom, features, kernel, stride)
        definition.norm(f"{name}_bn", f"{name}_scale", top)
        return top

    at = conv("first_conv", "data", width, 3)
    definition.add("first_conv_relu", "ReLU", at, in_place=True)
    for stage in range(3):
        for index in range(n):
            name, features = f"group{stage}_block{index}", width * 2**stage
            stride = 2 if stage and not index else 1
            top = conv(f"{name}_conv0", at, features, 3, stride)
            definition.add(f"{name}_relu0", "ReLU", top, in_place=True)
            top = conv(f"{name}_conv1", top, features, 3)
            if not plain:
                shortcut = conv(f"{name}_proj", at, features, 1, stride) if stride == 2 else at
                top = definition.join(f"{name}_sum", "Eltwise", [shortcut, top])
            at = definition.add(f"{name}_relu", "ReLU", top)
    at = definition.add("global_avg_pool", "Pooling", at, pool="AVE", global_pooling=True)
    definition.add("prob", "Softmax", definition.dense("fc", at, 10))
    return definition


def to_caffemodel(layers: Iterable[Layer]) -> bytes:
    """Return a .caffemodel with the definition and the weights."""
    model = [wire(1, "net")]
    for layer in layers:
        content = wire(1, layer.name) + wire(2, layer.kind)
        content += b"".join(wire(3, bottom) for bottom in layer.bottoms)
        content += b"".join(wire(4, top) for top in layer.tops)
        if layer.loss_weight is not None:
            content += wire(5, layer.loss_weight)
        content += b"".join(wire(7, blob(array, shaped=True)) for array in layer.arrays)
        if layer.parameters:
            number, _, fields = PARAMETERS[layer.kind]
            values = {name: WORDS.get(value, value) for name, value in layer.parameters.items()}
            parameters = b"".join(wire(fields[name], value) for name, value in values.items())
            content += wire(number, parameters)
        model.append(wire(100, content))
    return b"".join(model)


def to_prototxt(definition: Definition, *, deployed: bool = True) -> str:
    """Return a definition as text.

    Args:
        definition: the layers of the files.
        deployed: whether it has an input layer, or data layers for training.
    """
    text = INPUT.format(side=definition.side) if deployed else DATA.format(side=definition.side)
    for layer in definition.layers:
        text += f'layer {{ name: "{layer.name}" type: "{layer.kind}"'
        text += "".join(f' bottom: "{bottom}"' for bottom in layer.bottoms)
        text += "".join(f' top: "{top}"' for top in layer.tops)
        if layer.loss_weight is not None:
            text += f" loss_weight: {layer.loss_weight}"
        if layer.parameters:
            values = (f"{name}: {_as_text(value)}" for name, value in layer.parameters.items())
            text += f" {PARAMETERS[layer.kind][1]} {{ {' '.join(values)} }}"
        text += " }\n"
    return text


def _as_text(value: int | float | str) -> str:
    """Return a value in a prototxt."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def given_config(variant: str) -> Config:
    """Return a config with preprocessing, for models that are not recognized as published ones."""
    return with_changes(resnet.get_config(variant), {"data.mean": "none"})


def write(folder: Path, definition: Definition, *, deployed: bool = True) -> tuple[Path, Path]:
    """Write the weights with their definition, and the definition, and return their paths."""
    path, prototxt = folder / "net.caffemodel", folder / "net.prototxt"
    path.write_bytes(to_caffemodel(definition.layers))
    prototxt.write_text(to_prototxt(definition, deployed=deployed))
    return path, prototxt


def find(definition: Definition, name: str) -> Layer:
    """Return a layer by its name."""
    return next(layer for layer in definition.layers if layer.name == name)
