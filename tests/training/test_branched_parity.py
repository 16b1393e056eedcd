"""Ten steps of training of a residual network and of GoogLeNet, ours and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.torch_branched import (
    random_batch,
    small_googlenet,
    small_resnet,
    torch_inputs,
    variables_from_torch,
)
from helpers.torch_reference import train_in_torch

from alexnet_jax import sharding
from alexnet_jax.config import Config, validated
from alexnet_jax.inputs import mean_of
from alexnet_jax.pytree import Variables, leaves_by_path
from alexnet_jax.train_step import TrainState, make_state, make_train_step
from experiments.benchmark.torch_reference import make_torch_model

pytestmark = pytest.mark.usefixtures("quick_to_compile")

STEPS = 10


def train_ours(config: Config, variables: Variables) -> tuple[TrainState, list[float]]:
    """Train, and return the state and the losses."""
    step = make_train_step(config, sharding.make_mesh(config.parallel), num_images=1000)
    state = make_state(config, jax.tree.map(jnp.array, variables))  # a copy, which is donated
    mean = jnp.asarray(mean_of(np.zeros((1, 1, 1), np.float32), config.data, 1))
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, mean, random_batch(config, number))
        losses.append(float(metrics.sums.loss) / config.batch_size)
    return state, losses


def check(config: Config, tolerance: float) -> None:
    """Train both, and compare all variables by what training moved them.

    Args:
        config: config of the model.
        tolerance: relative to the losses and to the largest change of each array.
    """
    validated(config)
    torch.manual_seed(0)
    model = make_torch_model(config)
    start = variables_from_torch(config, model)
    state, losses = train_ours(config, start)
    expected = []

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        main, *aux = (F.cross_entropy(logits, labels) for logits in model(images))
        expected.append(main.item())
        return main + 0.3 * sum(aux)

    inputs = [torch_inputs(config, random_batch(config, number)) for number in range(STEPS)]
    rates, weights = [config.learning_rate] * STEPS, list(model.train().parameters())
    train_in_torch(weights, loss, inputs, rates, config.optimizer)
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    assert max(losses) - min(losses) > 0.1  # something was learned, or unlearned
    before, wanted = leaves_by_path(start), leaves_by_path(variables_from_torch(config, model))
    found = leaves_by_path(state.variables())
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        moved = np.abs(array - before[path]).max()
        assert moved > 0, path
        difference = np.abs(found[path] - array).max()
        assert difference <= tolerance * moved + 2e-7 * np.abs(array).max(), path


@pytest.mark.parametrize("blocks", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_resnet(blocks: int) -> None:
    """Catches: statistics or gradients of batch normalization that differ after several steps, a
    running variance of the other convention, a shortcut that adds other channels or pixels."""
    check(small_resnet(blocks), tolerance=1e-4)


def test_googlenet() -> None:
    """Catches: an auxiliary classifier without its weight, at another module or without gradient,
    a branch that is missing or concatenated elsewhere, another normalization."""
    check(small_googlenet(), tolerance=1e-4)
