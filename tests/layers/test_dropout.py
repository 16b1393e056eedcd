"""Dropout as in the paper: masks by example number, no scaling, a factor at test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alexnet_jax.layers.dropout import dropout, rescale_kept, scale_by_keep_prob

KEY = jax.random.key(3)
UNITS = jnp.ones((6, 500))


def masks(examples: list[int], key: jax.Array = KEY) -> np.ndarray:
    return np.asarray(dropout(UNITS[: len(examples)], 0.5, key, jnp.array(examples, jnp.uint32)))


def test_mask_depends_on_example_number_alone() -> None:
    """Catches masks drawn for the batch as a whole: another order or size would change them."""
    all_masks = masks([10, 11, 12, 2**32 - 1, 14, 15])
    np.testing.assert_array_equal(masks([15, 2**32 - 1, 10]), all_masks[[5, 3, 0]])
    np.testing.assert_array_equal(masks([12]), all_masks[2:3])
    assert len(np.unique(all_masks, axis=0)) == 6


def test_mask_depends_on_key() -> None:
    """Catches layers or columns that share their masks: half of the units agree by chance."""
    agreeing = np.mean(masks([1, 2, 3, 4], KEY) == masks([1, 2, 3, 4], jax.random.key(4)))
    assert agreeing == pytest.approx(0.5, abs=0.06)  # standard deviation 0.011


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_rate(rate: float) -> None:
    """Catches keep and drop mixed up; 60,000 draws, five standard deviations."""
    dropped = dropout(jnp.ones((60, 1000)), rate, KEY, jnp.arange(60)) == 0
    assert float(dropped.mean()) == pytest.approx(rate, abs=5 * (rate * (1 - rate) / 60_000) ** 0.5)


def test_survivors_are_not_scaled() -> None:
    """Catches inverted dropout, which doubles what survives, and gradients to what does not."""
    x = jnp.linspace(1, 2, 3000).reshape(6, 500)
    out, vjp = jax.vjp(lambda a: dropout(a, 0.5, KEY, jnp.arange(6)), x)
    kept = np.asarray(out) != 0
    np.testing.assert_array_equal(np.asarray(out)[kept], np.asarray(x)[kept])
    np.testing.assert_array_equal(vjp(jnp.ones_like(x))[0], kept)


def test_rate_zero_keeps_everything() -> None:
    """Catches a comparison that drops the unit whose draw is the largest or smallest."""
    x = jnp.arange(3000.0).reshape(6, 500)
    np.testing.assert_array_equal(dropout(x, 0.0, KEY, jnp.arange(6)), x)
    np.testing.assert_array_equal(scale_by_keep_prob(x, 0.0), x)


def test_expectation_at_test() -> None:
    """Catches the rate in place of the probability of staying, and a changed type."""
    x = jnp.arange(8.0, dtype=jnp.bfloat16)
    assert scale_by_keep_prob(x, 0.25).dtype == jnp.bfloat16
    np.testing.assert_array_equal(scale_by_keep_prob(x, 0.25), 0.75 * np.arange(8.0))


def test_inverted_dropout_keeps_the_expectation() -> None:
    """Catches survivors multiplied by the share of survivors, or not at all.

    PyTorch's dropout gives a survivor the same value, and the mean of 60,000 draws stays near 1:
    five standard deviations.
    """
    out = np.asarray(rescale_kept(dropout(jnp.ones((60, 1000)), 0.2, KEY, jnp.arange(60)), 0.2))
    torchs = torch.nn.Dropout(0.2).train()(torch.ones(1000)).numpy()
    np.testing.assert_array_equal(np.unique(out), np.unique(torchs))
    assert out.mean() == pytest.approx(1, abs=5 * (0.25 / 60_000) ** 0.5)
