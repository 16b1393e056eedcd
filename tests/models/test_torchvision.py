"""GoogLeNet and residual networks against torchvision's, with its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.torch_branched import variables_from_torch
from helpers.torchvision_models import make_model

from alexnet_jax.config import Config, validated
from alexnet_jax.models import registry
from configs import googlenet, resnet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def relative_difference(config: Config, model: torch.nn.Module, side: int) -> float:
    """Return the largest difference of logits, relative to the largest logit."""
    variables = variables_from_torch(config, model)
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    ours = registry.make_model(config)
    compute = jax.jit(lambda v, x: registry.apply_model(ours, v, x)[0].logits)
    logits = compute(variables, jnp.asarray(images))
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def config_of(name: str, classes: int) -> Config:
    config = (
        googlenet.get_config("torchvision")
        if name == "googlenet"
        else resnet.get_config(f"{name.removeprefix('resnet')},torchvision")
    )
    config.model.num_classes = classes
    return validated(config)


def test_small_images() -> None:
    """Catches: a network of basic blocks whose projections or strides are those of bottlenecks."""
    model = make_model("resnet18", num_classes=10)
    assert relative_difference(config_of("resnet18", 10), model, side=64) <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "googlenet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in RESNETS if name != "resnet50"),
    ],
)
def test_full_size(name: str) -> None:
    """Catches: in residual networks a stride in the wrong convolution, pooling padded otherwise, a
    projection without its normalization, ReLU before the sum; in GoogLeNet branches concatenated
    in another order, a 5×5 kernel, pool4 of 3×3, response normalization; another epsilon, mean
    and variance swapped, windows at edges."""
    settings: dict[str, object] = dict(num_classes=1000)
    if name == "googlenet":
        settings |= dict(aux_logits=True, init_weights=False, transform_input=False)
    model = make_model(name, **settings)
    assert relative_difference(config_of(name, 1000), model, side=224) <= 1e-5
