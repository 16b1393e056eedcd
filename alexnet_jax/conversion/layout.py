"""The layout of weights that other programs share, and this program's.

Caffe, ONNX and PyTorch keep all output channels of a layer side by side, (channels out, channels
in of a group, height, width), and flatten feature maps as (channels, height, width). Here the
columns of a model that has several lie on an axis of their own, and feature maps flatten as
(column, height, width, channels); see `layers.columns`.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import (
    Conv,
    Dense,
    Op,
    SequentialConfig,
    is_valid_name,
    spatial_sizes,
)
from alexnet_jax.pytree import Variables

Params = dict[str, dict[str, np.ndarray]]
DataValue = int | float | str | tuple[float, ...]

# Names of ops by kind, before the number of the layer that they are or follow, as Caffe's files
# of AlexNet have them.


@dataclass(frozen=True)
class Weights:
    """The arrays of a layer as other programs have them.

    Attributes:
        weight: (channels out, channels in of a group, height, width), or (units out, units in of
            a group).
        bias: (channels or units out,).
    """

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class ForeignNet:
    """A chain of ops with its weights, as another program has it.

    Attributes:
        ops: by name, in order; `features` of the classifier is the number of classes, and
            `groups` are the file's.
        weights: of every `Conv` and `Dense`, by its name, in the same order.
        data: fields of `config.data` that the file states.
        mean_file: the name of a mean image, which is another file; "" for none.
    """

    ops: dict[str, Op] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    data: dict[str, DataValue] = field(default_factory=dict)
    mean_file: str = ""

    def add(self, op: Op, name: str = "") -> None:
        """Append an op without weights.

        Args:
            name: taken where it is valid and no other op has it; otherwise the op is named by
                its kind and the number of the layer that it follows, relu1.

        Raises:
            InputError: the op comes before any layer with weights.
        """
        if not self.weights:
            raise InputError(f"{name or type(op).__name__} comes before any convolution")
        self.ops[self._free_name(op, name, len(self.weights))] = op

    def add_layer(self, op: Conv | Dense, weights: Weights, name: str = "") -> None:
        """Append an op with weights.

        Args:
            name: as for `add`; otherwise conv1, where the number is that of the layer.
        """
        name = self._free_name(op, name, len(self.weights) + 1)
        self.ops[name], self.weights[name] = op, weights

    def _free_name(self, op: Op, wanted: str, number: int) -> str:
        base = f"{op.prefix}{number}"
        candidates = (wanted, base, *(f"{base}_{n}" for n in range(2, len(self.ops) + 3)))
        return next(n for n in candidates if is_valid_name(n) and n not in self.ops)

    def set_data(self, name: str, value: DataValue) -> None:
        """Record a field of `config.data`.

        Raises:
            InputError: it was set to another value before.
        """
        if self.data.setdefault(name, value) != value:
            raise InputError(
                f"two layers differ in {name}: {self.data[name]} and {value}; expected one for the "
                "model"
            )


def sequential_model(config: Config) -> SequentialConfig:
    """Return the config's model.

    Raises:
        InputError: it is no chain of ops.
    """
    if not isinstance(config.model, SequentialConfig):
        raise InputError(f"the model is {type(config.model).__name__}; expected a chain of ops")
    return config.model


def layer_names(model: SequentialConfig) -> list[str]:
    """Return the names of the ops with weights, in order."""
    return [name for name, _ in layers_of(model)]


def layers_of(model: SequentialConfig) -> Iterator[tuple[str, Conv | Dense]]:
    """Yield the ops with weights by name, in order."""
    for name, op in model.ops.items():
        if isinstance(op, Conv | Dense):
            yield name, op


def make_config(config: Config, net: ForeignNet) -> Config:
    """Return the validated config of an imported model.

    The model is the file's; its initial values, which matter for layers that are trained anew,
    are those of the config's layers with the same names. The model has as many columns as the
    layer with the most groups has groups.

    Args:
        config: whose other sections, and fields of `data` that the file does not state, are kept.

    Raises:
        InputError: a model that the config cannot hold.
    """
    if not net.weights:
        raise InputError("the file has no layers with weights")
    ours = config.model.ops if isinstance(config.model, SequentialConfig) else {}
    model = SequentialConfig(channels=config.model.channels, ops=copy.deepcopy(net.ops))
    if isinstance(config.model, SequentialConfig):
        model.init = config.model.init
    for name, op in layers_of(model):
        same = ours.get(name)
        if isinstance(same, Conv | Dense):
            op.std, op.bias = same.std, same.bias
        model.num_columns = max(model.num_columns, op.groups)
    classifier = model.ops[layer_names(model)[-1]]
    if isinstance(classifier, Dense):
        model.num_classes, classifier.features = classifier.features, 0
    changes = {f"data.{name}": value for name, value in net.data.items()}
    if "given_mean" in net.data:
        changes["data.mean"] = "given"
    return configs.with_changes(config, {"model": model, **changes})


def from_foreign(config: Config, net: ForeignNet) -> Params:
    """Return this program's parameters from those of another.

    Args:
        config: of `make_config`.

    Raises:
        InputError: a shape that does not follow from the layers before, or numbers that are not
            finite.
    """
    for name, shape in _foreign_shapes(config).items():
        weights = net.weights[name]
        for part, array, expected in (
            ("weights", weights.weight, shape),
            ("biases", weights.bias, shape[:1]),
        ):
            if array.shape != expected:
                raise InputError(f"{name} has {part} {array.shape}; expected {expected}")
    params: Params = {}
    templates = registry.abstract_variables(config)["params"]
    for name, layout in kernel_layouts(config).items():
        arrays = []
        for part, array in (
            ("weights", net.weights[name].weight),
            ("biases", net.weights[name].bias),
        ):
            with np.errstate(over="ignore"):  # of float64
                arrays.append(array.astype(np.float32))
            if not np.isfinite(arrays[-1]).all():
                raise InputError(f"{name} has {part} that are not finite; the file is damaged")
        bias = arrays[1].reshape(templates[name]["bias"].shape)
        params[name] = {"kernel": layout.from_foreign(arrays[0]), "bias": bias}
    return params


def _foreign_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every layer's weights in other programs."""
    model = sequential_model(config)
    sizes = spatial_sizes(model.ops, config.data.crop)
    side, inputs = config.data.crop, model.channels
    shapes: dict[str, tuple[int, ...]] = {}
    for name, op in model.ops.items():
        if isinstance(op, Conv):
            shapes[name] = (op.features, inputs // op.groups, op.kernel, op.kernel)
            inputs = op.features
        elif isinstance(op, Dense):
            features = op.features or model.num_classes
            shapes[name] = (features, inputs * side**2 // op.groups)
            inputs, side = features, 1
        side = sizes.get(name, side)
    return shapes


def to_foreign(config: Config, variables: Variables) -> ForeignNet:
    """Return the model of a config as other programs would hold it.

    A dense layer that sees its own column alone has the weights (units out, units in of a column),
    like a grouped convolution.

    Raises:
        InputError: the model is no chain of ops, or has columns without a convolution.
    """
    net, params = ForeignNet(), variables["params"]
    model, layouts = sequential_model(config), kernel_layouts(config)
    for name, op in copy.deepcopy(dict(model.ops)).items():
        if isinstance(op, Dense) and not op.features:
            op.features = model.num_classes
        net.ops[name] = op
        if isinstance(op, Conv | Dense):
            kernel, bias = (np.asarray(params[name][part]) for part in ("kernel", "bias"))
            net.weights[name] = Weights(layouts[name].to_foreign(kernel), bias.reshape(-1))
    return net


@dataclass(frozen=True)
class KernelLayout:
    """How one of this program's kernels is laid out.

    Attributes:
        shape: of the kernel.
        has_columns: whether its first axis is that of the columns.
        is_conv: or dense.
        by_input: of a dense kernel, whether its columns are those of its input.
        channels: of a column, where a dense layer flattens feature maps; 0 where its inputs are
            units.
        seen: columns side by side along the inputs of the weights in other programs.
    """

    shape: tuple[int, ...]
    has_columns: bool
    is_conv: bool
    by_input: bool
    channels: int
    seen: int

    def foreign_shape(self) -> tuple[int, ...]:
        """Return the shape of the weights in other programs."""
        columns, *inputs, out = self._column_shape()
        if self.is_conv:
            return (columns * out, inputs[2], *inputs[:2])
        return (out, columns * inputs[0]) if self.by_input else (columns * out, inputs[0])

    def to_foreign(self, kernel: np.ndarray) -> np.ndarray:
        """Return a kernel as the weights of other programs."""
        kernel = kernel.reshape(self._column_shape())
        if self.is_conv:
            weight = kernel.transpose(0, 4, 3, 1, 2)
            return np.ascontiguousarray(weight.reshape(self.foreign_shape()))
        if self.by_input:
            kernel = kernel.reshape(-1, self.shape[-1]).T
        else:
            kernel = kernel.transpose(0, 2, 1).reshape(self.foreign_shape())
        if self.channels:
            side = self._side()
            kernel = kernel.reshape(-1, self.seen, side, side, self.channels)
            kernel = kernel.transpose(0, 1, 4, 2, 3)
        return np.ascontiguousarray(kernel.reshape(self.foreign_shape()))

    def from_foreign(self, weight: np.ndarray) -> np.ndarray:
        """Return the weights of other programs as a kernel: the inverse of `to_foreign`."""
        columns, *inputs, out = self._column_shape()
        if self.is_conv:
            height, width, channels = inputs
            kernel = weight.reshape(columns, out, channels, height, width).transpose(0, 3, 4, 2, 1)
            return np.ascontiguousarray(kernel.reshape(self.shape))
        if self.channels:
            side = self._side()
            weight = weight.reshape(-1, self.seen, self.channels, side, side)
            weight = weight.transpose(0, 1, 3, 4, 2)
        if self.by_input:
            kernel = weight.reshape(out, -1).T
        else:
            kernel = weight.reshape(columns, out, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(kernel.reshape(self.shape))

    def _column_shape(self) -> tuple[int, ...]:
        """Return the shape with an axis of columns, of length 1 where the kernel has none."""
        return self.shape if self.has_columns else (1, *self.shape)

    def _side(self) -> int:
        """Return the pixels a side of the feature maps that a dense layer flattens."""
        return math.isqrt(self.foreign_shape()[1] // (self.seen * self.channels))


def kernel_layouts(config: Config) -> dict[str, KernelLayout]:
    """Return the layout of every layer's kernel, by its name.

    Raises:
        InputError: the model is no chain of ops, or has columns without a convolution.
    """
    model = sequential_model(config)
    has_columns = model.num_columns > 1
    params = registry.abstract_variables(config)["params"]
    layouts: dict[str, KernelLayout] = {}
    channels = 0 if has_columns else model.channels
    for name, op in layers_of(model):
        shape: tuple[int, ...] = params[name]["kernel"].shape
        if isinstance(op, Conv):
            layouts[name] = KernelLayout(shape, has_columns, True, False, 0, 1)
            channels = op.features // model.num_columns
            continue
        if not layouts and has_columns:
            raise InputError(
                f"{name} sees the image itself and the model has {model.num_columns} columns; "
                "expected convolutions first"
            )
        # As `layers.columns.ColumnDense` and `ColumnClassifier` decide.
        by_input = not op.features or (op.groups == 1 and shape[-1] == op.features)
        seen = model.num_columns if op.groups == 1 else 1
        layouts[name] = KernelLayout(shape, has_columns, False, by_input, channels, seen)
        channels = 0
    return layouts
