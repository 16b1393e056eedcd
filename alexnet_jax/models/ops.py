"""The ops of sequential models as data: their hyperparameters, names, and output sizes.

`models/sequential.py` computes them.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section


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


def blocks(ops: Mapping[str, Op]) -> dict[str, dict[str, Op]]:
    """Group ops into layers: an op with parameters and the ops that follow it, by its name."""
    found: dict[str, dict[str, Op]] = {}
    for name, op in ops.items():
        if isinstance(op, LayerOp):
            found[name] = {}
        if found:
            next(reversed(found.values()))[name] = op
    return found


def join_blocks(layers: Mapping[str, Mapping[str, Op]]) -> dict[str, Op]:
    """Return the ops of several `blocks` in one mapping, in order."""
    ops: dict[str, Op] = {}
    for block in layers.values():
        assert not ops.keys() & block.keys()
        ops.update(block)
    return ops


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
    """Raise InputError for a window larger than its padded input."""
    if window > size:
        raise InputError(
            f"data.crop={crop} is too small for the model: {name} has a window of "
            f"{window}×{window} and an input of {size}×{size} pixels"
        )
