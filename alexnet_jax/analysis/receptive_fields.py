"""Compute the receptive field of every op of a sequential model in pixels of its input."""

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    LocalConv,
    MaxPool,
    Op,
    ReLU,
    Tanh,
    WithinChannelLRN,
    spatial_sizes,
)


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of an op's outputs along one axis, the same vertically and horizontally.

    A field is the smallest interval of pixels outside which no pixel has an influence on the
    output. Within it some may have none either, such as those that a stride skips.

    Attributes:
        size: side of a field in pixels that is cut off by no edge.
        stride: distance in pixels between the fields of neighboring outputs.
        start: first pixel of the field of the first output, negative within the padding.
        bounds: (first pixel, last pixel + 1) of the field of every output, cut off at the edges
            of the image; (0, 0) of an output that depends on no pixel.
    """

    size: int
    stride: int
    start: int
    bounds: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """The windows of an op on its input along one axis, in units of that input.

    Attributes:
        size: side of a window.
        stride: distance between windows.
        padding: distance from the begin of the first window to the input.
    """

    size: int = 1
    stride: int = 1
    padding: int = 0


def compute_receptive_fields(ops: Mapping[str, Op], crop: int) -> dict[str, ReceptiveField]:
    """Return the receptive field of every op's outputs, by name.

    A fully-connected layer counts as a convolution whose kernel is as large as its input, so that
    its field is that of all outputs before it.

    Args:
        ops: ops of a sequential model, in order.
        crop: side of the model's input in pixels, data.crop.

    Raises:
        InputError: an op has no rule here, or the window of an op is larger than its input.
    """
    sizes, fields = spatial_sizes(ops, crop), dict[str, ReceptiveField]()
    field = field_of_pixels(crop)
    for name, op in ops.items():
        windows = _windows_of(name, op, len(field.bounds))
        field = apply_windows(field, windows, count=sizes.get(name, 1))
        fields[name] = field
    return fields


def _windows_of(name: str, op: Op, inputs: int) -> Windows:
    """Return the windows of an op whose input has `inputs` positions along an axis."""
    match op:
        case Conv() | LocalConv():
            return Windows(op.kernel, op.stride, op.padding[0])
        case MaxPool() | AvgPool():
            return Windows(op.window, op.stride)
        case WithinChannelLRN():
            return Windows(op.size, padding=op.size // 2)
        case Dense():
            return Windows(inputs)
        case ReLU() | Tanh() | LRN() | Dropout():
            return Windows()
    raise InputError(
        f"the receptive field of {name} is unknown: {type(op).__name__} has no rule in "
        "alexnet_jax/analysis/receptive_fields.py"
    )


def field_of_pixels(crop: int) -> ReceptiveField:
    """Return the field of the pixels of an image, each of which is its own."""
    return ReceptiveField(1, 1, 0, tuple((pixel, pixel + 1) for pixel in range(crop)))


def apply_windows(field: ReceptiveField, windows: Windows, count: int) -> ReceptiveField:
    """Return the field of `count` windows on outputs that have the given field."""
    bounds = []
    for index in range(count):
        begin = index * windows.stride - windows.padding
        inputs = field.bounds[max(begin, 0) : max(begin + windows.size, 0)]
        seen = [(first, end) for first, end in inputs if first < end]
        firsts, ends = [first for first, _ in seen], [end for _, end in seen]
        bounds.append((min(firsts, default=0), max(ends, default=0)))
    return ReceptiveField(
        size=field.size + (windows.size - 1) * field.stride,
        stride=field.stride * windows.stride,
        start=field.start - windows.padding * field.stride,
        bounds=tuple(bounds),
    )
