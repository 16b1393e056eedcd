"""torchvision's models, whose operators for object detection CPU builds of PyTorch may lack."""

import sys
import types
from collections.abc import Mapping

import numpy as np
import torch

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion.layout import Params, kernel_layouts
from alexnet_jax.models.ops import parameter_ops

# It registers these operators; without them its import raises.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("stub"))

from torchvision import models  # noqa: E402
from torchvision.models import vgg  # noqa: E402

__all__ = ["make_model", "make_vgg", "params_from_torch", "vgg"]


def make_model(name: str, **settings: object) -> torch.nn.Module:
    """Return a model for evaluation with random weights, and statistics far from 0 and 1."""
    torch.manual_seed(0)
    model: torch.nn.Module = models.get_model(name, weights=None, **settings)
    for module in model.modules():
        draw_statistics(module)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model.eval()


def make_vgg(
    letter: str, *, share: int = 1, classes: int = 7, batch_norm: bool = False
) -> torch.nn.Module:
    """Return torchvision's VGG with random weights that keep the size of activations.

    Args:
        letter: model of the paper's table 1.
        share: divisor of the number of channels and units.
        classes: number of classes.
        batch_norm: whether convolutions have batch normalization, with random statistics.
    """
    torch.manual_seed(0)
    channels = [c if isinstance(c, str) else c // share for c in vgg.cfgs[letter]]
    layers = vgg.make_layers(channels, batch_norm)
    model = vgg.VGG(layers, num_classes=classes, init_weights=share == 1)
    if share > 1:
        inputs, units = 512 // share * 49, 4096 // share
        sizes = {0: (inputs, units), 3: (units, units), 6: (units, classes)}
        for number, size in sizes.items():
            model.classifier[number] = torch.nn.Linear(*size)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert module.bias is not None
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.nn.init.normal_(module.bias, 0, 0.1)
        draw_statistics(module)
    return model.eval()


def draw_statistics(module: torch.nn.Module) -> None:
    """Draw the parameters and statistics of a batch normalization, far from 0 and 1."""
    if isinstance(module, torch.nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        torch.nn.init.normal_(module.running_mean, 0, 0.1)
        torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        torch.nn.init.normal_(module.bias, 0, 0.1)


def params_from_torch(config: Config, state: Mapping[str, torch.Tensor]) -> Params:
    """Return parameters of a sequential model of ours from a state dict with the same layers."""
    layouts = kernel_layouts(config)
    prefixes = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    names = [name for name, _ in parameter_ops(sequential_model(config).ops)]
    params: Params = {}
    for name, prefix in zip(names, prefixes, strict=True):
        weight, bias = (np.asarray(state[f"{prefix}.{part}"]) for part in ("weight", "bias"))
        params[name] = {"kernel": layouts[name].from_foreign(weight), "bias": bias}
    return params
