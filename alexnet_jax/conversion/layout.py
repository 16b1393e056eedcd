"""Convert weights between the layout of other programs and that of this one.

Weights of Caffe, ONNX and PyTorch have the shape (output channels, input channels of a group,
height, width), and their fully-connected layers flatten activations in the order (channels,
height, width). Here kernels have an axis of columns, if the model has several, and activations
are flattened in the order (column, height, width, channels); see `layers.columns`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import Conv, Dense, LocalConv, Op, parameter_ops, spatial_sizes
from alexnet_jax.models.sequential_config import SequentialConfig, is_valid_name
from alexnet_jax.pytree import Variables

Params = dict[str, dict[str, np.ndarray]]
DataValue = int | float | str | tuple[float, ...]


@dataclass(frozen=True)
class Weights:
    """The weights and biases of a layer in the layout of other programs.

    Attributes:
        weight: (output channels, input channels of a group, height, width), or (output units,
            input units of a group).
        bias: (output channels or units,).
    """

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class StatedData:
    """What a file states of the images that its model takes.

    Attributes:
        data: values of fields of `config.data`.
        mean_file: name of the file of the mean image; "" for none.
    """

    data: dict[str, DataValue] = field(default_factory=dict)
    mean_file: str = ""

    def set_data(self, name: str, value: DataValue) -> None:
        """Record the value of a field of `config.data`.

        Raises:
            InputError: the field has been set to another value.
        """
        if self.data.setdefault(name, value) != value:
            raise InputError(
                f"two layers differ in {name}: {self.data[name]} and {value}; expected one for the "
                "model"
            )


@dataclass
class ForeignModel(StatedData):
    """A sequential model with its weights in the layout of other programs.

    Attributes:
        ops: the ops by name, in order. `features` of the classifier is the number of classes.
        weights: weights of every `Conv` and `Dense` by its name, in the same order.
        data, mean_file: see `StatedData`.
    """

    ops: dict[str, Op] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

    def add(self, op: Op, name: str = "") -> None:
        """Append an op without weights.

        Args:
            op: the op.
            name: its name, if valid and unused; otherwise the op is named after its kind and the
                number of the layer before it, such as relu1.

        Raises:
            InputError: no layer with weights comes before the op.
        """
        if not self.weights:
            raise InputError(f"{name or type(op).__name__} comes before any convolution")
        self.ops[self._free_name(op, name, len(self.weights))] = op

    def add_layer(self, op: Conv | Dense, weights: Weights, name: str = "") -> None:
        """Append an op with weights.

        Args:
            op: the op.
            weights: its weights.
            name: its name, if valid and unused; otherwise the op is named after its kind and its
                number, such as conv1.
        """
        name = self._free_name(op, name, len(self.weights) + 1)
        self.ops[name], self.weights[name] = op, weights

    def _free_name(self, op: Op, wanted: str, number: int) -> str:
        """Return the wanted name if possible, else an unused one with the number of the layer."""
        base = f"{op.prefix}{number}"
        candidates = (wanted, base, *(f"{base}_{n}" for n in range(2, len(self.ops) + 3)))
        return next(n for n in candidates if is_valid_name(n) and n not in self.ops)


def shortest_decimal(number: float) -> float:
    """Return the shortest decimal number that rounds to a float32: 0.0001, not 9.99999974e-05."""
    return float(str(np.float32(number)))


def layer_names(model: SequentialConfig) -> list[str]:
    """Return the names of the ops with weights, in order."""
    return [name for name, _ in parameter_ops(model.ops)]


def convertible_layers(model: SequentialConfig) -> dict[str, Conv | Dense]:
    """Return the ops with weights by name, in order.

    Raises:
        InputError: one is a locally-connected layer, which other programs' files do not have.
    """
    layers: dict[str, Conv | Dense] = {}
    for name, op in parameter_ops(model.ops):
        if isinstance(op, LocalConv):
            raise InputError(
                f"{name} is a locally-connected layer, which Caffe, ONNX and torchvision do not "
                "have; expected a model without it, or a .safetensors file of this program"
            )
        layers[name] = op
    return layers


def make_imported_config(config: Config, foreign: ForeignModel) -> Config:
    """Return the validated config of an imported model.

    The ops are those of the file. Their initial values, which are used for layers that are
    initialized anew, are those of the config's ops with the same names. The number of columns is
    the largest number of groups.

    Args:
        config: config from which to take other sections, and the fields of `data` that the file
            does not state.
        foreign: the imported model.

    Raises:
        InputError: the config cannot represent the model.
    """
    if not foreign.weights:
        raise InputError("the file has no layers with weights")
    config_ops = config.model.ops if isinstance(config.model, SequentialConfig) else {}
    model = SequentialConfig(channels=config.model.channels, ops=copy.deepcopy(foreign.ops))
    if isinstance(config.model, SequentialConfig):
        model.init = config.model.init
    for name, op in convertible_layers(model).items():
        config_op = config_ops.get(name)
        if isinstance(config_op, Conv | Dense):
            op.std, op.bias = config_op.std, config_op.bias
        model.num_columns = max(model.num_columns, op.groups)
    classifier = model.ops[layer_names(model)[-1]]
    if isinstance(classifier, Dense):
        model.num_classes, classifier.features = classifier.features, 0
    return with_stated_data(config, model, foreign.data)


def with_stated_data(config: Config, model: ModelConfig, stated: Mapping[str, DataValue]) -> Config:
    """Return the validated config with a model and with what a file states of images.

    Args:
        config: the config to change.
        model: config of the model in the file.
        stated: values of fields of `config.data`.

    Raises:
        InputError: the config cannot represent them, or the crop is larger than the images.
    """
    changes = {f"data.{name}": value for name, value in stated.items()}
    changes |= {"data.mean": "given"} if "given_mean" in stated else {}
    changed = with_changes(config, {"model": model, **changes})
    crop, side = changed.data.crop, changed.data.image_size
    if crop > side:
        raise InputError(
            f"the model takes crops of {crop} pixels, but images are scaled to data.image_size="
            f"{side}; give --config=FILE with --config.data.image_size={crop} or more"
        )
    return changed


def from_foreign(config: Config, foreign: ForeignModel) -> Params:
    """Return the parameters of an imported model in the layout of this program.

    Args:
        config: config of the model, from `make_imported_config`.
        foreign: the imported model.

    Raises:
        InputError: a shape does not fit the layers before it, or numbers are not finite.
    """
    for name, shape in _foreign_shapes(config).items():
        weights = foreign.weights[name]
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
            ("weights", foreign.weights[name].weight),
            ("biases", foreign.weights[name].bias),
        ):
            arrays.append(to_float32(f"{name} has {part}", array))
        bias = arrays[1].reshape(templates[name]["bias"].shape)
        params[name] = {"kernel": layout.from_foreign(arrays[0]), "bias": bias}
    return params


def to_float32(what: str, array: np.ndarray) -> np.ndarray:
    """Return an array of a file in float32.

    Args:
        what: beginning of the messages, such as "conv1 has weights".
        array: the array.

    Raises:
        InputError: the numbers are integers or not finite.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{what} of type {array.dtype}; expected floating-point numbers, not quantized"
        )
    with np.errstate(over="ignore"):  # float64 may overflow to inf, which is checked
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{what} that are not finite; the file is damaged")
    return array


def _foreign_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of the weights of every layer in the layout of other programs."""
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


def to_foreign(config: Config, variables: Variables) -> ForeignModel:
    """Return a model in the layout of other programs.

    A dense layer with groups has weights (output units, input units of a column), like a grouped
    convolution.

    Raises:
        InputError: the model is not sequential, has columns without a convolution, or has a
            locally-connected layer.
    """
    foreign, params = ForeignModel(), variables["params"]
    model, layouts = sequential_model(config), kernel_layouts(config)
    for name, op in copy.deepcopy(dict(model.ops)).items():
        if isinstance(op, Dense) and not op.features:
            op.features = model.num_classes
        foreign.ops[name] = op
        if isinstance(op, Conv | Dense):
            kernel, bias = (np.asarray(params[name][part]) for part in ("kernel", "bias"))
            foreign.weights[name] = Weights(layouts[name].to_foreign(kernel), bias.reshape(-1))
    return foreign


@dataclass(frozen=True)
class KernelLayout:
    """The layout of a kernel of this program.

    Attributes:
        shape: shape of the kernel.
        has_columns: whether the first axis of the kernel is that of the columns.
        is_conv: whether the layer is a convolution; otherwise it is dense.
        by_input: whether the columns of a dense kernel split its inputs rather than its outputs.
        channels: channels per column of the activations that a dense layer flattens; 0 if its
            inputs are units.
        num_input_columns: number of columns along the input axis of the weights in the layout of
            other programs.
    """

    shape: tuple[int, ...]
    has_columns: bool
    is_conv: bool
    by_input: bool
    channels: int
    num_input_columns: int

    def foreign_shape(self) -> tuple[int, ...]:
        """Return the shape of the weights in the layout of other programs."""
        columns, *inputs, out = self._column_shape()
        if self.is_conv:
            return (columns * out, inputs[2], *inputs[:2])
        return (out, columns * inputs[0]) if self.by_input else (columns * out, inputs[0])

    def to_foreign(self, kernel: np.ndarray) -> np.ndarray:
        """Return a kernel in the layout of other programs."""
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
            kernel = kernel.reshape(-1, self.num_input_columns, side, side, self.channels)
            kernel = kernel.transpose(0, 1, 4, 2, 3)
        return np.ascontiguousarray(kernel.reshape(self.foreign_shape()))

    def from_foreign(self, weight: np.ndarray) -> np.ndarray:
        """Return the kernel for weights in the layout of other programs; inverts `to_foreign`."""
        columns, *inputs, out = self._column_shape()
        if self.is_conv:
            height, width, channels = inputs
            kernel = weight.reshape(columns, out, channels, height, width).transpose(0, 3, 4, 2, 1)
            return np.ascontiguousarray(kernel.reshape(self.shape))
        if self.channels:
            side = self._side()
            weight = weight.reshape(-1, self.num_input_columns, self.channels, side, side)
            weight = weight.transpose(0, 1, 3, 4, 2)
        if self.by_input:
            kernel = weight.reshape(out, -1).T
        else:
            kernel = weight.reshape(columns, out, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(kernel.reshape(self.shape))

    def _column_shape(self) -> tuple[int, ...]:
        """Return the shape with an axis of columns, of length 1 if the kernel has none."""
        return self.shape if self.has_columns else (1, *self.shape)

    def _side(self) -> int:
        """Return the side in pixels of the activations that a dense layer flattens."""
        return math.isqrt(self.foreign_shape()[1] // (self.num_input_columns * self.channels))


def kernel_layouts(config: Config) -> dict[str, KernelLayout]:
    """Return the layout of the kernel of every layer, by name.

    Raises:
        InputError: the model is not sequential, has columns without a convolution, or has a
            locally-connected layer.
    """
    model = sequential_model(config)
    has_columns = model.num_columns > 1
    params = registry.abstract_variables(config)["params"]
    layouts: dict[str, KernelLayout] = {}
    channels = 0 if has_columns else model.channels
    for name, op in convertible_layers(model).items():
        shape: tuple[int, ...] = params[name]["kernel"].shape
        if isinstance(op, Conv):
            layouts[name] = KernelLayout(shape, has_columns, True, False, 0, 1)
            channels = op.features // model.num_columns
            continue
        if not layouts and has_columns:
            raise InputError(
                f"the input of {name} is the image, and the model has {model.num_columns} columns; "
                "expected convolutions first"
            )
        # This is the choice that `layers.columns.ColumnDense` and `ColumnClassifier` make.
        by_input = not op.features or (op.groups == 1 and shape[-1] == op.features)
        num_input_columns = model.num_columns if op.groups == 1 else 1
        layouts[name] = KernelLayout(
            shape, has_columns, False, by_input, channels, num_input_columns
        )
        channels = 0
    return layouts
