"""A small net with two columns, and the same net as one would write it in PyTorch."""

import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict

from alexnet_jax import network
from alexnet_jax.models.alexnet import Conv, Dense, ModelConfig

CONFIG = Path(__file__).parents[1] / "configs" / "alexnet.py"


def config_module() -> dict[str, Any]:
    """What configs/alexnet.py defines."""
    return runpy.run_path(str(CONFIG))


def small_config() -> ConfigDict:
    """The sample's recipe with a net of a few maps.

    Two columns, every step, and every way in which columns meet or do not: conv3 and fc7 gather
    their inputs, fc6 adds up its outputs. conv1 and both pools overhang their edges.
    """
    module = config_module()
    conv, dense, steps = module["conv"], module["dense"], ("relu", "lrn", "pool")
    config = module["get_config"]("sample")
    config.batch_size = 8
    config.model.classes = 10
    config.data.crop = 24
    config.data.scale = 0.5
    config.data.mean = "image"
    config.model.dropout = 0.5
    config.model.lrn.size = 3
    config.model.layers = ConfigDict(
        dict(
            conv1=conv(8, 5, stride=2, padding=(0, 3), after=steps),  # 24 → 12 → 6 pixels
            conv2=conv(12, 3, bias=0.1, after=steps),  # 6 → 3
            conv3=conv(8, 3, sees="both"),
            fc6=dense(12, bias=0.1),
            fc7=dense(12, bias=0.1),
            fc8=dense(0, bias=0.0, after=()),
        )
    )
    return config


def random_params(config: ConfigDict, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of a size that keeps the signal, drawn by NumPy: nothing has to compile."""
    rng, params = np.random.default_rng(seed), {}
    for name, layer in network.abstract_params(config).items():
        shape, biases = layer["kernel"].shape, layer["bias"].shape
        kernel = rng.normal(0, (2 / math.prod(shape[1:-1])) ** 0.5, shape)
        params[name] = {"kernel": kernel, "bias": rng.normal(0, 0.1, biases)}
    return params


class Twin(torch.nn.Module):
    """One stack of maps, column after column, and groups where a layer sees its own column."""

    def __init__(self, config: ModelConfig, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.weights = torch.nn.ParameterDict(
            {name: torch.tensor(array) for name, array in torch_weights(config, params).items()}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (batch, channels, height, width) to logits, at test time."""
        *hidden, last = self.config.layers
        for layer in hidden:
            x = self._layer(layer, x, first=layer is hidden[0])
            for step in layer.after:
                x = self._step(step, x)
        return F.linear(x.flatten(1), *self._of(last.name))

    def _of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]

    def _layer(self, layer: Conv | Dense, x: torch.Tensor, first: bool) -> torch.Tensor:
        weight, bias = self._of(layer.name)
        groups = self.config.columns if layer.sees == "own" and not first else 1
        if isinstance(layer, Conv):
            x = F.pad(x, layer.padding * 2)
            return F.conv2d(x, weight, bias, stride=layer.stride, groups=groups)
        return F.conv1d(x.flatten(1)[..., None], weight[..., None], bias, groups=groups)[..., 0]

    def _step(self, step: str, x: torch.Tensor) -> torch.Tensor:
        config = self.config
        if step == "relu":
            return F.relu(x)
        if step == "tanh":
            return torch.tanh(x)
        if step == "pool":
            return F.max_pool2d(x, config.pool.window, config.pool.stride, ceil_mode=True)
        if step == "dropout":
            return x if config.inverted_dropout else x * (1 - config.dropout)
        norm = config.lrn
        alpha = norm.alpha if norm.alpha_over_size else norm.alpha * norm.size
        if norm.across_columns:
            return F.local_response_norm(x, norm.size, alpha, norm.beta, norm.k)
        columns = x.reshape(-1, x.shape[1] // config.columns, *x.shape[2:])
        return F.local_response_norm(columns, norm.size, alpha, norm.beta, norm.k).reshape(x.shape)


def torch_weights(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters, or gradients, of our net in PyTorch's shapes: {"conv1_weight": …, …}."""
    weights: dict[str, np.ndarray] = {}
    maps = 0  # of one column, while activities are maps and not yet units
    for layer in config.layers:
        kernel = np.asarray(params[layer.name]["kernel"])
        if isinstance(layer, Conv):
            maps = kernel.shape[-1]
            kernel = kernel.transpose(0, 4, 3, 1, 2)
            kernel = kernel.reshape(-1, *kernel.shape[2:])
        else:
            last = layer is config.layers[-1]
            if not last and layer.sees == "both" and kernel.shape[-1] == layer.features:
                kernel = _gathered(kernel, config.columns)
            if maps:
                seen = config.columns if layer.sees == "both" and not last else 1
                kernel = _maps_first(kernel, maps, seen)
                maps = 0
            if last:
                kernel = kernel.reshape(-1, kernel.shape[-1]).T
            else:
                kernel = kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])
        weights[f"{layer.name}_weight"] = np.ascontiguousarray(kernel)
        weights[f"{layer.name}_bias"] = np.array(params[layer.name]["bias"]).reshape(-1)
    return weights


def _gathered(kernel: np.ndarray, columns: int) -> np.ndarray:
    """(column in, its units, all units out) to (column out, all units in, its units)."""
    kernel = kernel.reshape(*kernel.shape[:2], columns, -1).transpose(2, 0, 1, 3)
    return kernel.reshape(columns, -1, kernel.shape[-1])


def _maps_first(kernel: np.ndarray, maps: int, seen: int) -> np.ndarray:
    """A dense kernel's inputs from (seen, height, width, maps) to (seen, maps, height, width)."""
    columns, inputs, units = kernel.shape
    side = math.isqrt(inputs // (seen * maps))
    kernel = kernel.reshape(columns, seen, side, side, maps, units)
    return kernel.transpose(0, 1, 4, 2, 3, 5).reshape(columns, inputs, units)
