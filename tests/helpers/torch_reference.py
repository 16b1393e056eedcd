"""A small model with two columns, and the same model in PyTorch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_jax.config import Config, OptimizerConfig, sequential_model
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, Tanh
from alexnet_jax.models.sequential_config import SequentialConfig
from configs.alexnet import get_config


def small_config() -> Config:
    """Return the sample's recipe with a model of a few channels, not yet sealed.

    It has two columns, every kind of op, and every way in which columns meet or do not: conv3 and
    fc7 gather their inputs, fc6 adds up its outputs. conv1 and both pools overhang their edges.
    """
    config = get_config("sample")
    config.batch_size = 8
    config.data.crop = 24
    config.data.scale = 0.5
    config.data.mean = "image"
    config.model.num_classes = 10
    sequential_model(config).ops = dict(
        conv1=Conv(8, kernel=5, stride=2, padding=(0, 3)),  # 24 → 12 → 6 pixels
        relu1=ReLU(), norm1=LRN(size=3, alpha=0.4), pool1=MaxPool(),
        conv2=Conv(12, kernel=3, padding=(1, 1), groups=2, bias=0.1),  # 6 → 3
        relu2=ReLU(), norm2=LRN(size=3, alpha=0.4), pool2=MaxPool(),
        conv3=Conv(8, kernel=3, padding=(1, 1)),
        relu3=ReLU(),
        fc6=Dense(12, bias=0.1), relu6=ReLU(), drop6=Dropout(),
        fc7=Dense(12, bias=0.1), relu7=ReLU(), drop7=Dropout(),
        fc8=Dense(0),
    )  # fmt: skip
    return config


def conv_op(config: Config, name: str) -> Conv:
    """Return a convolution of the config's model."""
    op = sequential_model(config).ops[name]
    assert isinstance(op, Conv)
    return op


def dense_op(config: Config, name: str) -> Dense:
    """Return a fully-connected layer of the config's model."""
    op = sequential_model(config).ops[name]
    assert isinstance(op, Dense)
    return op


def make_one_column(config: Config) -> None:
    """Turn the model into one without groups, whose kernels have no axis of columns."""
    sequential_model(config).num_columns = 1
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.groups = 1


def random_params(config: Config, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Return parameters of a size that keeps the signal; NumPy draws, so nothing compiles."""
    rng, params = np.random.default_rng(seed), {}
    first = 0 if sequential_model(config).num_columns == 1 else 1
    for name, layer in registry.abstract_variables(config)["params"].items():
        shape, biases = layer["kernel"].shape, layer["bias"].shape
        kernel = rng.normal(0, (2 / math.prod(shape[first:-1])) ** 0.5, shape)
        params[name] = {"kernel": kernel, "bias": rng.normal(0, 0.1, biases)}
    return params


class TorchReference(torch.nn.Module):
    """The model in PyTorch: all columns concatenated, with groups where a layer sees one column."""

    def __init__(self, model: SequentialConfig, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.weights = torch.nn.ParameterDict(
            {name: torch.tensor(array) for name, array in torch_weights(model, params).items()}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, channels, height, width) to logits, as at test time."""
        for name, op in self.model.ops.items():
            x = self._op(name, op, x)
        return x

    def _op(self, name: str, op: Op, x: torch.Tensor) -> torch.Tensor:
        match op:
            case Conv():
                weight, bias = self._weights_of(name)
                x = F.pad(x, op.padding * 2)
                return F.conv2d(x, weight, bias, stride=op.stride, groups=op.groups)
            case Dense():
                weight, bias = self._weights_of(name)
                x = x.flatten(1)[..., None]
                return F.conv1d(x, weight[..., None], bias, groups=op.groups)[..., 0]
            case ReLU():
                return F.relu(x)
            case Tanh():
                return torch.tanh(x)
            case MaxPool():
                return F.max_pool2d(x, op.window, op.stride, ceil_mode=op.ceil_mode)
            case Dropout():
                return x if op.inverted else x * (1 - op.rate)
            case LRN():
                alpha = op.alpha if op.alpha_over_size else op.alpha * op.size
                groups = 1 if op.across_columns else self.model.num_columns
                channels = x.reshape(-1, x.shape[1] // groups, *x.shape[2:])
                return F.local_response_norm(channels, op.size, alpha, op.beta, op.k).reshape(
                    x.shape
                )
        raise AssertionError(f"an op that PyTorch does not have: {op}")

    def _weights_of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]


def train_in_torch(
    weights: list[torch.nn.Parameter],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    rates: list[float],
    optimizer: OptimizerConfig,
) -> list[float]:
    """Train by section 5's rule, written out, and ZFNet's limit of filters; return the losses.

    Args:
        weights: what is trained.
        loss: function from images and labels.
        batches: images and labels of each step.
        rates: learning rate of each step.
        optimizer: config of the optimizer, without multipliers.
    """
    decay, limit = optimizer.weight_decay, optimizer.max_filter_rms
    buffers = [torch.zeros_like(w) for w in weights]
    losses = []
    for (images, labels), rate in zip(batches, rates, strict=True):
        value = loss(images, labels)
        gradients = torch.autograd.grad(value, weights)
        losses.append(value.item())
        with torch.no_grad():
            for w, v, g in zip(weights, buffers, gradients, strict=True):
                v.mul_(0.9).sub_(decay * rate * w).sub_(rate * g)
                w.add_(v)
                if limit and w.ndim == 4:
                    for kernel in w:
                        rms = kernel.square().mean().sqrt()
                        if rms > limit:
                            kernel.mul_(limit / rms)
    return losses


def torch_weights(model: SequentialConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return parameters, or gradients, of our model in PyTorch's shapes: {"conv1_weight": …, …}."""
    weights: dict[str, np.ndarray] = {}
    channels = 0  # of one column, until they are flattened
    *_, last = model.ops
    for name, op in model.ops.items():
        if not isinstance(op, Conv | Dense):
            continue
        kernel = np.asarray(params[name]["kernel"])
        if model.num_columns == 1:
            kernel = kernel[None]
        if isinstance(op, Conv):
            channels = kernel.shape[-1]
            kernel = kernel.transpose(0, 4, 3, 1, 2)
            kernel = kernel.reshape(-1, *kernel.shape[2:])
        else:
            takes_all_columns = op.groups == 1 and name != last
            if takes_all_columns and kernel.shape[-1] == op.features:
                kernel = _gather_columns(kernel, model.num_columns)
            if channels:
                seen = model.num_columns if takes_all_columns else 1
                kernel = _channels_first(kernel, channels, seen)
                channels = 0
            if name == last:
                kernel = kernel.reshape(-1, kernel.shape[-1]).T
            else:
                kernel = kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])
        weights[f"{name}_weight"] = np.ascontiguousarray(kernel)
        weights[f"{name}_bias"] = np.array(params[name]["bias"]).reshape(-1)
    return weights


def _gather_columns(kernel: np.ndarray, columns: int) -> np.ndarray:
    """(column in, its units, all units out) to (column out, all units in, its units)."""
    kernel = kernel.reshape(*kernel.shape[:2], columns, -1).transpose(2, 0, 1, 3)
    return kernel.reshape(columns, -1, kernel.shape[-1])


def _channels_first(kernel: np.ndarray, channels: int, seen: int) -> np.ndarray:
    """A dense kernel's inputs from (seen, height, width, channels) to (seen, channels, …)."""
    columns, inputs, units = kernel.shape
    side = math.isqrt(inputs // (seen * channels))
    kernel = kernel.reshape(columns, seen, side, side, channels, units)
    return kernel.transpose(0, 1, 4, 2, 3, 5).reshape(columns, inputs, units)
