"""Averaged parameters, and the schedule rules of GoogLeNet and residual networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_branched import random_batch, random_variables, small_resnet

from alexnet_jax import sharding
from alexnet_jax.config import Config, validated
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.schedules import learning_rate
from alexnet_jax.train_step import make_state, make_train_step
from configs.googlenet import get_config as googlenet_config
from configs.resnet import get_config as resnet_config

STEPS = 4


def test_average_of_parameters() -> None:
    """Catches: an average of the parameters before the step, a constant decay in the first steps,
    an average that is trained, or that evaluation does not use."""
    config = small_resnet(n=1)
    config.optimizer.ema_decay = 0.2  # from the third step on; 1/10 and 2/11 before
    step = make_train_step(validated(config), sharding.make_mesh(config.parallel), 100)
    quick = jax.jit(
        lambda *arguments: step(*arguments), compiler_options={"xla_backend_optimization_level": 0}
    )
    state = make_state(config, jax.tree.map(jnp.asarray, random_variables(config)))
    average = {path: np.float64(leaf) for path, leaf in leaves_by_path(state.params).items()}
    for number, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        state, _ = quick(state, jnp.full((1, 1, 1), 128.0), random_batch(config, number))
        for path, leaf in leaves_by_path(state.params).items():
            average[path] = decay * average[path] + (1 - decay) * np.float64(leaf)
    found = leaves_by_path(state.variables()["params"])
    for path, expected in average.items():
        np.testing.assert_allclose(found[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
        assert np.abs(leaves_by_path(state.params)[path] - expected).max() > 1e-6
    assert state.variables()["batch_stats"] == state.batch_stats


def test_no_average() -> None:
    """Catches: averaged parameters of a run that did not ask for them, at twice the memory."""
    config = small_resnet(n=1)
    state = make_state(validated(config), random_variables(config))
    assert state.ema_params == {}
    assert state.variables()["params"] is state.params


def rates(config: Config, num_images: int, steps: list[int]) -> list[float]:
    """Return the learning rates of some steps."""
    return [float(learning_rate(config, num_images, step, None)) for step in steps]


def test_rule_period() -> None:
    """Catches: drops counted in steps, a first drop at the start, a drift of later drops where an
    epoch is no whole number of steps."""
    config = googlenet_config()
    config.batch_size, config.epochs = 32, 60
    found = rates(config, 1001, [0, 250, 251, 500, 501, 1751, 1752])
    # 8 epochs are 250.25 steps; 7 × 8 of them 1751.75.
    expected = [0.01 * 0.96**n for n in (0, 0, 1, 1, 2, 6, 7)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_recipe_of_cifar() -> None:
    """Catches: drops a step too late or early, a warm-up of other networks than the 110 layers."""
    steps = [0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999]
    found = rates(resnet_config("cifar110"), 50_000, steps)
    expected = [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert rates(resnet_config("cifar56"), 50_000, [0]) == pytest.approx([0.1])
