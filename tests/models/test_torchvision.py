"""GoogLeNet and residual networks against torchvision's, with its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.torchvision_models import make_model

from alexnet_jax.config import Config, validated
from alexnet_jax.conversion.torchvision_names import layer_names, variables_from_torch
from alexnet_jax.models import registry
from configs import googlenet, resnet

# Networks by torchvision's name: the config's variant, and the numbers of parameters.
RESNETS = {
    "resnet18": ("18,torchvision", 11_689_512),
    "resnet34": ("34,torchvision", 21_797_672),
    "resnet50": ("50,torchvision", 25_557_032),
    "resnet101": ("101,torchvision", 44_549_160),
    "resnet152": ("152,torchvision", 60_192_808),
}


def relative_difference(config: Config, model: torch.nn.Module, side: int) -> float:
    """Return the largest difference of logits, relative to the largest logit."""
    abstract = registry.abstract_variables(config)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    variables = variables_from_torch(arrays, layer_names(config.model), abstract)
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
        else resnet.get_config(RESNETS[name][0])
    )
    config.model.num_classes = classes
    return validated(config)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_logits(name: str) -> None:
    """Catches: a stride in the wrong convolution, pooling padded otherwise, a projection without
    its normalization, ReLU before the sum, another epsilon, mean and variance swapped."""
    config = config_of(name, 10)
    model = make_model(name, num_classes=10)
    assert relative_difference(config, model, side=64) <= 1e-5


def test_googlenet_logits() -> None:
    """Catches: branches concatenated in another order, a 5×5 kernel, pool4 of 3×3, response
    normalization, an epsilon of 1e-5."""
    config = config_of("googlenet", 10)
    settings = dict(num_classes=10, aux_logits=True, init_weights=False, transform_input=False)
    model = make_model("googlenet", **settings)
    assert relative_difference(config, model, side=96) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RESNETS, "googlenet"])
def test_full_size(name: str) -> None:
    """Catches: whatever differs at 224 pixels and 1,000 classes only, such as windows at edges."""
    settings: dict[str, object] = dict(num_classes=1000)
    if name == "googlenet":
        settings |= dict(aux_logits=True, init_weights=False, transform_input=False)
    model = make_model(name, **settings)
    assert relative_difference(config_of(name, 1000), model, side=224) <= 1e-5
