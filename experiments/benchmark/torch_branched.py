"""Residual networks and GoogLeNet in PyTorch's own layers, by a config of this program's models.

Modules have torchvision's names, except that GoogLeNet's convolutions have biases where the config
has no batch normalization.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_jax.models.branched_config import BatchNormConfig, GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.googlenet import AUXILIARY, INCEPTION, LRN, scale_width


class TorchResNet(nn.Module):
    """A residual network, or a plain network."""

    def __init__(self, config: ResNetConfig) -> None:
        """Initialize the weights as PyTorch does by default."""
        super().__init__()
        width = config.width
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.conv1 = _conv(config.channels, width, kernel, stride)
        self.bn1 = _batch_norm(width, config.batch_norm)
        padding = config.pool_padding
        pool = nn.MaxPool2d(3, 2, padding, ceil_mode=padding == 0)
        self.pool = pool if config.stem == "imagenet" else nn.Identity()
        self.stages = len(config.stage_sizes)
        inputs = width
        for stage, size in enumerate(config.stage_sizes):
            blocks = []
            for index in range(size):
                stride = 2 if stage and not index else 1
                blocks.append(TorchBlock(config, inputs, width * 2**stage, stride))
                inputs = blocks[-1].outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, config.num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits, alone in a tuple."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return (self.fc(x.mean((2, 3))),)


class TorchBlock(nn.Module):
    """A basic or a bottleneck block with any kind of shortcut, or without one.

    Attributes:
        outputs: number of channels of its output.
    """

    def __init__(self, config: ResNetConfig, inputs: int, features: int, stride: int) -> None:
        """Initialize a block with 3×3 convolutions of so many features."""
        super().__init__()
        convs = [(features, 3, stride), (features, 3, 1)]
        if config.block == "bottleneck":
            first, second = (stride, 1) if config.stride_in == "1x1" else (1, stride)
            convs = [(features, 1, first), (features, 3, second), (4 * features, 1, 1)]
        self.layers, self.outputs = len(convs), inputs
        for number, (outputs, kernel, step) in enumerate(convs, 1):
            self.add_module(f"conv{number}", _conv(self.outputs, outputs, kernel, step))
            self.add_module(f"bn{number}", _batch_norm(outputs, config.batch_norm))
            self.outputs = outputs
        self.kind, self.stride, self.new = config.shortcut, stride, self.outputs - inputs
        self.downsample: nn.Module | None = None
        if self.kind == "C" or (self.kind == "B" and (self.new or stride > 1)):
            norm = _batch_norm(self.outputs, config.batch_norm)
            self.downsample = nn.Sequential(_conv(inputs, self.outputs, 1, stride), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the block."""
        y = x
        for number in range(1, self.layers + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            y = F.relu(y) if number < self.layers else y
        if self.downsample is not None:
            y = y + self.downsample(x)
        elif self.kind != "none":
            x = x[:, :, :: self.stride, :: self.stride]
            y = y + (F.pad(x, (0, 0, 0, 0, 0, self.new)) if self.new else x)
        return F.relu(y)


class TorchGoogLeNet(nn.Module):
    """GoogLeNet with its auxiliary classifiers."""

    def __init__(self, config: GoogLeNetConfig, crop: int) -> None:
        """Initialize kernels by He et al.'s rule: PyTorch's own shrink the signal.

        Args:
            crop: side of the images in pixels.
        """
        super().__init__()
        self.config = config
        inputs = scale_width(config, 64)
        if config.stem == "small":
            self.conv1 = self._conv(config.channels, inputs, 3)
            side = self._pooled(crop)
        else:
            self.conv1 = self._conv(config.channels, inputs, 7, 2)
            self.conv2 = self._conv(inputs, inputs, 1)
            self.conv3 = self._conv(inputs, scale_width(config, 192), 3)
            inputs = scale_width(config, 192)
            side = self._pooled(self._pooled((crop - 1) // 2 + 1))
        side = self._pooled(side)  # of the modules 4a to 4e
        for name, row in INCEPTION.items():
            module, inputs = self._inception(inputs, row)
            self.add_module(f"inception{name}", module)
            if name in AUXILIARY and config.aux_weight:
                pooled = (side - 5) // 3 + 1 if config.aux_pooling == "windows" else 4
                self.add_module(AUXILIARY[name], self._auxiliary(inputs, pooled))
        self.drop = nn.Dropout(config.dropout)
        self.fc = nn.Linear(inputs, config.num_classes)
        for one in self.modules():
            if isinstance(one, nn.Conv2d):
                nn.init.kaiming_normal_(one.weight)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits and, while training, those of the auxiliary classifiers."""
        config, aux_logits = self.config, []
        x = self._stem(x)
        for name in INCEPTION:
            module = self.get_submodule(f"inception{name}")
            assert isinstance(module, nn.ModuleDict)
            x = torch.cat([branch(x) for branch in module.values()], dim=1)
            if name in AUXILIARY and config.aux_weight and self.training:
                aux_logits.append(self.get_submodule(AUXILIARY[name])(x))
            if name == "3b":
                x = self._pool(x)
            if name == "4e":
                x = self._pool(x, config.pool4_window)
        return self.fc(self.drop(x.mean((2, 3)))), *aux_logits

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of module 3a."""
        x = self._normalize(self._pool(self.conv1(x)))
        if self.config.stem == "small":
            return x
        x = self._normalize(self.conv3(self.conv2(x)))
        return self._pool(x)

    def _pool(self, x: torch.Tensor, window: int = 3) -> torch.Tensor:
        """Apply max pooling of stride 2."""
        return F.max_pool2d(x, window, 2, ceil_mode=self.config.ceil_mode)

    def _pooled(self, side: int) -> int:
        """Return the side after a 3×3 max pooling of stride 2."""
        return 1 + ((side - 2) // 2 if self.config.ceil_mode else (side - 3) // 2)

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        """Apply response normalization if the config has it."""
        if self.config.normalization != "lrn":
            return x
        size, k, alpha, beta = LRN
        return F.local_response_norm(x, size, alpha * size, beta, k)

    def _inception(
        self, inputs: int, row: tuple[int, int, int, int, int, int]
    ) -> tuple[nn.ModuleDict, int]:
        """Return the branches of a module and the number of channels of their outputs."""
        widths = (scale_width(self.config, features) for features in row)
        ones, reduce3, threes, reduce5, fives, projection = widths
        large, pool = self.config.large_kernel, nn.MaxPool2d(3, 1, padding=1)
        branches = {
            "branch1": self._conv(inputs, ones, 1),
            "branch2": nn.Sequential(
                self._conv(inputs, reduce3, 1), self._conv(reduce3, threes, 3)
            ),
            "branch3": nn.Sequential(
                self._conv(inputs, reduce5, 1), self._conv(reduce5, fives, large)
            ),
            "branch4": nn.Sequential(pool, self._conv(inputs, projection, 1)),
        }
        return nn.ModuleDict(branches), ones + threes + fives + projection

    def _auxiliary(self, inputs: int, side: int) -> nn.Module:
        """Return an auxiliary classifier.

        Args:
            side: of its pooled input in pixels.
        """
        config, units = self.config, scale_width(self.config, 1024)
        windows, features = config.aux_pooling == "windows", scale_width(config, 128)
        layers: dict[str, Any] = dict(
            pool=nn.AvgPool2d(5, 3) if windows else nn.AdaptiveAvgPool2d(4),
            conv=self._conv(inputs, features, 1),
            flatten=nn.Flatten(),
            fc1=nn.Linear(features * side**2, units),
            relu=nn.ReLU(),
            drop=nn.Dropout(config.aux_dropout),
            fc2=nn.Linear(units, config.num_classes),
        )
        classifier = nn.Sequential()
        for name, layer in layers.items():
            classifier.add_module(name, layer)
        return classifier

    def _conv(self, inputs: int, features: int, kernel: int, stride: int = 1) -> nn.Sequential:
        """Return a convolution, batch normalization if the config has it, and ReLU."""
        conv = nn.Sequential()
        has_batch_norm = self.config.normalization == "batch_norm"
        conv.add_module("conv", _conv(inputs, features, kernel, stride, bias=not has_batch_norm))
        if has_batch_norm:
            conv.add_module("bn", _batch_norm(features, self.config.batch_norm))
        conv.add_module("relu", nn.ReLU())
        return conv


def _conv(inputs: int, features: int, kernel: int, stride: int, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution padded so that stride 1 keeps the size of the image."""
    return nn.Conv2d(inputs, features, kernel, stride, padding=kernel // 2, bias=bias)


def _batch_norm(features: int, config: BatchNormConfig) -> nn.BatchNorm2d:
    """Return a batch normalization; PyTorch's can only average the unbiased variance."""
    assert config.unbiased
    return nn.BatchNorm2d(features, config.epsilon, 1 - config.momentum)
