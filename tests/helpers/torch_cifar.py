"""The authors' networks for CIFAR-10 in PyTorch, row by row as in cuda-convnet's layer files.

Parameters have this program's shapes, so that they and their gradients can be compared directly:
convolutions (height, width, in, out), local layers (place, place, height, width, in, out) and
fully-connected layers (in, out), whose inputs are in the order (height, width, channels).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

# Kind, and for layers with weights: outputs and decay (wc). conv: 5 × 5, pad 2; local: 3 × 3, pad
# 1; pools: 3 × 3, stride 2; rnorm: size 3, scale 5e-5; cmrnorm: size 9, scale 0.001; pow 0.75.
Row = tuple[str, str] | tuple[str, str, int, float]
NETWORKS: dict[str, list[Row]] = {
    "80sec": [
        ("conv1", "conv", 32, 0.004), ("pool1", "max"), ("relu1", "relu"),
        ("conv2", "conv", 32, 0.004), ("relu2", "relu"), ("pool2", "avg"),
        ("conv3", "conv", 64, 0.004), ("relu3", "relu"), ("pool3", "avg"),
        ("fc64", "fc", 64, 0.03), ("relu4", "relu"),
        ("fc10", "fc", 10, 0.03),
    ],
    "18pct": [
        ("conv1", "conv", 32, 0.004), ("pool1", "max"), ("relu1", "relu"), ("rnorm1", "rnorm"),
        ("conv2", "conv", 32, 0.004), ("relu2", "relu"), ("pool2", "avg"), ("rnorm2", "rnorm"),
        ("conv3", "conv", 64, 0.004), ("relu3", "relu"), ("pool3", "avg"),
        ("fc10", "fc", 10, 1.0),
    ],
    "13pct": [
        ("conv1", "conv", 64, 0.0), ("relu1", "relu"), ("pool1", "max"),
        ("conv2", "conv", 64, 0.0), ("relu2", "relu"), ("pool2", "max"),
        ("local3", "local", 32, 0.004), ("relu3", "relu"),
        ("local4", "local", 32, 0.004), ("relu4", "relu"),
        ("fc10", "fc", 10, 0.004),
    ],
    "11pct": [
        ("conv1", "conv", 64, 0.0), ("relu1", "relu"), ("pool1", "max"), ("norm1", "cmrnorm"),
        ("conv2", "conv", 64, 0.0), ("relu2", "relu"), ("norm2", "cmrnorm"), ("pool2", "max"),
        ("local3", "local", 64, 0.004), ("relu3", "relu"),
        ("local4", "local", 32, 0.004), ("relu4", "relu"),
        ("fc10", "fc", 10, 0.01),
    ],
}  # fmt: skip


def forward(word: str, params: Mapping[str, Any], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every activation by name.

    Args:
        word: name of the network.
        params: parameters by layer, {"kernel": …, "bias": …}, as tensors.
        images: (batch, height, width, channels).

    Returns:
        (batch, height, width, channels) or (batch, units).
    """
    x, found = images.permute(0, 3, 1, 2), {}
    for name, kind, *_ in NETWORKS[word]:
        x = _apply(kind, x, params.get(name, {}))
        found[name] = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return found


def _apply(kind: str, x: torch.Tensor, layer: Mapping[str, torch.Tensor]) -> torch.Tensor:
    match kind:
        case "conv":
            return F.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], padding=2)
        case "local":
            kernel = layer["kernel"]
            height, width, side, _, channels, features = kernel.shape
            windows = F.unfold(x, side, padding=1)  # (batch, channels · side², places)
            weights = kernel.permute(4, 2, 3, 0, 1, 5).reshape(
                channels * side**2, height * width, features
            )
            y = torch.einsum("bwp,wpf->bfp", windows, weights).reshape(-1, features, height, width)
            return y + layer["bias"].permute(2, 0, 1)
        case "fc":
            if x.ndim == 4:
                x = x.permute(0, 2, 3, 1).flatten(1)
            return x @ layer["kernel"] + layer["bias"]
        case "relu":
            return F.relu(x)
        case "max":
            return F.max_pool2d(x, 3, 2, ceil_mode=True)
        case "avg":
            return F.avg_pool2d(x, 3, 2, ceil_mode=True, count_include_pad=False)
        case "rnorm":
            means = F.avg_pool2d(x.square(), 3, 1, padding=1, count_include_pad=True)
            return x / (1 + 0.00005 * means) ** 0.75
        case "cmrnorm":
            return F.local_response_norm(x, 9, alpha=0.001, beta=0.75, k=1)
    raise AssertionError(kind)


def minibatches(files: int, images: int, size: int) -> Iterator[range]:
    """Yield the images of each minibatch of an epoch over some files, by their number."""
    for file in range(files):
        start, end = file * images, (file + 1) * images
        for first in range(start, end, size):
            yield range(first, min(first + size, end))


def update(
    params: Mapping[str, Mapping[str, torch.Tensor]],
    incs: Mapping[str, Mapping[str, torch.Tensor]],
    word: str,
    eps_w: float,
    eps_b: float,
) -> None:
    """Change the parameters as cuda-convnet does: inc ← 0.9 inc − wc ε w + ε gradient, w ← w + inc.

    There, the gradient is that of the log-likelihood, here that of its negative.
    """
    decay = {row[0]: row[3] for row in NETWORKS[word] if len(row) == 4}
    for name, layer in params.items():
        for part, w in layer.items():
            inc, eps, wc = incs[name][part], eps_w, decay[name]
            if part == "bias":
                eps, wc = eps_b, 0.0
            assert w.grad is not None
            inc.mul_(0.9).sub_(wc * eps * w).sub_(eps * w.grad)
            w.add_(inc)
