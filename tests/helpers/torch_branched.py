"""Small residual networks and GoogLeNets, and the same models in PyTorch.

The modules of the PyTorch models have torchvision's names.
"""

from typing import Any, ClassVar

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.ops import ModelConfig

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


class TorchResNet(nn.Module):
    """A residual network with the stem for small images and basic blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config, ResNetConfig)
        width = config.width
        self.conv1 = nn.Conv2d(config.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(config.stage_sizes)
        inputs = width
        for stage, size in enumerate(config.stage_sizes):
            blocks = []
            for index in range(size):
                features, stride = width * 2**stage, 2 if stage and not index else 1
                blocks.append(TorchBlock(inputs, features, stride, config.shortcut))
                inputs = features
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: torch.Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class TorchBlock(nn.Module):
    """A basic block with any kind of shortcut."""

    def __init__(self, inputs: int, features: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.kind, self.stride, self.new = shortcut, stride, features - inputs
        self.downsample: nn.Module | None = None
        if shortcut == "C" or (shortcut == "B" and (self.new or stride > 1)):
            conv = nn.Conv2d(inputs, features, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the block."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.kind == "none":
            return F.relu(y)
        if self.downsample is not None:
            return F.relu(y + self.downsample(x))
        x = F.avg_pool2d(x, 1, self.stride)  # windows of a pixel: a stride, and no average
        return F.relu(y + torch.cat([x, x.new_zeros(len(x), self.new, *x.shape[2:])], dim=1))


class TorchGoogLeNet(nn.Module):
    """GoogLeNet of table 1 with response normalization, and the stem for small images."""

    # 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection.
    TABLE: ClassVar = dict(
        inception3a=(64, 96, 128, 16, 32, 32), inception3b=(128, 128, 192, 32, 96, 64),
        inception4a=(192, 96, 208, 16, 48, 64), inception4b=(160, 112, 224, 24, 64, 64),
        inception4c=(128, 128, 256, 24, 64, 64), inception4d=(112, 144, 288, 32, 64, 64),
        inception4e=(256, 160, 320, 32, 128, 128), inception5a=(256, 160, 320, 32, 128, 128),
        inception5b=(384, 192, 384, 48, 128, 128),
    )  # fmt: skip

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config, GoogLeNetConfig)
        self.scale = config.width
        inputs = self._width(64)
        self.conv1 = _TorchConv(config.channels, inputs, 3)
        for name, row in self.TABLE.items():
            ones, reduce3, threes, reduce5, fives, projection = map(self._width, row)
            branches = nn.ModuleDict(
                {
                    "branch1": _TorchConv(inputs, ones, 1),
                    "branch2": nn.Sequential(
                        _TorchConv(inputs, reduce3, 1), _TorchConv(reduce3, threes, 3)
                    ),
                    "branch3": nn.Sequential(
                        _TorchConv(inputs, reduce5, 1), _TorchConv(reduce5, fives, 5)
                    ),
                    "branch4": nn.Sequential(
                        nn.MaxPool2d(3, 1, padding=1), _TorchConv(inputs, projection, 1)
                    ),
                }
            )
            self.add_module(name, branches)
            inputs = ones + threes + fives + projection
            if name in ("inception4a", "inception4d"):
                aux = nn.Module()
                aux.conv = _TorchConv(inputs, self._width(128), 1)
                aux.fc1 = nn.Linear(self._width(128), self._width(1024))  # one window
                aux.fc2 = nn.Linear(self._width(1024), config.num_classes)
                self.add_module("aux1" if name == "inception4a" else "aux2", aux)
        self.fc = nn.Linear(inputs, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # PyTorch's own initial weights shrink the signal
                nn.init.kaiming_normal_(module.weight)

    def _width(self, features: int) -> int:
        return max(1, round(features * self.scale))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the logits of the classifier and of both auxiliary ones."""
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
        logits = []
        for name in self.TABLE:
            module = self.get_submodule(name)
            assert isinstance(module, nn.ModuleDict)
            x = torch.cat([branch(x) for branch in module.values()], dim=1)
            if name in ("inception4a", "inception4d"):
                aux: Any = self.aux1 if name == "inception4a" else self.aux2
                hidden = F.relu(aux.fc1(aux.conv(F.avg_pool2d(x, 5, 3)).flatten(1)))
                logits.append(aux.fc2(hidden))
            if name in ("inception3b", "inception4e"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return self.fc(x.mean((2, 3))), logits[0], logits[1]


class _TorchConv(nn.Module):
    """A convolution and ReLU; stride 1 keeps the size."""

    def __init__(self, inputs: int, features: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, features, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activations."""
        return F.relu(self.conv(x))
