"""The config of sequential models, and its checks.

A config lists the ops by name, in order. Names follow Caffe: conv1, relu1, norm1, pool1, …, fc8.
"""

import re
from dataclasses import dataclass, field

from alexnet_jax.errors import InputError
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    LayerOp,
    LocalConv,
    MaxPool,
    Op,
    WithinChannelLRN,
    parameter_ops,
    spatial_sizes,
)

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

    def has_communication(self) -> bool:
        """Return whether a hidden layer but the first takes the channels of all columns."""
        _, *hidden, _ = (op for _, op in parameter_ops(self.ops))
        return any(isinstance(op, Conv | Dense) and op.groups == 1 for op in hidden)

    def check_columns(self, devices: int) -> None:
        """See `ModelConfig`."""
        if self.num_columns % devices:
            raise InputError(
                f"parallel.columns={devices} devices cannot share model.num_columns="
                f"{self.num_columns} evenly"
            )
        _check_halo(self, devices)


def _check_sequential(model: SequentialConfig, crop: int) -> None:
    """Raise InputError if the ops do not form a model for crops of `crop` pixels."""
    if model.init not in INITIALIZERS:
        raise InputError(f"model.init is {model.init!r}; expected one of {', '.join(INITIALIZERS)}")
    _at_least_one("model", model.num_columns, "num_columns")
    classifier = _check_classifier(model)
    is_flat = False
    for index, (name, op) in enumerate(model.ops.items()):
        where = f"model.ops.{name}"
        if not is_valid_name(name):
            raise InputError(
                f"model.ops has the name {name!r}; expected a letter, then letters, digits and "
                '"_", and no name of Flax\'s own, such as "param"'
            )
        _check_op(where, op)
        if is_flat and isinstance(op, Conv | LocalConv | MaxPool | AvgPool | WithinChannelLRN):
            raise InputError(
                f"{where} is a {type(op).__name__} after a fully-connected layer, which has no "
                "pixels; expected convolutions first, then fully-connected layers"
            )
        is_flat = is_flat or isinstance(op, Dense)
        if isinstance(op, LayerOp):
            _check_groups(where, op, model.num_columns, first=index == 0)
            if op is not classifier:
                _check_features(where, op, model.num_columns)
    first_name, first_op = next(iter(model.ops.items()))
    splits_into_columns = isinstance(first_op, Conv) or first_op is classifier
    if model.num_columns > 1 and not splits_into_columns:
        raise InputError(
            f"model.ops begins with {first_name}: {first_op}; expected a convolution, which takes "
            f"the image as the input of all {model.num_columns} columns"
        )
    spatial_sizes(model.ops, crop)


def _check_classifier(model: SequentialConfig) -> Dense:
    """Return the last op; raise InputError if it is no classifier."""
    name, op = next(reversed(model.ops.items()), ("", None))
    if not isinstance(op, Dense) or op.features or op.groups != 1:
        raise InputError(
            f"model.ops ends with {name or 'nothing'}: {op}; expected a fully-connected layer, "
            "Dense, with features=0 (the classes) and groups=1"
        )
    return op


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
    """Raise InputError if a hyperparameter of an op is out of range."""
    if isinstance(op, LayerOp) and op.std < 0:
        raise InputError(f"{where}.std is {op.std}; expected 0 or more")
    if isinstance(op, Conv | LocalConv):
        _at_least_one(where, op.kernel, "kernel")
        _at_least_one(where, op.stride, "stride")
        if min(op.padding) < 0:
            raise InputError(f"{where}.padding is {op.padding}; expected 0 or more pixels")
    elif isinstance(op, LRN | WithinChannelLRN):
        if op.size < 1 or op.size % 2 == 0:
            raise InputError(f"{where}.size is {op.size}; expected an odd number, 1 or more")
        if op.k <= 0:
            raise InputError(f"{where}.k is {op.k}; expected more than 0")
        for name, value in (("alpha", op.alpha), ("beta", op.beta)):
            if value < 0:
                raise InputError(f"{where}.{name} is {value}; expected 0 or more")
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
    """Raise InputError if a layer cannot have its groups in a model with these columns."""
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


def _check_features(where: str, op: LayerOp, num_columns: int) -> None:
    """Raise InputError if the columns cannot share the features of a hidden layer."""
    _at_least_one(where, op.features, "features")
    if op.features % num_columns:
        raise InputError(
            f"{where}.features is {op.features}; expected a multiple of "
            f"model.num_columns={num_columns}"
        )


def _at_least_one(where: str, value: int, name: str) -> None:
    """Raise InputError for a number below 1."""
    if value < 1:
        raise InputError(f"{where}.{name} is {value}; expected 1 or more")
