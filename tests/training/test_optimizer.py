"""The update rule and the learning rate, against plain loops and hand arithmetic."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.config import Config, OptimizerConfig, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.optimizer import limit_filters, make_optimizer, weight_decay
from alexnet_jax.schedules import (
    PlateauState,
    check_patterns,
    init_schedule_state,
    learning_rate,
    learning_rates,
    total_steps,
)
from configs.alexnet import get_config

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
                rates = dict.fromkeys(given, rate)
                updates, state = optimizer.update(given, state, params, learning_rate=rates)
            else:
                state.hyperparams["learning_rate"] = jnp.asarray(rate)
                updates, state = optimizer.update(given, state, params)
            params = optax.apply_updates(params, updates)
    return params


def plain() -> dict[str, np.ndarray]:
    """Section 5, as it stands there."""
    weights = start()
    momentum_buffer = {name: np.zeros_like(w) for name, w in weights.items()}
    for rate, gradient in zip(RATES, gradients(), strict=True):
        for name, w in weights.items():
            v = 0.9 * momentum_buffer[name] - 0.0005 * rate * w - rate * gradient[name]
            momentum_buffer[name], weights[name] = v, w + v
    return weights


def test_update_rule() -> None:
    """Catches the rate outside of the momentum buffer, no decay on biases, and a wrong sign."""
    got, expected = descend(make_optimizer(OptimizerConfig()), in_update=True), plain()
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


def config(**schedule: Any) -> Config:
    """The paper's rates and batch of 128."""
    paper = get_config()
    paper.schedule = replace(paper.schedule, **schedule)
    return validated(paper)


def rate(
    config: Config, step: int, state: PlateauState | None = None, images: int = IMAGENET
) -> float:
    return float(learning_rate(config, images, step, state))


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
    jitted = jax.jit(lambda step: learning_rate(config(), IMAGENET, step, None))
    assert float(jitted(jnp.int32(240_218))) == pytest.approx(1e-2, rel=1e-6)
    assert float(jitted(jnp.int32(240_219))) == pytest.approx(1e-3, rel=1e-6)


def first_plateau() -> PlateauState:
    state = init_schedule_state(config(rule="plateau").schedule)
    assert state is not None
    return state


def test_only_the_plateau_rule_has_a_state() -> None:
    """Catches a state that the rule "epochs" would have to carry along."""
    assert init_schedule_state(config().schedule) is None


def test_plateau_waits_and_resets() -> None:
    """Catches patience off by one, an equal error taken as better, and a wait not started anew."""
    plateau, drops = first_plateau(), []
    #          best       best            drop           best           drop
    for error in (0.5, 0.6, 0.4, 0.4, 0.45, 0.41, 0.5, 0.5, 0.39, 0.4, 0.4, 0.4):
        plateau = plateau.observe(error, patience=3)
        drops.append(int(plateau.drops))
    assert drops == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert float(plateau.best) == pytest.approx(0.39)


def test_plateau_divides_at_most_so_often() -> None:
    """Catches a rate that goes on falling after the last division."""
    rates, plateau = [], first_plateau()
    for _ in range(6):
        rates.append(rate(config(rule="plateau", drops=3), 10**6, plateau))
        plateau = plateau.observe(float("nan"), patience=1)
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5], rel=1e-6)


def test_total_steps() -> None:
    """Catches a last epoch that is not finished, and a limit that lengthens the run."""
    changed = lambda **fields: with_changes(config(), fields)  # noqa: E731
    assert total_steps(config(), IMAGENET) == 900_821  # 90 · 1281167 = 128 · 900,820 + 70
    assert total_steps(changed(max_steps=7), IMAGENET) == 7
    assert total_steps(changed(max_steps=10**6), IMAGENET) == 900_821


def test_biases_need_not_decay() -> None:
    """Catches a decay of biases that a pattern spares, and weights that lose theirs."""
    spared = OptimizerConfig(decay_multipliers=(("bias", 0.0),))
    got, expected, zero = descend(make_optimizer(spared), in_update=True), plain(), start()
    np.testing.assert_allclose(got["kernel"], expected["kernel"], rtol=1e-13)
    momentum = np.zeros(4)
    for rate, gradient in zip(RATES, gradients(), strict=True):
        momentum = 0.9 * momentum - rate * gradient["bias"]
        zero["bias"] = zero["bias"] + momentum
    np.testing.assert_allclose(got["bias"], zero["bias"], rtol=1e-13)


# conv1 slows down, is frozen, and goes on; fc8 starts fast within epoch 1; biases have their own.
MULTIPLIERS = (
    ("conv1/.*", 7, 0.0),
    ("conv1/.*", 5, 0.5),
    ("conv1/.*", 8, 1.0),
    ("fc8/.*", 1.25, 10.0),
    ("fc8/.*", 3, 1.0),
    ("conv2/kernel", 9, 3.0),
    (".*/bias", 1, 2.0),
    (".*/bias", 6, 20.0),
)
PARAMS = {name: {"kernel": np.ones(2), "bias": np.ones(1)} for name in ("conv1", "conv2", "fc8")}
# As of a model with modules in modules.
NESTED = {
    "block1": {
        "conv1": {"kernel": np.ones(2), "bias": np.ones(1)},
        "conv2": {"kernel": np.ones(2), "bias": np.ones(1)},
    },
    "fc8": {"kernel": np.ones(2), "bias": np.ones(1)},
}


def test_rates_of_layers_and_biases() -> None:
    """Catches factors that do not multiply, take effect a step off, are taken in the order in
    which they are listed, or reach other layers. 100 steps an epoch, by hand."""
    paper = with_changes(config(multipliers=MULTIPLIERS), {"batch_size": 4})

    def at(step: int) -> list[float]:
        each = learning_rates(paper, 400, jnp.int32(step), jnp.float32(0.01), PARAMS)
        return [float(each[name][kind]) for name in PARAMS for kind in ("kernel", "bias")]

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


def test_rates_of_nested_parameters() -> None:
    """Catches patterns matched against a part of the path: against the layer's name alone, or
    from its beginning only."""
    multipliers = (
        ("block1/conv1/.*", 1, 2.0),
        ("conv2/.*", 1, 3.0),  # of no path as a whole
        (".*/bias", 1, 5.0),
        ("fc8/ker", 1, 7.0),  # the same
        ("block1/[^/]*/kernel", 1, 11.0),
    )
    chosen = config(multipliers=multipliers)
    each = learning_rates(chosen, 400, 0, jnp.float32(1), NESTED)
    assert jax.tree.map(float, each) == {
        "block1": {"conv1": {"kernel": 22, "bias": 10}, "conv2": {"kernel": 11, "bias": 5}},
        "fc8": {"kernel": 1, "bias": 5},
    }


def test_decay_of_nested_parameters() -> None:
    """Catches patterns of the decay matched as those of the rates are not: factors of several
    patterns multiply, and a pattern must match a whole path."""
    chosen = OptimizerConfig(
        momentum=0.0,
        weight_decay=0.5,
        decay_multipliers=(
            (".*/bias", 0.0),
            ("block1/.*", 2.0),
            ("block1/conv1/.*", 3.0),
            ("conv1/kernel", 7.0),  # of no path as a whole
            ("fc8", 7.0),
        ),
    )
    assert weight_decay(chosen, "block1/conv1/kernel") == 3.0
    assert weight_decay(chosen, "block10/conv1/kernel") == 0.5
    params: Any = jax.tree.map(jnp.asarray, NESTED)
    zero, ones = (jax.tree.map(make, params) for make in (jnp.zeros_like, jnp.ones_like))
    rates = jax.tree.map(lambda _: 1.0, params)
    optimizer = make_optimizer(chosen)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, learning_rate=rates)
    expected = {
        "block1": {"conv1": {"kernel": 3.0, "bias": 0.0}, "conv2": {"kernel": 1.0, "bias": 0.0}},
        "fc8": {"kernel": 0.5, "bias": 0.0},
    }
    jax.tree.map(
        lambda update, one, decay: np.testing.assert_array_equal(update, -decay * one),
        updates,
        ones,
        expected,
    )


def test_frozen_layer_stands_still() -> None:
    """Catches a frozen layer that its momentum carries on, and weight decay that moves it."""
    optimizer = make_optimizer(OptimizerConfig())
    params: Any = jax.tree.map(jnp.asarray, PARAMS)
    gradient = jax.tree.map(jnp.ones_like, params)
    rates = jax.tree.map(lambda _: 0.1, params)
    _, state = optimizer.update(gradient, optimizer.init(params), params, learning_rate=rates)
    chosen = config(multipliers=(("conv1/.*", 1, 0.0),))
    each = learning_rates(chosen, 1, 0, jnp.float32(0.1), PARAMS)
    updates, _ = optimizer.update(gradient, state, params, learning_rate=each)
    assert not np.any(updates["conv1"]["kernel"])
    assert not np.any(updates["conv1"]["bias"])
    assert np.all(updates["conv2"]["kernel"])


@pytest.mark.parametrize("pattern", ["conv9/.*", "fc8/weight", "fc8", "bias", "block1/conv1"])
@pytest.mark.parametrize("field", ["schedule.multipliers", "optimizer.decay_multipliers"])
def test_patterns_of_no_parameter(field: str, pattern: str) -> None:
    """Catches a misspelled layer whose rate never changes, or whose weights decay on."""
    entry = (pattern, 1, 1.0) if field == "schedule.multipliers" else (pattern, 1.0)
    chosen = with_changes(config(), {field: (entry,)})
    for params in (PARAMS, NESTED):
        with pytest.raises(InputError) as raised:
            check_patterns(chosen, params)
        message = str(raised.value)
        assert message.startswith(
            f"{field} has the pattern {pattern!r}, which matches no parameter"
        )
        assert "fc8/kernel" in message


def test_patterns_of_parameters() -> None:
    """Catches patterns that are refused though they match, at any depth."""
    decay = {"optimizer.decay_multipliers": ((".*/bias", 0.0),)}
    chosen = with_changes(config(multipliers=MULTIPLIERS), decay)
    check_patterns(chosen, PARAMS)
    nested = config(multipliers=(("block1/conv2/kernel", 1, 2.0), ("block1/.*", 1, 2.0)))
    check_patterns(with_changes(nested, decay), NESTED)
    with pytest.raises(InputError, match=r"block1/conv2/kernel.* for paths of conv1/bias, "):
        check_patterns(nested, PARAMS)


def filters() -> dict[str, Any]:
    """Parameters with filters below and above a root mean square of 0.1, and one of zeros."""
    rng = np.random.default_rng(2)
    stds = np.array([0.01, 0.09, 0.11, 5.0, 0.0])
    return {
        "conv1": {
            "kernel": (stds * rng.standard_normal((7, 7, 3, 5))).astype(np.float32),
            "bias": np.full(5, 9, np.float32),
        },
        "conv2": {"kernel": (stds * rng.standard_normal((2, 5, 5, 4, 5))).astype(np.float32)},
        "fc6": {"kernel": np.full((9, 5), 9, np.float32)},
        "fc7": {"kernel": np.full((2, 9, 5), 9, np.float32)},  # with an axis of columns
    }


def test_filters_are_limited() -> None:
    """Catches: a limit over a whole kernel, of the L2 norm, or over columns together; filters that
    are raised to the limit; biases and fully-connected layers that are limited, too."""
    params = filters()
    rates = jax.tree.map(lambda _: jnp.float32(0.01), params)
    limited = limit_filters(jax.tree.map(jnp.asarray, params), 0.1, rates)
    limited = jax.tree.map(np.asarray, limited)
    for layer in ("conv1", "conv2"):
        kernel, new = (tree[layer]["kernel"] for tree in (params, limited))
        rms = np.sqrt((kernel.astype(np.float64) ** 2).mean((-4, -3, -2)))
        new_rms = np.sqrt((new.astype(np.float64) ** 2).mean((-4, -3, -2)))
        np.testing.assert_allclose(new_rms, np.minimum(rms, 0.1), rtol=1e-6)
        for index in np.ndindex(rms.shape):
            filters_ = tuple(array[(*index[:-1], ..., index[-1])] for array in (kernel, new))
            if rms[index] <= 0.1:
                np.testing.assert_array_equal(*filters_)
            else:  # the direction is kept
                np.testing.assert_allclose(filters_[1], filters_[0] * (0.1 / rms[index]), rtol=1e-6)
        assert {*(rms > 0.1).ravel()} == {True, False}
    for layer, part in (("conv1", "bias"), ("fc6", "kernel"), ("fc7", "kernel")):
        np.testing.assert_array_equal(limited[layer][part], params[layer][part])
    # "every filter whose RMS exceeds 10⁻¹": in conv1 an L2 norm of 0.1 · √147
    norms = np.linalg.norm(limited["conv1"]["kernel"].reshape(147, 5), axis=0)
    assert norms.max() == pytest.approx(1.2124, abs=1e-4)


def test_frozen_filters_are_not_limited() -> None:
    """Catches a layer with a learning rate of 0 that changes all the same."""
    params = jax.tree.map(jnp.asarray, filters())
    rates = jax.tree.map(lambda _: jnp.float32(0.01), params)
    rates["conv1"]["kernel"] = jnp.float32(0)
    limited = limit_filters(params, 0.1, rates)
    np.testing.assert_array_equal(limited["conv1"]["kernel"], params["conv1"]["kernel"])
    assert not np.array_equal(limited["conv2"]["kernel"], params["conv2"]["kernel"])
