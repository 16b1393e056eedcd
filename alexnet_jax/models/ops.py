"""Configs of models: the ops of a sequential model with their hyperparameters.

A config lists the ops by name, in order. Names follow Caffe: conv1, relu1, norm1, pool1, …, fc8.
`models/sequential.py` computes them.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section

INITIALIZERS = ("normal", "scaled", "glorot")
# Attributes of Flax modules and of `models.sequential.Sequential`, listed here because this module
# imports neither Flax nor JAX.
RESERVED_NAMES = frozenset(
    """
    apply bind clone config copy dtype get_variable has_rng has_variable init init_with_output
    is_initializing is_mutable_collection layout lazy_init make_rng module_paths name param parent
    path perturb put_variable scope setup sow tabulate unbind variable variables
    """.split()  # noqa: SIM905 - a list of these would take thirty lines
)


@dataclass
class Op(Section):
    """Base class of ops.

    Attributes:
        prefix: beginning of the usual names of such ops, before the number of the layer.
    """

    is_variant: ClassVar[bool] = True
    prefix: ClassVar[str]


@dataclass
class Conv(Op):
    """A convolution with square kernels, and its bias.

    Attributes:
        features: number of output channels of all groups.
        kernel: side of the kernels in pixels.
        stride: distance between windows in pixels.
        padding: pixels of zeros before and after the input, both vertically and horizontally.
        groups: 1, or the number of the model's columns, so that each column takes only its own
            channels as input.
        std: standard deviation of the initial kernel if the model's init is "normal".
        bias: initial value of the biases.
    """

    prefix: ClassVar[str] = "conv"
    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    std: float = 0.01
    bias: float = 0.0


@dataclass
class LocalConv(Op):
    """A locally-connected layer: a convolution with other weights and biases at every place.

    A model with one has a single column.

    Attributes:
        features, kernel, stride, padding, std, bias: see `Conv`.
    """

    prefix: ClassVar[str] = "local"
    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    std: float = 0.01
    bias: float = 0.0


@dataclass
class Dense(Op):
    """A fully-connected layer, which flattens its input in the order (height, width, channels).

    Attributes:
        features: number of output units of all groups; 0 in the last layer, which has one unit
            per class.
        groups, std, bias: see `Conv`.
    """

    prefix: ClassVar[str] = "fc"
    features: int
    groups: int = 1
    std: float = 0.01
    bias: float = 0.0


@dataclass
class ReLU(Op):
    """Rectified linear activation, max(0, x)."""

    prefix: ClassVar[str] = "relu"


@dataclass
class Tanh(Op):
    """Hyperbolic tangent activation, tanh(x)."""

    prefix: ClassVar[str] = "tanh"


@dataclass
class LRN(Op):
    """Local response normalization across neighboring channels (section 3.3 of the paper).

    Attributes:
        size: number of channels in a window, odd.
        k, alpha, beta: parameters of x / (k + alpha · Σ x²) ^ beta.
        alpha_over_size: divide alpha by `size`, as Caffe, ONNX and PyTorch do.
        across_columns: let windows extend into the neighboring columns, as those programs do; in
            2012 each column was normalized over its own channels.
    """

    prefix: ClassVar[str] = "norm"
    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    alpha_over_size: bool = False
    across_columns: bool = False

    def coefficient(self) -> float:
        """Return the coefficient of each squared activation."""
        return self.alpha / self.size if self.alpha_over_size else self.alpha


@dataclass
class WithinChannelLRN(Op):
    """Response normalization over a square window of pixels within each channel.

    This is `rnorm` of cuda-convnet and WITHIN_CHANNEL of Caffe. The 2012 program has it in layer 2
    (layers/layers-145.cfg); the paper does not mention it.

    Attributes:
        size: side of the window in pixels, odd.
        k, alpha, beta: see `LRN`.
        alpha_over_size: divide alpha by size².
    """

    prefix: ClassVar[str] = "rnorm"
    size: int = 5
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75
    alpha_over_size: bool = True

    def coefficient(self) -> float:
        """Return the coefficient of each squared activation."""
        return self.alpha / self.size**2 if self.alpha_over_size else self.alpha


@dataclass
class MaxPool(Op):
    """Max pooling (section 3.4).

    Attributes:
        window: side of the windows in pixels.
        stride: distance between windows in pixels, at most `window`.
        ceil_mode: round the number of windows up and clip the last one, as the 2012 program and
            Caffe do; False omits a window that overhangs, as PyTorch does by default.
    """

    prefix: ClassVar[str] = "pool"
    window: int = 3
    stride: int = 2
    ceil_mode: bool = True


@dataclass
class AvgPool(Op):
    """Average pooling.

    Attributes:
        window, stride: see `MaxPool`.
        ceil_mode: round the number of windows up, and divide the sum of the last one by the number
            of pixels in it, as cuda-convnet does; False omits a window that overhangs.
    """

    prefix: ClassVar[str] = "pool"
    window: int = 3
    stride: int = 2
    ceil_mode: bool = True


@dataclass
class Dropout(Op):
    """Dropout (section 4.2).

    Attributes:
        rate: probability that an activation is dropped.
        inverted: divide the kept activations by 1 - rate while training and do nothing at test
            time, as Caffe and PyTorch do; False multiplies by 1 - rate at test time, as the paper
            does.
    """

    prefix: ClassVar[str] = "drop"
    rate: float = 0.5
    inverted: bool = False


LayerOp = Conv | LocalConv | Dense  # the ops that have parameters


@dataclass
class ModelConfig(Section):
    """Base class of the configs of all model families.

    Attributes:
        channels: number of channels of the input images.
        num_classes: number of classes; 0 takes that of the data.
    """

    is_variant: ClassVar[bool] = True
    channels: int = 3
    num_classes: int = 0

    def check(self, crop: int) -> None:
        """Raise InputError if the fields do not describe a model for crops of `crop` pixels."""
        raise NotImplementedError

    def columns(self) -> int:
        """Return the number of columns, 1 for a model without groups."""
        return 1

    def check_columns(self, devices: int) -> None:
        """Raise InputError if the columns cannot be split over the devices.

        Args:
            devices: size of the mesh axis "column".
        """
        if devices > 1:
            raise InputError(
                f"parallel.columns={devices}: a {type(self).__name__} has no columns to split over "
                f"devices; expected parallel.columns=1, and parallel.data={devices} to split the "
                "batch"
            )


@dataclass
class SequentialConfig(ModelConfig):
    """The config of a sequential model: a chain of ops from images to logits.

    Attributes:
        num_columns: number of columns, groups of layers with kernels of their own that can be
            placed on different devices (section 3.2); 1 for a model without groups.
        init: "normal" draws kernels from N(0, std²) with the std of each op, as the paper does;
            "scaled" draws them from N(0, 2 / fan-in), which narrow models need; "glorot" draws
            them uniformly from ±√(6 / (fan-in + fan-out)) (Glorot and Bengio 2010, equation 16).
        ops: the ops by name, in order; the last one is the classifier.
    """

    num_columns: int = 1
    init: str = "normal"
    ops: dict[str, Op] = field(default_factory=dict)

    def check(self, crop: int) -> None:
        """See `ModelConfig`."""
        _check_sequential(self, crop)

    def columns(self) -> int:
        """See `ModelConfig`."""
        return self.num_columns

    def check_columns(self, devices: int) -> None:
        """See `ModelConfig`."""
        if self.num_columns % devices:
            raise InputError(
                f"parallel.columns={devices} devices cannot share model.num_columns="
                f"{self.num_columns} evenly"
            )
        _check_halo(self, devices)


def blocks(ops: Mapping[str, Op]) -> dict[str, dict[str, Op]]:
    """Group ops into layers: an op with parameters and the ops that follow it, by its name."""
    found: dict[str, dict[str, Op]] = {}
    for name, op in ops.items():
        if isinstance(op, LayerOp):
            found[name] = {}
        if found:
            next(reversed(found.values()))[name] = op
    return found


def parameter_ops(ops: Mapping[str, Op]) -> Iterator[tuple[str, LayerOp]]:
    """Yield (name, op) for the ops that have parameters, in order."""
    for name, op in ops.items():
        if isinstance(op, LayerOp):
            yield name, op


def free_name(op: Op, layer: str, taken: Collection[str]) -> str:
    """Return a name for an op that follows a layer, such as relu1 after conv1.

    Args:
        layer: name of the op with parameters before it.
        taken: names of other ops. If relu6 is among them, the ReLU of conv6 is named relu_conv6.
    """
    usual = op.prefix + layer.removeprefix("conv").removeprefix("local").removeprefix("fc")
    return next(name for name in (usual, f"{op.prefix}_{layer}") if name not in taken)


def _check_sequential(model: SequentialConfig, crop: int) -> None:
    """Raise InputError if the ops do not form a model for crops of `crop` pixels."""
    if model.init not in INITIALIZERS:
        raise InputError(f"model.init is {model.init!r}; expected one of {', '.join(INITIALIZERS)}")
    _at_least_one("model", model.num_columns, "num_columns")
    last = next(reversed(model.ops.items()), ("", None))
    if not isinstance(last[1], Dense) or last[1].features or last[1].groups != 1:
        raise InputError(
            f"model.ops ends with {last[0] or 'nothing'}: {last[1]}; expected a fully-connected "
            "layer, Dense, with features=0 (the classes) and groups=1"
        )
    flat = False
    for index, (name, op) in enumerate(model.ops.items()):
        where = f"model.ops.{name}"
        if not is_valid_name(name):
            raise InputError(
                f"model.ops has the name {name!r}; expected a letter, then letters, digits and "
                '"_", and no name of Flax\'s own, such as "param"'
            )
        _check_op(where, op)
        if flat and isinstance(op, Conv | LocalConv | MaxPool | AvgPool | WithinChannelLRN):
            raise InputError(
                f"{where} is a {type(op).__name__} after a fully-connected layer, which has no "
                "pixels; expected convolutions first, then fully-connected layers"
            )
        flat = flat or isinstance(op, Dense)
        if isinstance(op, LayerOp):
            _check_groups(where, op, model.num_columns, first=index == 0)
            if op is not last[1]:
                _at_least_one(where, op.features, "features")
                if op.features % model.num_columns:
                    raise InputError(
                        f"{where}.features is {op.features}; expected a multiple of "
                        f"model.num_columns={model.num_columns}"
                    )
    first_name, first_op = next(iter(model.ops.items()))
    splits_into_columns = isinstance(first_op, Conv) or first_op is last[1]
    if model.num_columns > 1 and not splits_into_columns:
        raise InputError(
            f"model.ops begins with {first_name}: {first_op}; expected a convolution, which takes "
            f"the image as the input of all {model.num_columns} columns"
        )
    spatial_sizes(model.ops, crop)


def is_valid_name(name: str) -> bool:
    """Return whether an op can have this name.

    The name is part of the paths of the op's parameters and an attribute of the model's Flax
    module, so it must not be an attribute of all Flax modules.
    """
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None and name not in RESERVED_NAMES


def _check_halo(model: SequentialConfig, devices: int) -> None:
    """Raise InputError if the window of an LRN across columns extends beyond neighboring devices.

    Args:
        devices: number of devices over which the columns are split.
    """
    channels = model.channels
    for name, op in model.ops.items():
        if isinstance(op, LayerOp):
            channels = op.features
        if not isinstance(op, LRN) or not op.across_columns or devices == 1:
            continue
        if channels // devices < op.size // 2:
            raise InputError(
                f"model.ops.{name}.size={op.size} across columns reaches {op.size // 2} channels "
                f"far, and a device holds {channels // devices}; lower parallel.columns"
            )


def _check_op(where: str, op: Op) -> None:
    if isinstance(op, Conv | LocalConv):
        _at_least_one(where, op.kernel, "kernel")
        _at_least_one(where, op.stride, "stride")
        if min(op.padding) < 0:
            raise InputError(f"{where}.padding is {op.padding}; expected 0 or more pixels")
    elif isinstance(op, LRN | WithinChannelLRN):
        if op.size < 1 or op.size % 2 == 0:
            raise InputError(f"{where}.size is {op.size}; expected an odd number, 1 or more")
    elif isinstance(op, MaxPool | AvgPool):
        _at_least_one(where, op.window, "window")
        _at_least_one(where, op.stride, "stride")
        if op.stride > op.window:
            raise InputError(
                f"{where}.stride is {op.stride}; expected at most the window, {op.window}"
            )
    elif isinstance(op, Dropout) and not 0 <= op.rate < 1:
        raise InputError(f"{where}.rate={op.rate}; expected from 0 to below 1")


def _check_groups(where: str, op: LayerOp, num_columns: int, *, first: bool) -> None:
    if isinstance(op, LocalConv):
        if num_columns > 1:
            raise InputError(
                f"{where} is a LocalConv in a model of {num_columns} columns, which it cannot "
                "split; expected model.num_columns=1"
            )
        return
    if op.groups not in (1, num_columns):
        raise InputError(
            f"{where}.groups is {op.groups}; expected 1, or {num_columns} as the model has columns "
            "(model.num_columns)"
        )
    if first and op.groups != 1:
        raise InputError(f"{where}.groups is {op.groups}; expected 1, since its input is the image")


def _at_least_one(where: str, value: int, name: str) -> None:
    if value < 1:
        raise InputError(f"{where}.{name} is {value}; expected 1 or more")


def spatial_sizes(ops: Mapping[str, Op], size: int) -> dict[str, int]:
    """Return the side in pixels of the output of every op before the first `Dense`, by name.

    Args:
        size: side of the image in pixels, data.crop.

    Raises:
        InputError: the window of an op is larger than its padded input.
    """
    crop, sizes = size, dict[str, int]()
    for name, op in ops.items():
        if isinstance(op, Dense):
            break
        if isinstance(op, Conv | LocalConv):
            padded = size + sum(op.padding)
            _check_fits(name, op.kernel, padded, crop)
            size = 1 + (padded - op.kernel) // op.stride
        elif isinstance(op, MaxPool | AvgPool):
            _check_fits(name, op.window, size, crop)
            extent = size - op.window
            size = 1 + (-(-extent // op.stride) if op.ceil_mode else extent // op.stride)
        sizes[name] = size
    return sizes


def _check_fits(name: str, window: int, size: int, crop: int) -> None:
    if window > size:
        raise InputError(
            f"data.crop={crop} is too small for the model: {name} has a window of "
            f"{window}×{window} and an input of {size}×{size} pixels"
        )
