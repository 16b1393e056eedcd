"""What the benchmarks compare with: the same network as one writes it in PyTorch."""

import torch
from ml_collections import ConfigDict
from torch import nn

from alexnet_jax.models.alexnet import Conv, ModelConfig


def network(config: ConfigDict) -> nn.Sequential:
    """The network of a config in PyTorch's own layers, columns as groups.

    `nn.LocalResponseNorm` normalises across the border of the columns, and dropout scales
    up what survives: the same work as ours, not the same numbers.
    """
    model = ModelConfig.from_dict(config.model)
    layers: list[nn.Module] = []
    maps, side, flat = model.channels, config.data.crop, False
    for layer in model.layers:
        last = layer is model.layers[-1]
        features = model.classes if last else layer.features
        if isinstance(layer, Conv):
            groups = model.columns if layer.sees == "own" and layers else 1
            if sum(layer.padding):
                layers.append(nn.ZeroPad2d(layer.padding * 2))
            layers.append(nn.Conv2d(maps, features, layer.kernel, layer.stride, groups=groups))
            side = 1 + (side + sum(layer.padding) - layer.kernel) // layer.stride
        else:
            if not flat:
                layers.append(nn.Flatten())
                maps, flat = maps * side * side, True
            layers.append(nn.Linear(maps, features))
        maps = features
        for step in layer.after:
            if step == "pool":
                layers.append(nn.MaxPool2d(model.pool.window, model.pool.stride, ceil_mode=True))
                side = 1 + -(-(side - model.pool.window) // model.pool.stride)
            elif step == "lrn":
                norm = model.lrn
                layers.append(nn.LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k))
            else:
                layers.append(nn.Dropout(model.dropout) if step == "dropout" else nn.ReLU())
    return nn.Sequential(*layers)


class TrainStep:
    """A full training step: forward, backward, momentum and weight decay."""

    def __init__(
        self, config: ConfigDict, layout: torch.memory_format, *, compiled: bool = False
    ) -> None:
        """Weights at PyTorch's own initial values; `compiled` at the first call."""
        torch.manual_seed(0)
        self.network = network(config)
        self.network.to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=1e-4,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        shape = (config.batch_size, config.model.channels, config.data.crop, config.data.crop)
        self.images = torch.randn(shape).to(memory_format=layout)
        self.labels = torch.randint(config.model.classes, (config.batch_size,))
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(self.images), self.labels)

    def __call__(self) -> None:
        """One step on random images."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
