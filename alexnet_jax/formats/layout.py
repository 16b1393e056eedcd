"""The layout that other programs share, and ours: stacks of maps against columns.

Caffe, ONNX and PyTorch keep all maps of a layer in one stack, (maps out, maps in of a group,
height, width), and flatten them as (maps, height, width). Here the columns lie on an axis of their
own and flatten as (column, height, width, maps); see `models.columns`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import network
from alexnet_jax.errors import InputError
from alexnet_jax.models.alexnet import Conv, Dense, ModelConfig

Params = dict[str, dict[str, np.ndarray]]


@dataclass
class Layer:
    """A layer as another program has it.

    Attributes:
        name: conv1 … fc8.
        weight: (maps out, maps in of a group, height, width), or (units out, units in).
        bias: (maps or units out,).
        groups: into which the maps are divided.
        stride, padding: pixels; of a convolution.
        after: the steps that follow, as in the config.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    groups: int = 1
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    after: list[str] = field(default_factory=list)


@dataclass
class Stack:
    """A net as another program has it.

    Attributes:
        layers: in order; the last one classifies.
        model: fields of `config.model` that the file states, lrn, pool and dropout among them.
        data: fields of `config.data` that it states.
        mean_file: the name of a mean image that it asks for, which is another file.
    """

    layers: list[Layer]
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    mean_file: str = ""

    def state(self, part: str, name: str, value: Any) -> None:
        """Record a field of `model` or `data`, which every layer of the file must agree on.

        Raises:
            InputError: it was stated otherwise before.
        """
        stated: dict[str, Any] = getattr(self, part)
        if stated.setdefault(name, value) != value:
            raise InputError(
                f"two layers differ in {name}: {stated[name]} and {value}; expected one for the net"
            )


def layers_of(config: ConfigDict) -> tuple[Conv | Dense, ...]:
    """The layers of a config, in their order."""
    return ModelConfig.from_dict(config.model).layers


def configure(config: ConfigDict, stack: Stack) -> ConfigDict:
    """The config with the geometry of a file, for the layers that the config names.

    Raises:
        InputError: other layers than the config has, or a geometry that it cannot hold.
    """
    config = config.copy_and_resolve_references()
    expected = [layer.name for layer in layers_of(config)]
    found = [layer.name for layer in stack.layers]
    if found != expected:
        raise InputError(f"the layers are {', '.join(found)}; expected {', '.join(expected)}")
    config.data.update(stack.data)
    config.model.update(stack.model)
    config.model.columns = max(layer.groups for layer in stack.layers)
    config.model.classes = len(stack.layers[-1].weight)
    for layer in stack.layers:
        _configure_layer(config, layer)
    config.model.layers[expected[0]].sees = "own"  # the image
    config.model.layers[expected[-1]].features = 0  # the classes
    if stack.layers[0].groups != 1:
        raise InputError(f"{found[0]} has {stack.layers[0].groups} groups; expected 1: the image")
    ModelConfig.from_dict(config.model)
    return config


def _configure_layer(config: ConfigDict, layer: Layer) -> None:
    into = config.model.layers[layer.name]
    is_conv = layer.weight.ndim == 4
    if is_conv != ("kernel" in into) or layer.weight.ndim not in (2, 4):
        kind = "a convolution" if "kernel" in into else "fully connected"
        raise InputError(f"{layer.name} has weights {layer.weight.shape}; expected it to be {kind}")
    if layer.groups not in (1, config.model.columns):
        raise InputError(
            f"{layer.name} has {layer.groups} groups; expected 1 or {config.model.columns}"
        )
    into.features = len(layer.weight)
    into.sees = "own" if is_conv and layer.groups == config.model.columns else "both"
    into.after = tuple(layer.after)
    if not is_conv:
        return
    height, width = layer.weight.shape[2:]
    if height != width:
        raise InputError(f"{layer.name} has windows of {height}×{width}; expected squares")
    into.update(kernel=height, stride=layer.stride, padding=layer.padding)


def params_of(config: ConfigDict, stack: Stack) -> Params:
    """Our parameters from a file's, for the config that `configure` gave.

    Raises:
        InputError: a shape that does not follow from the layers before, numbers that are not
            finite, or sizes that do not fit the crop.
    """
    model = ModelConfig.from_dict(config.model)
    params: Params = {}
    for layer, (name, template) in zip(
        stack.layers, network.abstract_params(config).items(), strict=True
    ):
        form = _Form.of(model, name, template["kernel"].shape)
        for part, array, expected in (
            ("weights", layer.weight, form.plain_shape()),
            ("biases", layer.bias, (math.prod(template["bias"].shape),)),
        ):
            if array.shape != expected:
                raise InputError(f"{name} has {part} {array.shape}; expected {expected}")
            if not np.isfinite(array).all():
                raise InputError(f"{name} has {part} that are not finite; the file is damaged")
        bias = layer.bias.astype(np.float32).reshape(template["bias"].shape)
        params[name] = {"kernel": form.from_plain(layer.weight.astype(np.float32)), "bias": bias}
    return params


def stack_of(config: ConfigDict, params: Mapping[str, Any]) -> Stack:
    """The net of a config as other programs would hold it.

    A dense layer that sees its own column alone has the weights (units out, units in of a column),
    like a grouped convolution.
    """
    model = ModelConfig.from_dict(config.model)
    layers = []
    for number, layer in enumerate(model.layers):
        kernel = np.asarray(params[layer.name]["kernel"])
        form = _Form.of(model, layer.name, kernel.shape)
        converted = Layer(
            layer.name,
            form.to_plain(kernel),
            np.asarray(params[layer.name]["bias"]).reshape(-1),
            groups=model.columns if layer.sees == "own" and number else 1,
            after=list(layer.after),
        )
        if isinstance(layer, Conv):
            converted.stride, converted.padding = layer.stride, layer.padding
        layers.append(converted)
    return Stack(layers)


@dataclass(frozen=True)
class _Form:
    """How one of our kernels is laid out.

    Attributes:
        shape: of our kernel.
        is_conv: or dense.
        by_input: of a dense kernel, whether its columns are those of its input.
        maps: of a column, where a dense layer's inputs are maps; 0 where they are units.
        seen: columns side by side along the inputs of the plain weights.
    """

    shape: tuple[int, ...]
    is_conv: bool
    by_input: bool
    maps: int
    seen: int

    @classmethod
    def of(cls, model: ModelConfig, name: str, shape: tuple[int, ...]) -> "_Form":
        """That of a layer of the model, from the shape of its kernel.

        Raises:
            InputError: the network has no convolutions, whose maps the others flatten.
        """
        if not isinstance(model.layers[0], Conv):
            raise InputError(f"{name} sees the image itself; expected a net with convolutions")
        place = next(i for i, layer in enumerate(model.layers) if layer.name == name)
        layer, before = model.layers[place], model.layers[place - 1]
        if isinstance(layer, Conv):
            return cls(shape, True, False, 0, 1)
        last = place == len(model.layers) - 1
        by_input = last or (layer.sees == "both" and shape[-1] == layer.features)
        maps = before.features // model.columns if isinstance(before, Conv) else 0
        return cls(shape, False, by_input, maps, model.columns if layer.sees == "both" else 1)

    def plain_shape(self) -> tuple[int, ...]:
        """Of the weights in other programs."""
        columns, *inputs, out = self.shape
        if self.is_conv:
            return (columns * out, inputs[2], *inputs[:2])
        return (out, columns * inputs[0]) if self.by_input else (columns * out, inputs[0])

    def to_plain(self, kernel: np.ndarray) -> np.ndarray:
        """Our kernel in the layout of other programs."""
        if self.is_conv:
            return kernel.transpose(0, 4, 3, 1, 2).reshape(self.plain_shape())
        if self.by_input:
            kernel = kernel.reshape(-1, self.shape[-1]).T
        else:
            kernel = kernel.transpose(0, 2, 1).reshape(self.plain_shape())
        if self.maps:
            side = self._side()
            kernel = kernel.reshape(-1, self.seen, side, side, self.maps).transpose(0, 1, 4, 2, 3)
        return np.ascontiguousarray(kernel.reshape(self.plain_shape()))

    def from_plain(self, weight: np.ndarray) -> np.ndarray:
        """The inverse of `to_plain`."""
        columns, *inputs, out = self.shape
        if self.is_conv:
            height, width, maps = inputs
            kernel = weight.reshape(columns, out, maps, height, width).transpose(0, 3, 4, 2, 1)
            return np.ascontiguousarray(kernel)
        if self.maps:
            side = self._side()
            weight = weight.reshape(-1, self.seen, self.maps, side, side).transpose(0, 1, 3, 4, 2)
        if self.by_input:
            kernel = weight.reshape(out, -1).T.reshape(self.shape)
        else:
            kernel = weight.reshape(columns, out, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(kernel)

    def _side(self) -> int:
        """Pixels a side of the maps that a dense layer flattens."""
        return math.isqrt(self.plain_shape()[1] // (self.seen * self.maps))
