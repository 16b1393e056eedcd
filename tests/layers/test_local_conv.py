"""Locally-connected layers against JAX's local convolution, NumPy loops and tied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.layers.conv import convolve
from alexnet_jax.layers.local_conv import convolve_locally

# Height, width, input channels, output channels, side of the kernel, stride, padding.
CASES = [
    (6, 6, 3, 4, 3, 1, (1, 1)),  # local3 and local4 of the authors' networks
    (5, 7, 2, 3, 3, 1, (0, 0)),
    (7, 6, 2, 3, 3, 2, (1, 1)),
    (8, 5, 1, 2, 2, 3, (0, 1)),
    (4, 4, 2, 2, 4, 1, (0, 0)),  # a single place
]
IDS = [f"{h}x{w}_k{k}_s{s}_p{p[0]}{p[1]}" for h, w, _, _, k, s, p in CASES]


def draw(case: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and kernels in float64."""
    height, width, channels, features, side, stride, padding = case
    places = tuple(1 + (n + sum(padding) - side) // stride for n in (height, width))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, channels))
    return x, rng.normal(size=(*places, side, side, channels, features))


def oracle(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Return the result of `lax.conv_general_dilated_local`, whose windows begin with channels."""
    height, width, side, _, _, features = kernel.shape
    flat = kernel.transpose(0, 1, 4, 2, 3, 5).reshape(height, width, -1, features)
    return lax.conv_general_dilated_local(
        x,
        flat,
        (stride, stride),
        (padding, padding),
        (side, side),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_against_local_convolution_of_jax(case: tuple) -> None:
    """Values and both gradients equal those of JAX's own operator, in float64.

    Catches: height and width of places or of windows exchanged; windows that begin a pixel off;
    padding at one end only; a gradient of the padding.
    """
    *_, stride, padding = case
    with jax.enable_x64(True):
        x, kernel = map(jnp.asarray, draw(case))
        found, vjp = jax.vjp(lambda x, k: convolve_locally(x, k, stride, padding), x, kernel)
        expected, oracle_vjp = jax.vjp(lambda x, k: oracle(x, k, stride, padding), x, kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=found.shape))
        for gradient, of_oracle in zip(vjp(cotangent), oracle_vjp(cotangent), strict=True):
            np.testing.assert_allclose(gradient, of_oracle, rtol=1e-12, atol=1e-12)


def test_against_a_loop_over_places() -> None:
    """Catches: the kernel of another place; both this function and the oracle's layout wrong."""
    case = CASES[2]
    *_, side, stride, (begin, end) = case
    x, kernel = draw(case)
    padded = np.pad(x, ((0, 0), (begin, end), (begin, end), (0, 0)))
    with jax.enable_x64(True):
        found = convolve_locally(jnp.asarray(x), jnp.asarray(kernel), stride, (begin, end))
    for row, column in np.ndindex(kernel.shape[:2]):
        top, left = row * stride, column * stride
        window = padded[:, top : top + side, left : left + side]
        expected = np.einsum("bijc,ijcf->bf", window, kernel[row, column])
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-12, atol=1e-12)


def test_equal_kernels_make_a_convolution() -> None:
    """Catches: weights of a place transposed or flipped."""
    x, kernel = draw(CASES[0])
    tied = np.broadcast_to(kernel[:1, :1], kernel.shape)
    with jax.enable_x64(True):
        found = convolve_locally(jnp.asarray(x), jnp.asarray(tied), 1, (1, 1))
        expected = convolve(jnp.asarray(x), jnp.asarray(kernel[0, 0]), 1, (1, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
