"""State dicts as files; torchvision's alexnet with few channels: its modules and its config."""

from pathlib import Path

import safetensors.torch
import torch

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.models.ops import Conv, Dense
from configs import one_weird_trick

State = dict[str, torch.Tensor]

CHANNELS = dict(conv1=8, conv2=12, conv3=8, conv4=12, conv5=8, fc6=24, fc7=20)


def write_state(path: Path, state: State) -> Path:
    """Write a state dict in the format of the file's suffix, and return the path."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def load_state(path: Path) -> State:
    """Return the state dict in a file."""
    if path.suffix == ".safetensors":
        return dict(safetensors.torch.load_file(path))
    return dict(torch.load(path, weights_only=True))


def small_config() -> Config:
    """Return the config of torchvision's alexnet, with few channels."""
    config = one_weird_trick.get_config()
    for name, features in CHANNELS.items():
        op = sequential_model(config).ops[name]
        assert isinstance(op, Conv | Dense)
        op.features = features
    return config


class TorchvisionAlexNet(torch.nn.Module):
    """The modules of torchvision's alexnet by their names, with few channels.

    torchvision/models/alexnet.py, written again from its description: it is not installed.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        conv, pool = torch.nn.Conv2d, torch.nn.MaxPool2d(3, 2)
        relu, drop = torch.nn.ReLU(), torch.nn.Dropout()
        a, b, c, d, e, f, g = CHANNELS.values()
        torch.manual_seed(0)
        first = (conv(3, a, 11, 4, 2), relu, pool, conv(a, b, 5, padding=2), relu, pool)
        middle = (conv(b, c, 3, padding=1), relu, conv(c, d, 3, padding=1), relu)
        self.features = torch.nn.Sequential(*first, *middle, conv(d, e, 3, padding=1), relu, pool)
        self.avgpool = torch.nn.AdaptiveAvgPool2d((6, 6))
        dense = torch.nn.Linear
        self.classifier = torch.nn.Sequential(
            *(drop, dense(36 * e, f), relu, drop, dense(f, g), relu, dense(g, classes))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def write_weights(path: Path, wrapped: bool = False) -> TorchvisionAlexNet:
    """Write a state dict and return its model; `wrapped` as PyTorch's ImageNet example saves it."""
    model = TorchvisionAlexNet().eval()
    state = model.state_dict()
    if wrapped:
        named = {name.replace("features.", "features.module."): t for name, t in state.items()}
        torch.save({"epoch": 90, "state_dict": named}, path)
    else:
        write_state(path, state)
    return model
