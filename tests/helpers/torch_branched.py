"""Configs of small residual networks and GoogLeNets; variables and batches, also for PyTorch."""

from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from alexnet_jax.config import Config
from alexnet_jax.conversion import branched
from alexnet_jax.conversion.pytorch import torchvision_branched
from alexnet_jax.data.batch import Batch
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.pytree import Variables

CLASSES = 5


def small_resnet(n: int = 3, **fields: Any) -> Config:
    """Return the config of a narrow network of 6n + 2 layers, not sealed."""
    changes: dict[str, Any] = dict(
        stem="small", width=4, block="basic", stage_sizes=(n,) * 3, shortcut="A"
    )
    model = ResNetConfig(channels=1, num_classes=CLASSES, **{**changes, **fields})
    return _config(model, crop=16, learning_rate=0.05)


def small_googlenet(**fields: Any) -> Config:
    """Return the config of a narrow GoogLeNet without dropout, not sealed."""
    changes: dict[str, Any] = dict(stem="small", width=1 / 16, dropout=0.0, aux_dropout=0.0)
    model = GoogLeNetConfig(channels=1, num_classes=CLASSES, **{**changes, **fields})
    return _config(model, crop=20, learning_rate=0.02)


def _config(model: ResNetConfig | GoogLeNetConfig, crop: int, learning_rate: float) -> Config:
    config = Config(batch_size=8, learning_rate=learning_rate, model=model)
    config.data.crop = crop
    config.data.mean, config.data.given_mean = "given", (128.0,)
    config.data.scale = 1 / 64
    config.data.lighting = "none"
    return config


def random_variables(config: Config, seed: int = 0) -> dict[str, Any]:
    """Return variables of a size that keeps the signal, float32; NumPy draws them."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        shape, kind = leaf.shape, path[-1].key
        if kind == "kernel":
            array = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        elif kind in ("scale", "var"):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, 0.1, shape)
        return array.astype(np.float32)

    variables: dict[str, Any] = jax.tree_util.tree_map_with_path(
        draw, dict(registry.abstract_variables(config))
    )
    return variables


def variables_from_torch(config: Config, model: nn.Module) -> Variables:
    """Return copies of the variables of a PyTorch model whose modules have torchvision's names."""
    names = torchvision_branched.tensor_names(config.model, branched.foreign_shapes(config))
    state = model.state_dict()
    arrays = {path: state[name].numpy() for path, name in names.items()}
    return branched.from_foreign(config, branched.BranchedModel(config.model, arrays, names))


def random_batch(config: Config, step: int) -> Batch:
    """Return the training batch of a step, whose labels can be learned from the brightness."""
    rng, size, crop = np.random.default_rng(step), config.batch_size, config.data.crop
    label = rng.integers(0, CLASSES, size)
    noise = rng.integers(-40, 41, (size, crop, crop, 1))
    return Batch(
        image=(60 + 30 * label[:, None, None, None] + noise).astype(np.uint8),
        offset=np.zeros((size, 2), np.int32),
        flip=np.zeros(size, bool),
        label=label.astype(np.int32),
        example=np.arange(size, dtype=np.uint32),
        shift=np.zeros((size, 1), np.float32),
        gain=np.ones(size, np.float32),
    )


def torch_inputs(config: Config, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalized images (batch, channels, height, width) and labels of a batch."""
    images = (np.asarray(batch.image, np.float32) - 128) * np.float32(config.data.scale)
    return torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(np.asarray(batch.label)).long()
