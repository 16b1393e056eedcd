"""Pooling against PyTorch's, in float64; max pooling on inputs full of ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alexnet_jax.layers.pooling import adaptive_average_pool, average_pool, max_pool


def activations(shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Rounded ReLU outputs have many ties, negative numbers show padding by zeros."""
    x = np.random.default_rng(0).normal(size=shape)
    return {"relu": np.maximum(np.round(x), 0), "negative": np.round(x) - 9, "real": x}[kind]


@partial(jax.jit, static_argnums=(2, 3, 4))
def both(
    x: jax.Array, cotangent: jax.Array, window: int, stride: int, ceil_mode: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Our value and gradient."""
    value, vjp = jax.vjp(lambda a: max_pool(a, window, stride, ceil_mode=ceil_mode), x)
    return value, vjp(cotangent)[0]


def check(
    shape: tuple[int, int, int, int], window: int, stride: int, kind: str, ceil_mode: bool = True
) -> None:
    x = activations(shape, kind)
    a = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    b = torch.nn.functional.max_pool2d(a, window, stride, ceil_mode=ceil_mode)
    expected = np.moveaxis(b.detach().numpy(), 1, -1)
    # Whole numbers: sums of overlapping windows' gradients are exact in any order.
    cotangent = np.random.default_rng(1).integers(1, 100, expected.shape).astype(float)
    b.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    assert a.grad is not None
    with jax.enable_x64(True):
        value, gradient = both(jnp.asarray(x), jnp.asarray(cotangent), window, stride, ceil_mode)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, np.moveaxis(a.grad.numpy(), 1, -1))


@pytest.mark.parametrize("kind", ["relu", "negative", "real"])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2)])
@pytest.mark.parametrize("side", [6, 13])
def test_pools_of_the_paper(side: int, window: int, stride: int, kind: str) -> None:
    """Catches ties shared or given to the last maximum, and zeros in an overhanging window."""
    check((2, side, side, 5), window, stride, kind)


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.integers(1, 5),
    stride=st.integers(1, 5),
    kind=st.sampled_from(["relu", "negative"]),
    ceil_mode=st.booleans(),
)
def test_any_shape(
    height: int, width: int, window: int, stride: int, kind: str, ceil_mode: bool
) -> None:
    """Catches a wrong number of windows, height for width, and gradients off by one pixel."""
    assume(stride <= window <= min(height, width))
    check((2, height, width, 2), window, stride, kind, ceil_mode)


@pytest.mark.parametrize(("side", "out"), [(55, 27), (27, 13), (13, 6), (24, 12), (12, 6), (6, 3)])
def test_sizes_round_up(side: int, out: int) -> None:
    """Catches sizes rounded down, which drop the last row where a window overhangs."""
    shape = jax.eval_shape(
        lambda x: max_pool(x, 3, 2), jax.ShapeDtypeStruct((1, side, side, 1), "f")
    )
    assert shape.shape == (1, out, out, 1)


def test_bfloat16_stays() -> None:
    """Catches a float32 detour: maxima and their gradients are exact in any type."""
    x = jnp.asarray(activations((1, 7, 7, 3), "relu"), jnp.bfloat16)
    cotangent = jnp.ones((1, 3, 3, 3))
    value, gradient = both(x, cotangent.astype(x.dtype), 3, 2)
    wide, wide_gradient = both(x.astype(jnp.float32), cotangent, 3, 2)
    assert value.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, wide)
    np.testing.assert_array_equal(gradient, wide_gradient)


@pytest.mark.parametrize(("side", "window", "stride"), [(2, 3, 2), (6, 2, 3)])
def test_impossible_pools_are_refused(side: int, window: int, stride: int) -> None:
    """Catches an empty output, or pixels that no window sees, passing silently."""
    with pytest.raises(ValueError, match=f"{side}×{side} by windows of {window}"):
        max_pool(jnp.ones((1, side, side, 1)), window, stride)


@pytest.mark.parametrize("size", [3, 4, 5, 12, 27, 54])
def test_rounding_down(size: int) -> None:
    """Catches a window too many or too few where the last one overhangs; PyTorch rounds down."""
    check((1, size, size + 1, 2), 3, 2, "real", ceil_mode=False)


@pytest.mark.parametrize("stride", [1, 2])
def test_padding(stride: int) -> None:
    """Catches: padding by zeros, which are larger than negative activations; windows that begin
    elsewhere; a gradient that goes to the padding."""
    x = activations((2, 6, 7, 3), "negative")
    a = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    expected = torch.nn.functional.max_pool2d(a, 3, stride, padding=1)
    expected.sum().backward()
    assert a.grad is not None

    def pool(x: jax.Array) -> jax.Array:
        return max_pool(x, 3, stride, ceil_mode=False, padding=1)

    with jax.enable_x64(True):
        value, vjp = jax.vjp(pool, jnp.asarray(x))
        (gradient,) = vjp(jnp.ones_like(value))
    np.testing.assert_array_equal(value, np.moveaxis(expected.detach().numpy(), 1, -1))
    np.testing.assert_array_equal(gradient, np.moveaxis(a.grad.numpy(), 1, -1))


@pytest.mark.parametrize("side", [5, 14, 15])
def test_average_pooling(side: int) -> None:
    """Catches: sums in place of means, windows that overhang, and those of PyTorch's adaptive
    pooling that begin or end a pixel off."""
    x = np.random.default_rng(0).normal(size=(2, side, side + 1, 3))
    a = torch.tensor(np.moveaxis(x, -1, 1))
    with jax.enable_x64(True):
        windows, adaptive = (
            average_pool(jnp.asarray(x), 5, 3),
            adaptive_average_pool(jnp.asarray(x), 4),
        )
    for found, expected in (
        (windows, torch.nn.functional.avg_pool2d(a, 5, 3)),
        (adaptive, torch.nn.functional.adaptive_avg_pool2d(a, 4)),
    ):
        np.testing.assert_allclose(found, np.moveaxis(expected.numpy(), 1, -1), rtol=1e-12)


def mean_by_loops(x: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Return the means over the pixels of each window that are inside, window by window."""
    counts = [1 + -(-(size - window) // stride) for size in x.shape[1:3]]
    out = np.empty((len(x), *counts, x.shape[3]))
    for row, column in np.ndindex(*counts):
        top, left = row * stride, column * stride
        out[:, row, column] = x[:, top : top + window, left : left + window].mean((1, 2))
    return out


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(8, 7, 3, 2), (5, 9, 4, 3), (6, 6, 2, 2), (3, 4, 3, 3), (4, 5, 1, 1), (7, 4, 4, 4)],
)
def test_average_pooling_that_rounds_up(height: int, width: int, window: int, stride: int) -> None:
    """The means of a direct loop, also in windows that overhang at one edge or at both.

    Catches: the sum of a clipped window divided by the size of a whole one, as zeros around it
    would do; the division by the pixels of one axis only; a window too few; a wrong gradient.
    """
    x = np.random.default_rng(0).normal(size=(2, height, width, 3))
    with jax.enable_x64(True):
        value, vjp = jax.vjp(
            lambda a: average_pool(a, window, stride, ceil_mode=True), jnp.asarray(x)
        )
        cotangent = np.random.default_rng(1).normal(size=value.shape)
        (gradient,) = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(value, mean_by_loops(x, window, stride), rtol=1e-12)
    a = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    pooled = torch.nn.functional.avg_pool2d(
        a, window, stride, ceil_mode=True, count_include_pad=False
    )
    pooled.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    assert a.grad is not None
    np.testing.assert_allclose(gradient, np.moveaxis(a.grad.numpy(), 1, -1), atol=1e-12)
