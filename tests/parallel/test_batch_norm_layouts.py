"""Batch normalization uses the statistics of the whole batch on any number of devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_branched import random_batch, random_variables, small_resnet

from alexnet_jax import sharding
from alexnet_jax.config import Config, ParallelConfig, validated
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.train_step import abstract_state, make_state, make_train_step


def config_on(devices: int) -> Config:
    """Return a config whose first momentum buffer is the negative gradient."""
    config = small_resnet(n=1, shortcut="B")
    config.learning_rate = 1.0
    config.optimizer.weight_decay = 0.0
    config.parallel.data = devices
    return validated(config)


def one_step(devices: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the gradients and the new statistics of a step from the same state."""
    config = config_on(devices)
    mesh = sharding.make_mesh(config.parallel)
    step = make_train_step(config, mesh, num_images=100)
    options = {"xla_backend_optimization_level": 0}
    quick = jax.jit(lambda *arguments: step(*arguments), compiler_options=options)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    variables = jax.tree.map(jnp.asarray, random_variables(config))
    state = jax.device_put(make_state(config, variables), places)
    mean = jnp.full((1, 1, 1), 128.0)
    batch = sharding.shard_batch(random_batch(config, 0), sharding.batch_sharding(config, mesh))
    new, _ = quick(state, mean, batch)
    (momentum,) = jax.tree.leaves(
        new.opt_state, is_leaf=lambda part: isinstance(part, dict) and "conv1" in part
    )
    return leaves_by_path(jax.device_get(momentum)), leaves_by_path(jax.device_get(new.batch_stats))


def gradient_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference of gradients, relative to the norm of each array."""
    assert found.keys() == expected.keys()
    norms = {path: np.linalg.norm(gradient) for path, gradient in expected.items()}
    assert min(norms.values()) > 0
    return max(
        float(np.linalg.norm(found[path] - expected[path]) / norms[path]) for path in expected
    )


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return one_step(1)


@pytest.mark.parametrize("devices", [2, 4])
def test_layouts_agree(devices: int, reference: Any) -> None:
    """Catches: statistics of a device's part of the batch, in the forward pass or in its gradient;
    the correction to the unbiased variance by the number of a device's pixels."""
    gradients, statistics = one_step(devices)
    assert gradient_difference(gradients, reference[0]) <= 1e-5
    assert statistics.keys() == reference[1].keys()
    for path, expected in reference[1].items():
        np.testing.assert_allclose(statistics[path], expected, rtol=1e-6, atol=1e-6, err_msg=path)


def test_check_vma_is_needed(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: `check_vma=False`, with which the gradients are silently wrong, and a comparison
    that would not show it."""
    unchecked = partial(jax.shard_map, check_vma=False)
    monkeypatch.setattr(jax, "shard_map", unchecked)
    gradients, _ = one_step(2)
    assert gradient_difference(gradients, reference[0]) > 0.1


@pytest.mark.parametrize("model", [ResNetConfig(), GoogLeNetConfig()])
def test_columns_are_refused(model: ResNetConfig | GoogLeNetConfig) -> None:
    """Catches: columns of a model that has none, which would each hold all of it."""
    config = Config(model=model, parallel=ParallelConfig(columns=2))
    with pytest.raises(InputError, match=r"parallel\.columns=2: a \w+Config has no columns"):
        validated(config)
