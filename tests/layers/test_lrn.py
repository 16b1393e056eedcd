"""Normalization across and within channels against PyTorch, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.layers.lrn import lrn, within_channel_lrn

PAPER = (5, 2.0, 1e-4, 0.75)


@partial(jax.jit, static_argnums=2)
def both(
    x: jax.Array, cotangent: jax.Array, rule: tuple[int, float, float, float]
) -> tuple[jax.Array, jax.Array]:
    """Our value and gradient."""
    value, vjp = jax.vjp(lambda a: lrn(a, *rule), x)
    return value, vjp(cotangent)[0]


def pytorch(
    x: np.ndarray, cotangent: np.ndarray, size: int, k: float, alpha: float, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's value and gradient; it wants channels second, and divides its alpha by the size."""
    a = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    b = torch.nn.functional.local_response_norm(a, size, alpha * size, beta, k)
    b.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    assert a.grad is not None
    return np.moveaxis(b.detach().numpy(), 1, -1), np.moveaxis(a.grad.numpy(), 1, -1)


def check(shape: tuple[int, ...], spread: float, rule: tuple[int, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    x, cotangent = spread * rng.normal(size=shape), rng.normal(size=shape)
    with jax.enable_x64(True):
        value, gradient = both(jnp.asarray(x), jnp.asarray(cotangent), rule)
    expected, expected_gradient = pytorch(x, cotangent, *rule)
    # Float64 throughout; sums of a few terms differ in their last digits only.
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12 * spread)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_paper_constants(spread: float) -> None:
    """Catches alpha divided by the size, k of 1, and a wrong power in the fast path of 0.75."""
    check((2, 5, 4, 96), spread, PAPER)


@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 3),
    channels=st.integers(1, 12),
    size=st.sampled_from([1, 3, 5, 7]),
    k=st.sampled_from([1.0, 2.0]),
    alpha=st.sampled_from([1e-4, 0.3]),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
)
def test_any_shape_and_rule(
    batch: int, height: int, channels: int, size: int, k: float, alpha: float, beta: float
) -> None:
    """Catches a window shifted by one, or not cut off at the first and last channel."""
    check((batch, height, 2, channels), 3.0, (size, k, alpha, beta))


def test_gradient_reaches_neighbors() -> None:
    """Catches a gradient without the term that goes through the neighbors' squares."""
    x = jnp.ones((1, 1, 1, 9))
    jacobian = jax.jit(jax.jacobian(lambda a: lrn(a, 5, 2.0, 0.3, 0.75)))(x).reshape(9, 9)
    apart = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    np.testing.assert_array_equal(np.asarray(jacobian) != 0, apart <= 2)


def test_bfloat16_computes_in_float32() -> None:
    """Catches arithmetic in bfloat16: the result is float32's, rounded once at the end."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(100 * rng.normal(size=(2, 3, 3, 24)), jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
    value, gradient = both(x, cotangent, PAPER)
    wide, wide_gradient = both(x.astype(jnp.float32), cotangent.astype(jnp.float32), PAPER)
    assert value.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, wide.astype(jnp.bfloat16))
    np.testing.assert_array_equal(gradient, wide_gradient.astype(jnp.bfloat16))


def test_even_size_is_refused() -> None:
    """Catches an even window, which PyTorch accepts and shifts to one side."""
    with pytest.raises(ValueError, match="odd, got 4"):
        lrn(jnp.ones((1, 1, 1, 8)), 4, 2.0, 1e-4, 0.75)


@pytest.mark.parametrize(
    ("height", "width", "size", "k", "beta"),
    [(7, 6, 5, 1.0, 0.75), (2, 7, 5, 2.0, 0.5), (4, 1, 3, 1.0, 0.75)],
)
def test_within_channel_lrn(height: int, width: int, size: int, k: float, beta: float) -> None:
    """Catches a window over other axes, one that is not cut off at the edges, and a
    gradient that does not reach the neighbors. PyTorch's average pool is the sum of a window,
    zeros beyond the edge, over size²."""
    rng, alpha = np.random.default_rng(0), 0.3
    x, cotangent = 3 * rng.normal(size=(2, 2, height, width, 3))
    with jax.enable_x64(True):

        @jax.jit
        def ours(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, vjp = jax.vjp(lambda a: within_channel_lrn(a, size, k, alpha, beta), x)
            return value, vjp(cotangent)[0]

        value, gradient = ours(jnp.asarray(x), jnp.asarray(cotangent))
    a = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    mean = torch.nn.functional.avg_pool2d(a**2, size, stride=1, padding=size // 2)
    b = a / (k + alpha * size**2 * mean) ** beta
    b.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    assert a.grad is not None
    # Float64 throughout; sums of a few terms differ in their last digits only.
    np.testing.assert_allclose(value, np.moveaxis(b.detach().numpy(), 1, -1), rtol=1e-12)
    expected = np.moveaxis(a.grad.numpy(), 1, -1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
