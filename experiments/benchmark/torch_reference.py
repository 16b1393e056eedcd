"""A config's model in PyTorch's own layers, and its training step, to compare speed with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import swa_utils

from alexnet_jax.config import Config
from alexnet_jax.models import ops, registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.ops import spatial_sizes
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.optimizer import weight_decay
from experiments.benchmark.torch_branched import TorchGoogLeNet, TorchResNet


def make_torch_model(config: Config) -> nn.Module:
    """Return the model of a config in PyTorch's own layers.

    It maps images (batch, channels, height, width) to a tuple: the logits and, while training,
    those of auxiliary classifiers.

    Args:
        config: with its number of classes.
    """
    match config.model:
        case ResNetConfig():
            return TorchResNet(config.model)
        case GoogLeNetConfig():
            return TorchGoogLeNet(config.model, config.data.crop)
        case SequentialConfig():
            return TorchSequential(config.model, config.data.crop)
    raise AssertionError(f"a model of unknown kind: {config.model}")


class TorchSequential(nn.Sequential):
    """A sequential model, with columns as groups.

    `nn.LocalResponseNorm` normalizes across the border of the columns, and `nn.Dropout` is
    inverted: the same work as ours, not the same numbers.
    """

    def __init__(self, model: SequentialConfig, crop: int) -> None:
        """Initialize the weights as PyTorch does by default.

        Args:
            crop: side of the images in pixels.
        """
        super().__init__(*_make_layers(model, crop))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits, alone in a tuple."""
        return (super().forward(x),)


def _make_layers(model: SequentialConfig, crop: int) -> list[nn.Module]:
    """Return the layers of a sequential model."""
    sizes = spatial_sizes(model.ops, crop)
    side = next(reversed(sizes.values()), crop)  # before the first Dense
    layers: list[nn.Module] = []
    inputs, flat = model.channels, False
    for name, op in model.ops.items():
        if isinstance(op, ops.Dense) and not flat:
            layers.append(nn.Flatten())
            inputs, flat = inputs * side**2, True
        if isinstance(op, ops.LocalConv):
            layers.append(TorchLocalConv(op, inputs, sizes[name]))
        else:
            layers += _make_op_layers(op, inputs, model.num_classes)
        if isinstance(op, ops.Conv | ops.LocalConv | ops.Dense):
            inputs = op.features
    return layers


def _make_op_layers(op: ops.Op, inputs: int, num_classes: int) -> list[nn.Module]:
    """Return the PyTorch layers of an op.

    Args:
        inputs: channels, or units, of its input.
        num_classes: the outputs of the classifier.
    """
    match op:
        case ops.Conv():
            before, after = op.padding
            padding = before if before == after else 0
            conv = nn.Conv2d(inputs, op.features, op.kernel, op.stride, padding, groups=op.groups)
            return [conv] if before == after else [nn.ZeroPad2d(op.padding * 2), conv]
        case ops.Dense(groups=1):
            return [nn.Linear(inputs, op.features or num_classes)]
        case ops.Dense():  # a fully-connected layer in groups is a convolution over one position
            conv1d = nn.Conv1d(inputs, op.features, 1, groups=op.groups)
            return [nn.Unflatten(1, (inputs, 1)), conv1d, nn.Flatten()]
        case ops.ReLU():
            return [nn.ReLU()]
        case ops.Tanh():
            return [nn.Tanh()]
        case ops.LRN():  # PyTorch divides alpha by the size
            alpha = op.coefficient() * op.size
            return [nn.LocalResponseNorm(op.size, alpha, op.beta, op.k)]
        case ops.WithinChannelLRN():
            return [TorchWithinChannelLRN(op)]
        case ops.MaxPool():
            return [nn.MaxPool2d(op.window, op.stride, ceil_mode=op.ceil_mode)]
        case ops.AvgPool():
            return [nn.AvgPool2d(op.window, op.stride, ceil_mode=op.ceil_mode)]
        case ops.Dropout():
            return [nn.Dropout(op.rate)]
    raise AssertionError(f"an op of unknown kind: {op}")


class TorchWithinChannelLRN(nn.Module):
    """Response normalization over a square of pixels within each channel."""

    def __init__(self, op: ops.WithinChannelLRN) -> None:
        """Take the hyperparameters of an op."""
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width)."""
        op = self.op
        means = nn.functional.avg_pool2d(x.square(), op.size, stride=1, padding=op.size // 2)
        return x / (op.k + op.coefficient() * op.size**2 * means) ** op.beta


class TorchLocalConv(nn.Module):
    """A locally-connected layer, which PyTorch lacks: a matrix product at every position."""

    def __init__(self, op: ops.LocalConv, inputs: int, side: int) -> None:
        """Initialize the weights.

        Args:
            inputs: channels of its input.
            side: of its output in pixels.
        """
        super().__init__()
        before, after = op.padding
        assert before == after
        self.op, self.side = op, side
        weights = inputs * op.kernel**2
        self.kernel = nn.Parameter(torch.randn(side**2, weights, op.features) / weights**0.5)
        self.bias = nn.Parameter(torch.zeros(side**2, 1, op.features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, features, side, side) for x with input channels."""
        op = self.op
        patches = nn.functional.unfold(x, op.kernel, padding=op.padding[0], stride=op.stride)
        products = patches.permute(2, 0, 1) @ self.kernel + self.bias
        return products.permute(1, 2, 0).unflatten(2, (self.side, self.side))


class TorchTrainStep:
    """A full training step in PyTorch: forward, backward, momentum, weight decay and averaging."""

    def __init__(
        self,
        config: Config,
        layout: torch.memory_format,
        *,
        compiled: bool = False,
        mode: str | None = None,
        device: str = "cpu",
        mixed: bool = False,
        prepare: Callable[[nn.Module], None] | None = None,
    ) -> None:
        """Initialize the weights.

        Args:
            config: with its number of classes.
            layout: of weights and images in memory.
            compiled: compile the forward pass at the first call.
            mode: of torch.compile.
            device: of weights and images, "cpu" or "cuda"; on the latter the update is fused.
            mixed: compute in bfloat16 what autocast lets be computed in it.
            prepare: function that changes the model before it is used.
        """
        torch.manual_seed(0)
        self.model = make_torch_model(config)
        if prepare is not None:
            prepare(self.model)
        self.model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            _group_parameters(config, self.model),
            lr=1e-4,
            momentum=config.optimizer.momentum,
            fused=device != "cpu",
        )
        decay = config.optimizer.ema_decay
        average = swa_utils.get_ema_multi_avg_fn(decay)
        self.average = swa_utils.AveragedModel(self.model, multi_avg_fn=average) if decay else None
        weights = registry.family_of(config.model).aux_weights(config.model)
        self.aux_weights = tuple(weights.values())
        shape = (config.batch_size, config.model.channels, config.data.crop, config.data.crop)
        self.images = torch.randn(shape, device=device).to(memory_format=layout)
        self.labels = torch.randint(config.model.num_classes, (config.batch_size,), device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=mixed)
        self.loss = torch.compile(self._loss, mode=mode) if compiled else self._loss

    def _loss(self) -> torch.Tensor:
        """Return the cross-entropy, with the weighted losses of the auxiliary classifiers."""
        with self.autocast:
            losses = [nn.functional.cross_entropy(x, self.labels) for x in self.model(self.images)]
            weights = (1.0, *self.aux_weights)
            return torch.stack([w * one for w, one in zip(weights, losses, strict=True)]).sum()

    def __call__(self) -> None:
        """Take one step on random images."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)


def _group_parameters(config: Config, model: nn.Module) -> list[dict[str, Any]]:
    """Return a group of parameters, as PyTorch's optimizers take them, for each weight decay."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = weight_decay(config.optimizer, name.replace(".", "/"))
        groups.setdefault(decay, []).append(parameter)
    return [dict(params=params, weight_decay=decay) for decay, params in groups.items()]
