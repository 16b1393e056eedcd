"""The ops of a sequential model, as data: what its config lists, in order and by name.

Names are Caffe's: conv1, relu1, norm1, pool1, …, fc8. Every op carries its own hyperparameters.
`models/sequential.py` computes them.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section

INITIALIZERS = ("normal", "scaled")
# Attributes of Flax modules and of `models.sequential.Sequential`. Listed, since this module loads
# neither Flax nor JAX.
RESERVED_NAMES = frozenset(
    """
    apply bind clone config copy dtype get_variable has_rng has_variable init init_with_output
    is_initializing is_mutable_collection layout lazy_init make_rng module_paths name param parent
    path perturb put_variable scope setup sow tabulate unbind variable variables
    """.split()  # noqa: SIM905 - a list of these would take thirty lines
)


@dataclass
class Op(Section):
    """One step from images to logits.

    Attributes:
        prefix: of the usual names of such ops, after which stands the number of their layer.
    """

    is_variant: ClassVar[bool] = True
    prefix: ClassVar[str]


@dataclass
class Conv(Op):
    """A convolution with square kernels, and its bias.

    Attributes:
        features: output channels, of all groups together.
        kernel: pixels a side.
        stride: pixels between windows.
        padding: pixels of zeros before and after, in both directions.
        groups: 1 sees all input channels; as many as the model has columns: each its own column.
        std: of the initial kernel, where the model's init is "normal".
        bias: its initial value.
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
class Dense(Op):
    """A fully-connected layer, which flattens feature maps as (height, width, channels).

    Attributes:
        features: output units, of all groups together; 0 in the last one: the classes.
        groups, std, bias: as in `Conv`.
    """

    prefix: ClassVar[str] = "fc"
    features: int
    groups: int = 1
    std: float = 0.01
    bias: float = 0.0


@dataclass
class ReLU(Op):
    """max(0, x)."""

    prefix: ClassVar[str] = "relu"


@dataclass
class Tanh(Op):
    """tanh(x)."""

    prefix: ClassVar[str] = "tanh"


@dataclass
class LRN(Op):
    """Local response normalization across neighboring channels (section 3.3 of the paper).

    Attributes:
        size: channels in a window, odd.
        k, alpha, beta: of x / (k + alpha · Σ x²) ^ beta.
        alpha_over_size: divide alpha by `size`, as Caffe, ONNX and PyTorch do.
        across_columns: let the window reach over the boundary between columns, as those programs
            do; in 2012 each column was normalized over its own channels.
    """

    prefix: ClassVar[str] = "norm"
    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    alpha_over_size: bool = False
    across_columns: bool = False

    def coefficient(self) -> float:
        """Return the factor of each squared activation."""
        return self.alpha / self.size if self.alpha_over_size else self.alpha


@dataclass
class WithinChannelLRN(Op):
    """Response normalization over a square of pixels within each channel.

    cuda-convnet's rnorm, which the 2012 program has in layer 2 (layers/layers-145.cfg) and the
    paper nowhere; Caffe's WITHIN_CHANNEL.

    Attributes:
        size: pixels a side of the window, odd.
        k, alpha, beta: as in `LRN`.
        alpha_over_size: divide alpha by size².
    """

    prefix: ClassVar[str] = "rnorm"
    size: int = 5
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75
    alpha_over_size: bool = True

    def coefficient(self) -> float:
        """Return the factor of each squared activation."""
        return self.alpha / self.size**2 if self.alpha_over_size else self.alpha


@dataclass
class MaxPool(Op):
    """Max pooling (section 3.4).

    Attributes:
        window: pixels a side; stride: pixels between windows, at most `window`.
        ceil_mode: round the number of windows up and clip the last one, as the 2012 program and
            Caffe do; False leaves out a window that overhangs, as PyTorch does by default.
    """

    prefix: ClassVar[str] = "pool"
    window: int = 3
    stride: int = 2
    ceil_mode: bool = True


@dataclass
class Dropout(Op):
    """Dropout (section 4.2).

    Attributes:
        rate: the probability that a unit is dropped.
        inverted: divide what survives by 1 - rate while training and leave the test alone, as
            Caffe and PyTorch do; False multiplies by 1 - rate at test, as the paper.
    """

    prefix: ClassVar[str] = "drop"
    rate: float = 0.5
    inverted: bool = False


@dataclass
class ModelConfig(Section):
    """What the configs of all model families have.

    Attributes:
        channels: of the images.
        num_classes: outputs of the model; 0 takes the number that the data have.
    """

    is_variant: ClassVar[bool] = True
    channels: int = 3
    num_classes: int = 0

    def check(self, crop: int) -> None:
        """Raise InputError for fields that do not make a model for crops of `crop` pixels."""
        raise NotImplementedError

    def columns(self) -> int:
        """Return the number of columns, 1 for a model without groups."""
        return 1

    def check_columns(self, devices: int) -> None:
        """Raise InputError where devices cannot share the columns.

        Args:
            devices: of the mesh's column axis.
        """
        if self.columns() % devices:
            raise InputError(
                f"parallel.columns={devices} devices cannot share model.num_columns="
                f"{self.columns()} evenly"
            )


@dataclass
class SequentialConfig(ModelConfig):
    """A chain of ops.

    Attributes:
        num_columns: parts of the model, each with its own kernels, which can lie on devices of
            their own (section 3.2); 1 for a model without groups.
        init: "normal" draws kernels from N(0, std²) with each op's std, as the paper; "scaled"
            from N(0, 2 / inputs of a unit), which narrow models need.
        ops: by name, in order; the last one is the classifier.
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
        super().check_columns(devices)
        _check_halo(self, devices)


def blocks(ops: Mapping[str, Op]) -> dict[str, dict[str, Op]]:
    """Return every op with parameters together with the ops that follow it, by its name."""
    found: dict[str, dict[str, Op]] = {}
    for name, op in ops.items():
        if isinstance(op, Conv | Dense):
            found[name] = {}
        if found:
            next(reversed(found.values()))[name] = op
    return found


def free_name(op: Op, layer: str, taken: Collection[str]) -> str:
    """Return a name for an op that follows a layer, such as relu1 after conv1.

    Args:
        layer: the name of the op with parameters before it.
        taken: names that other ops have; if relu6 is one, conv6's ReLU is called relu_conv6.
    """
    usual = op.prefix + layer.removeprefix("conv").removeprefix("fc")
    return next(name for name in (usual, f"{op.prefix}_{layer}") if name not in taken)


def _check_sequential(model: SequentialConfig, crop: int) -> None:
    """Raise InputError for ops that do not make a model for crops of `crop` pixels."""
    if model.init not in INITIALIZERS:
        raise InputError(f"model.init is {model.init!r}; expected {' or '.join(INITIALIZERS)}")
    _at_least_one("model", model.num_columns, "num_columns")
    last = next(reversed(model.ops.items()), ("", None))
    if not isinstance(last[1], Dense) or last[1].features or last[1].groups != 1:
        raise InputError(
            f"model.ops ends with {last[0] or 'nothing'}: {last[1]}; expected a fully-connected "
            "layer, Dense, with features=0 (the classes) and groups=1"
        )
    flat = False
    for place, (name, op) in enumerate(model.ops.items()):
        where = f"model.ops.{name}"
        if not is_valid_name(name):
            raise InputError(
                f"model.ops has the name {name!r}; expected a letter, then letters, digits and "
                '"_", and no name of Flax\'s own, such as "param"'
            )
        _check_op(where, op)
        if flat and isinstance(op, Conv | MaxPool | WithinChannelLRN):
            raise InputError(
                f"{where} is a {type(op).__name__} after a fully-connected layer, which has no "
                "pixels; expected convolutions first, then fully-connected layers"
            )
        flat = flat or isinstance(op, Dense)
        if isinstance(op, Conv | Dense):
            _check_groups(where, op, model.num_columns, first=place == 0)
            if op is not last[1]:
                _at_least_one(where, op.features, "features")
                if op.features % model.num_columns:
                    raise InputError(
                        f"{where}.features is {op.features}; expected a multiple of "
                        f"model.num_columns={model.num_columns}"
                    )
    first_name, first_op = next(iter(model.ops.items()))
    sees_image_once = isinstance(first_op, Conv) or first_op is last[1]
    if model.num_columns > 1 and not sees_image_once:
        raise InputError(
            f"model.ops begins with {first_name}: {first_op}; expected a convolution, which sees "
            f"the image once for all of the {model.num_columns} columns"
        )
    spatial_sizes(model.ops, crop)


def is_valid_name(name: str) -> bool:
    """Return whether an op can have this name.

    An op's parameters are at a path of names, and its Flax module is an attribute of the model's,
    so that a name must not be one of Flax's own.
    """
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None and name not in RESERVED_NAMES


def _check_halo(model: SequentialConfig, devices: int) -> None:
    """Raise InputError where an LRN across columns reaches beyond a neighboring device.

    Args:
        devices: that share the columns.
    """
    channels = model.channels
    for name, op in model.ops.items():
        if isinstance(op, Conv | Dense):
            channels = op.features
        if not isinstance(op, LRN) or not op.across_columns or devices == 1:
            continue
        if channels // devices < op.size // 2:
            raise InputError(
                f"model.ops.{name}.size={op.size} across columns reaches {op.size // 2} channels "
                f"far, and a device holds {channels // devices}; lower parallel.columns"
            )


def _check_op(where: str, op: Op) -> None:
    if isinstance(op, Conv):
        _at_least_one(where, op.kernel, "kernel")
        _at_least_one(where, op.stride, "stride")
        if min(op.padding) < 0:
            raise InputError(f"{where}.padding is {op.padding}; expected 0 or more pixels")
    elif isinstance(op, LRN | WithinChannelLRN):
        if op.size < 1 or op.size % 2 == 0:
            raise InputError(f"{where}.size is {op.size}; expected an odd number, 1 or more")
    elif isinstance(op, MaxPool):
        _at_least_one(where, op.window, "window")
        _at_least_one(where, op.stride, "stride")
        if op.stride > op.window:
            raise InputError(
                f"{where}.stride is {op.stride}; expected at most the window, {op.window}"
            )
    elif isinstance(op, Dropout) and not 0 <= op.rate < 1:
        raise InputError(f"{where}.rate={op.rate}; expected from 0 to below 1")


def _check_groups(where: str, op: Conv | Dense, num_columns: int, *, first: bool) -> None:
    if op.groups not in (1, num_columns):
        raise InputError(
            f"{where}.groups is {op.groups}; expected 1, or {num_columns} as the model has columns "
            "(model.num_columns)"
        )
    if first and op.groups != 1:
        raise InputError(f"{where}.groups is {op.groups}; expected 1, since it sees the image")


def _at_least_one(where: str, value: int, name: str) -> None:
    if value < 1:
        raise InputError(f"{where}.{name} is {value}; expected 1 or more")


def spatial_sizes(ops: Mapping[str, Op], size: int) -> dict[str, int]:
    """Return the pixels a side of every op's output before the first fully-connected layer.

    Args:
        size: pixels a side of the image, data.crop.

    Raises:
        InputError: an op whose window does not fit into its input.
    """
    crop, sizes = size, dict[str, int]()
    for name, op in ops.items():
        if isinstance(op, Dense):
            break
        if isinstance(op, Conv):
            padded = size + sum(op.padding)
            _check_fits(name, op.kernel, padded, crop)
            size = 1 + (padded - op.kernel) // op.stride
        elif isinstance(op, MaxPool):
            _check_fits(name, op.window, size, crop)
            spare = size - op.window
            size = 1 + (-(-spare // op.stride) if op.ceil_mode else spare // op.stride)
        sizes[name] = size
    return sizes


def _check_fits(name: str, window: int, size: int, crop: int) -> None:
    if window > size:
        raise InputError(
            f"data.crop={crop} is too small for the model: {name} has a window of "
            f"{window}×{window} and an input of {size}×{size} pixels"
        )
