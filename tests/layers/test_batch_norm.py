"""Batch normalization against PyTorch's and Flax's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.core import meta

from alexnet_jax.layers.batch_norm import BatchNorm

MOMENTUM, EPSILON = 0.8, 1e-3


def random_variables() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        "params": {"scale": rng.uniform(0.5, 1.5, 5), "bias": rng.normal(size=5)},
        "batch_stats": {"mean": rng.normal(size=5), "var": rng.uniform(0.5, 1.5, 5)},
    }


def activations() -> np.ndarray:
    """Return (batch, height, width, channels) with means that are large beside the deviations."""
    rng = np.random.default_rng(1)
    return rng.normal(20, 1, (3, 4, 2, 5)) * np.arange(1, 6)


def ours(unbiased: bool, train: bool) -> tuple[Any, Any, Any]:
    """Return outputs, new statistics, and gradients of (parameters, inputs), in float64."""
    module = BatchNorm(MOMENTUM, EPSILON, unbiased)
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, random_variables())
        x = jnp.asarray(activations())

        def forward(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            given = {**variables, "params": params}
            y, new = module.apply(given, x, train=train, mutable=["batch_stats"])
            return y, new["batch_stats"]

        y, vjp, new = jax.vjp(forward, variables["params"], x, has_aux=True)
        return y, new, vjp(jnp.cos(y))


def torchs(train: bool) -> tuple[torch.nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    """Return PyTorch's module after a pass, its inputs with their gradient, and its outputs."""
    module = torch.nn.BatchNorm2d(5, EPSILON, 1 - MOMENTUM, dtype=torch.float64).train(train)
    given = random_variables()
    module.load_state_dict(
        {
            "weight": torch.tensor(given["params"]["scale"]),
            "bias": torch.tensor(given["params"]["bias"]),
            "running_mean": torch.tensor(given["batch_stats"]["mean"]),
            "running_var": torch.tensor(given["batch_stats"]["var"]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    x = torch.tensor(np.moveaxis(activations(), -1, 1), requires_grad=True)
    y = module(x)
    y.backward(torch.cos(y.detach()))
    return module, x, y


@pytest.mark.parametrize("train", [True, False])
def test_pytorch(train: bool) -> None:
    """Catches: the biased variance averaged, or the unbiased one used; a gradient that does not
    flow through the statistics; statistics of the batch used, or updated, at test time."""
    module, x, y = torchs(train)
    outputs, new, (gradients, x_gradient) = ours(unbiased=True, train=train)
    assert x.grad is not None
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    assert module.running_mean is not None
    assert module.running_var is not None
    for found, expected in (
        (outputs, np.moveaxis(y.detach().numpy(), 1, -1)),
        (x_gradient, np.moveaxis(x.grad.numpy(), 1, -1)),
        (gradients["scale"], module.weight.grad.numpy()),
        (gradients["bias"], module.bias.grad.numpy()),
        (new["mean"], module.running_mean.numpy()),
        (new["var"], module.running_var.numpy()),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_flax() -> None:
    """Catches: the unbiased variance averaged where the config asks for the biased one."""
    module = nn.BatchNorm(False, momentum=MOMENTUM, epsilon=EPSILON, use_fast_variance=False)
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, random_variables())
        expected, new = module.apply(variables, jnp.asarray(activations()), mutable=["batch_stats"])
    outputs, found, _ = ours(unbiased=False, train=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-10)
    for name in ("mean", "var"):
        np.testing.assert_allclose(found[name], new["batch_stats"][name], rtol=1e-10)


def test_variance_of_large_means() -> None:
    """Catches: a variance computed as E[x²] - E[x]², which is lost in float32's rounding."""
    x = jnp.asarray(np.random.default_rng(0).normal(1000, 0.1, (8, 4, 4, 1)), jnp.float32)
    module = BatchNorm(0.0, EPSILON, unbiased=False)
    variables = meta.unbox(module.init(jax.random.key(0), x, train=False))
    _, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["var"], np.var(np.float64(x)), rtol=1e-3)


def test_bfloat16_statistics_are_float32() -> None:
    """Catches: statistics, or the normalization, in the type of the activations."""
    x = jnp.asarray(activations(), jnp.bfloat16)
    module = BatchNorm(MOMENTUM, EPSILON, unbiased=True)
    variables = jax.tree.map(jnp.float32, random_variables())
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    wide, expected = module.apply(
        variables, x.astype(jnp.float32), train=True, mutable=["batch_stats"]
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, new, expected)
