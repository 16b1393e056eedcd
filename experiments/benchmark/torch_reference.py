"""A config's model in PyTorch's own layers, and its training step, to compare speed with."""

import torch
from torch import nn

from alexnet_jax.config import Config
from alexnet_jax.models import ops
from alexnet_jax.models.ops import SequentialConfig, spatial_sizes


def make_torch_model(config: Config) -> nn.Sequential:
    """Return the model of a config in PyTorch's own layers, with columns as groups.

    `nn.LocalResponseNorm` normalizes across the border of the columns, and `nn.Dropout` is
    inverted: the same work as ours, not the same numbers.

    Args:
        config: with its number of classes, of a sequential model.
    """
    model = config.model
    assert isinstance(model, SequentialConfig)
    sizes = spatial_sizes(model.ops, config.data.crop)
    side = next(reversed(sizes.values()), config.data.crop)  # before the first Dense
    layers: list[nn.Module] = []
    inputs, flat = model.channels, False
    for op in model.ops.values():
        if isinstance(op, ops.Dense) and not flat:
            layers.append(nn.Flatten())
            inputs, flat = inputs * side**2, True
        layers += _make_torch_layers(op, inputs, model.num_classes)
        if isinstance(op, ops.Conv | ops.Dense):
            inputs = op.features
    return nn.Sequential(*layers)


def _make_torch_layers(op: ops.Op, inputs: int, num_classes: int) -> list[nn.Module]:
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


class TorchTrainStep:
    """A full training step in PyTorch: forward, backward, momentum and weight decay."""

    def __init__(
        self, config: Config, layout: torch.memory_format, *, compiled: bool = False
    ) -> None:
        """Initialize the weights as PyTorch does by default.

        Args:
            config: with its number of classes.
            layout: of weights and images in memory.
            compiled: compile the forward pass at the first call.
        """
        torch.manual_seed(0)
        self.model = make_torch_model(config)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=1e-4,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        shape = (config.batch_size, config.model.channels, config.data.crop, config.data.crop)
        self.images = torch.randn(shape).to(memory_format=layout)
        self.labels = torch.randint(config.model.num_classes, (config.batch_size,))
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.images), self.labels)

    def __call__(self) -> None:
        """Take one step on random images."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
