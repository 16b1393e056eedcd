"""AlexNet in NumPy and float64, by loops over columns, windows and channels.

Written from the definitions of the layers: the paper's section 3 and the 2012 program's
layers-145.cfg. It shares nothing with the package but the layout of the parameters:

    conv   kernel (columns, height, width, channels in, channels out), bias (columns, channels out)
    fc6    kernel (columns, a column's units in, all units out), bias (columns, units out)
    fc7    kernel (columns, all units in, a column's units out), bias (columns, units out)
    fc8    kernel (columns, a column's units in, classes), bias (classes,)

Units that come from feature maps are numbered by row, then by place in the row, then by channel.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Columns = list[np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A row of a model's table.

    Attributes:
        name: conv1 …; `ops` are the names of what follows it, in order.
        pad: pixels of zeros before and after.
        groups: 1 if each column sees both columns.
    """

    name: str
    ops: str = "relu1"
    stride: int = 1
    pad: tuple[int, int] = (1, 1)
    groups: int = 2


@dataclass(frozen=True)
class Table:
    """Convolutions, what follows each, and the constants of the normalizations.

    `alpha` is the coefficient of one square, after any division by the window size.
    """

    layers: list[Layer]
    alpha: float
    k: float = 2.0
    beta: float = 0.75
    radius: int = 2  # channels on either side
    pixel_alpha: float = 0.0
    dense: list[str] = field(default_factory=lambda: ["fc6", "fc7"])


PAPER = Table(
    [
        Layer("conv1", "relu1 norm1 pool1", stride=4, pad=(0, 3)),
        Layer("conv2", "relu2 norm2 pool2", pad=(2, 2)),
        Layer("conv3", "relu3", groups=1),
        Layer("conv4", "relu4"),
        Layer("conv5", "relu5 pool5"),
    ],
    alpha=1e-4,
)
RUN_145 = Table(
    [
        Layer("conv1", "norm1 pool1 relu1", stride=4, pad=(0, 3)),
        Layer("conv2", "relu2 norm2 rnorm2 pool2", pad=(2, 2)),
        Layer("conv3", "relu3", groups=1),
        Layer("conv4", "relu4"),
        Layer("conv5", "pool5 relu5"),
    ],
    alpha=1e-4 / 5,
    pixel_alpha=1e-3 / 25,
)


def forward(table: Table, params: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return every activation of one image (height, width, channels) by the name of its op, the
    columns side by side along the last axis."""
    columns = [image.astype(np.float64)] * len(params["conv1"]["bias"])
    seen: dict[str, Columns] = {}
    for layer in table.layers:
        if layer.groups == 1:
            columns = [np.concatenate(columns, axis=-1)] * len(columns)
        columns = seen[layer.name] = [
            convolve(x, params[layer.name]["kernel"][c], params[layer.name]["bias"][c], layer)
            for c, x in enumerate(columns)
        ]
        for op in layer.ops.split():
            columns = seen[op] = [OPS[op.rstrip("12345")](x, table) for x in columns]
    columns = [x.reshape(-1) for x in columns]
    for name in table.dense:
        kernel, bias = (params[name][kind].astype(np.float64) for kind in ("kernel", "bias"))
        if kernel.shape[1] == len(columns[0]):  # a column's units to all
            every = sum(x @ kernel[c] for c, x in enumerate(columns))
            width = bias.shape[1]
            columns = [every[c * width : (c + 1) * width] for c in range(len(columns))]
        else:
            everything = np.concatenate(columns)
            columns = [everything @ kernel[c] for c in range(len(columns))]
        columns = seen[name] = [x + bias[c] for c, x in enumerate(columns)]
        columns = seen[name.replace("fc", "relu")] = [np.maximum(x, 0) for x in columns]
        # Section 4.2, at test.
        columns = seen[name.replace("fc", "drop")] = [0.5 * x for x in columns]
    kernel, bias = (params["fc8"][kind].astype(np.float64) for kind in ("kernel", "bias"))
    logits = bias + sum(x @ kernel[c] for c, x in enumerate(columns))
    return {**{name: np.concatenate(xs, axis=-1) for name, xs in seen.items()}, "fc8": logits}


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, layer: Layer) -> np.ndarray:
    """Apply all kernels to each window in turn."""
    before, after = layer.pad
    padded = np.pad(x, [(before, after), (before, after), (0, 0)])
    side, kernel = kernel.shape[0], kernel.astype(np.float64)
    size = (len(padded) - side) // layer.stride + 1
    out = np.zeros((size, size, len(bias)))
    for row in range(size):
        for place in range(size):
            top, left = row * layer.stride, place * layer.stride
            window = padded[top : top + side, left : left + side]
            out[row, place] = np.tensordot(window, kernel, 3) + bias
    return out


def lrn(x: np.ndarray, table: Table) -> np.ndarray:
    """Section 3.3, channel by channel."""
    out = np.zeros_like(x)
    last = x.shape[-1] - 1
    for i in range(last + 1):
        squares = np.zeros(x.shape[:-1])
        for j in range(max(0, i - table.radius), min(last, i + table.radius) + 1):
            squares += x[..., j] ** 2
        out[..., i] = x[..., i] / (table.k + table.alpha * squares) ** table.beta
    return out


def within_channel_lrn(x: np.ndarray, table: Table) -> np.ndarray:
    """Each activation by the squares in the 5 × 5 around it in its channel, cut off at edges."""
    out = np.zeros_like(x)
    for row in range(x.shape[0]):
        for place in range(x.shape[1]):
            window = x[max(0, row - 2) : row + 3, max(0, place - 2) : place + 3]
            squares = (window**2).sum((0, 1))
            out[row, place] = x[row, place] / (1 + table.pixel_alpha * squares) ** 0.75
    return out


def pool(x: np.ndarray, _: Table) -> np.ndarray:
    """Section 3.4: windows of 3 × 3, two pixels apart, the last one cut off at the edge."""
    size = 1 + -(-(len(x) - 3) // 2)
    out = np.zeros((size, size, x.shape[-1]))
    for row in range(size):
        for place in range(size):
            window = x[2 * row : 2 * row + 3, 2 * place : 2 * place + 3]
            out[row, place] = window.max((0, 1))
    return out


OPS = {
    "relu": lambda x, _: np.maximum(x, 0),
    "norm": lrn,
    "rnorm": within_channel_lrn,
    "pool": pool,
}
