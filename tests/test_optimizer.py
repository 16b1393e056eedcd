"""The update rule and the learning rate, against plain loops and hand arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_twin

from alexnet_jax.errors import InputError
from alexnet_jax.optimizer import (
    Plateau,
    check_multipliers,
    learning_rate,
    make_optimizer,
    rates,
)

IMAGENET = 1281167
RATES = [0.01, 0.01, 0.01, 0.001, 0.001, 0.0001]


def gradients() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for _ in RATES]


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"kernel": 10 * rng.normal(size=(3, 4)), "bias": 10 * rng.normal(size=4)}


def descend(optimizer: Any, in_update: bool) -> dict[str, Any]:
    """Parameters after all steps, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start())
        state = optimizer.init(params)
        for rate, gradient in zip(RATES, gradients(), strict=True):
            given = jax.tree.map(jnp.asarray, gradient)
            if in_update:
                updates, state = optimizer.update(given, state, params, learning_rate=rate)
            else:
                state.hyperparams["learning_rate"] = jnp.asarray(rate)
                updates, state = optimizer.update(given, state, params)
            params = optax.apply_updates(params, updates)
    return params


def plain() -> dict[str, np.ndarray]:
    """Section 5, as it stands there."""
    weights = start()
    velocity = {name: np.zeros_like(w) for name, w in weights.items()}
    for rate, gradient in zip(RATES, gradients(), strict=True):
        for name, w in weights.items():
            v = 0.9 * velocity[name] - 0.0005 * rate * w - rate * gradient[name]
            velocity[name], weights[name] = v, w + v
    return weights


def test_update_rule() -> None:
    """Catches the rate outside of the velocity, no decay on biases, and a wrong sign."""
    got, expected = descend(make_optimizer(config()), in_update=True), plain()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-13)


def test_not_sgd_of_optax() -> None:
    """Catches optax.sgd in place of the paper's rule: the same until the rate drops, not after."""
    sgd = optax.inject_hyperparams(
        lambda learning_rate: optax.chain(
            optax.add_decayed_weights(0.0005), optax.sgd(learning_rate, momentum=0.9)
        )
    )(learning_rate=0.01)
    got, expected = descend(sgd, in_update=False), plain()
    moved = np.abs(expected["kernel"] - start()["kernel"])
    apart = np.abs(np.asarray(got["kernel"]) - expected["kernel"])
    assert np.median(apart / moved) > 0.1


def config(**schedule: Any) -> Any:
    """The paper's rates and batch of 128."""
    paper = torch_twin.config_module()["get_config"]()
    paper.schedule.update(schedule)
    return paper


def rate(config: Any, step: int, plateau: Plateau | None = None, images: int = IMAGENET) -> float:
    return float(learning_rate(config, images, step, plateau or Plateau.start()))


@pytest.mark.parametrize(
    ("epoch", "step", "before", "after"),
    [
        # ceil((epoch - 1) · 1281167 / 128), by hand:
        (25, 240_219, 1e-2, 1e-3),  # 24 · 1281167 = 30,748,008 = 128 · 240,218 + 104
        (51, 500_456, 1e-3, 1e-4),  # 50 · 1281167 = 64,058,350 = 128 · 500,455 + 110
        (79, 780_712, 1e-4, 1e-5),  # 78 · 1281167 = 99,931,026 = 128 · 780,711 + 18
    ],
)
def test_epochs_of_the_paper(epoch: int, step: int, before: float, after: float) -> None:
    """Catches epochs counted from 0, whole batches per epoch, and a drop one step off."""
    assert epoch in config().schedule.drop_epochs
    assert rate(config(), step - 1) == pytest.approx(before, rel=1e-6)
    assert rate(config(), step) == pytest.approx(after, rel=1e-6)


def test_epoch_that_starts_with_a_batch() -> None:
    """Catches a drop one step late where the epoch begins exactly with a batch."""
    assert rate(config(), 23, images=128) == pytest.approx(0.01, rel=1e-6)
    assert rate(config(), 24, images=128) == pytest.approx(0.001, rel=1e-6)


def test_rate_is_traced() -> None:
    """Catches a schedule decided in Python, which would compile the step again at each drop."""
    jitted = jax.jit(lambda step: learning_rate(config(), IMAGENET, step, Plateau.start()))
    assert float(jitted(jnp.int32(240_218))) == pytest.approx(1e-2, rel=1e-6)
    assert float(jitted(jnp.int32(240_219))) == pytest.approx(1e-3, rel=1e-6)


def test_plateau_waits_and_resets() -> None:
    """Catches patience off by one, an equal error taken as better, and a wait not started anew."""
    plateau, drops = Plateau.start(), []
    #          best       best            drop           best           drop
    for error in (0.5, 0.6, 0.4, 0.4, 0.45, 0.41, 0.5, 0.5, 0.39, 0.4, 0.4, 0.4):
        plateau = plateau.observe(error, patience=3)
        drops.append(int(plateau.drops))
    assert drops == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert float(plateau.best) == pytest.approx(0.39)


def test_plateau_divides_at_most_so_often() -> None:
    """Catches a rate that goes on falling after the last division."""
    rates, plateau = [], Plateau.start()
    for _ in range(6):
        rates.append(rate(config(rule="plateau", drops=3), 10**6, plateau))
        plateau = plateau.observe(float("nan"), patience=1)
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5], rel=1e-6)


def test_unknown_rule() -> None:
    """Catches a misspelt rule that leaves the rate constant."""
    with pytest.raises(InputError, match=r"schedule\.rule is 'epoch'"):
        rate(config(rule="epoch"), 0)


def test_biases_need_not_decay() -> None:
    """Catches a decay of biases where config.decay_biases is off, and weights that lose theirs."""
    spared = config()
    spared.decay_biases = False
    got, expected, zero = descend(make_optimizer(spared), in_update=True), plain(), start()
    np.testing.assert_allclose(got["kernel"], expected["kernel"], rtol=1e-13)
    velocity = np.zeros(4)
    for rate, gradient in zip(RATES, gradients(), strict=True):
        velocity = 0.9 * velocity - rate * gradient["bias"]
        zero["bias"] = zero["bias"] + velocity
    np.testing.assert_allclose(got["bias"], zero["bias"], rtol=1e-13)


# conv1 slows down, is frozen, and goes on; fc8 starts fast within epoch 1; biases have their own.
MULTIPLIERS = (
    ("conv1", 7, 0.0),
    ("conv1", 5, 0.5),
    ("conv1", 8, 1.0),
    ("fc8", 1.25, 10.0),
    ("fc8", 3, 1.0),
    ("conv2/kernel", 9, 3.0),
    ("bias", 1, 2.0),
    ("bias", 6, 20.0),
)
NET = {name: {"kernel": np.ones(2), "bias": np.ones(1)} for name in ("conv1", "conv2", "fc8")}


def test_rates_of_layers_and_biases() -> None:
    """Catches factors that do not multiply, take effect a step off, are taken in the order in
    which they are listed, or reach other layers. 100 steps an epoch, by hand."""
    paper = config(multipliers=MULTIPLIERS)
    paper.batch_size = 4

    def at(step: int) -> list[float]:
        each = rates(paper, 400, jnp.int32(step), jnp.float32(0.01), NET)
        return [float(each[name][kind]) for name in NET for kind in ("kernel", "bias")]

    for step, conv1, conv2, fc8, bias in [  # conv2's kernel only
        (0, 1, 1, 1, 2),
        (24, 1, 1, 1, 2),
        (25, 1, 1, 10, 2),
        (199, 1, 1, 10, 2),
        (200, 1, 1, 1, 2),
        (400, 0.5, 1, 1, 2),
        (500, 0.5, 1, 1, 20),
        (600, 0, 1, 1, 20),
        (700, 1, 1, 1, 20),
        (800, 1, 3, 1, 20),
    ]:
        kernel_and_bias = (conv1, conv1 * bias, conv2, bias, fc8, fc8 * bias)
        expected = [0.01 * factor for factor in kernel_and_bias]
        assert at(step) == pytest.approx(expected, rel=1e-6), step


def test_frozen_layer_stands_still() -> None:
    """Catches a frozen layer that its velocity carries on, and weight decay that moves it."""
    optimizer = make_optimizer(config())
    params = jax.tree.map(jnp.asarray, NET)
    gradient = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(gradient, optimizer.init(params), params, learning_rate=0.1)
    each = rates(config(multipliers=(("conv1", 1, 0.0),)), 1, 0, jnp.float32(0.1), NET)
    updates, _ = optimizer.update(gradient, state, params, learning_rate=each)
    assert not np.any(updates["conv1"]["kernel"])
    assert not np.any(updates["conv1"]["bias"])
    assert np.all(updates["conv2"]["kernel"])


@pytest.mark.parametrize(
    "entry",
    [
        "fc8",
        ("conv9", 1, 1.0),
        ("fc8/weight", 1, 1.0),
        ("fc8", 0, 1.0),
        ("fc8", 1, -1.0),
        ("fc8", "1", 1.0),
    ],
)
def test_wrong_multipliers(entry: Any) -> None:
    """Catches a misspelt layer whose rate never changes, and epochs counted from 0."""
    check_multipliers(config(multipliers=MULTIPLIERS))
    with pytest.raises(InputError, match=r"schedule\.multipliers has .*; expected \(name, epoch"):
        check_multipliers(config(multipliers=(entry,)))
