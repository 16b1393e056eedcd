"""Convolution and its gradients, whatever their form, against PyTorch in float64."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.layers import conv
from alexnet_jax.layers.conv import MIN_WEIGHTS, convolve, kernel_gradient_by_offsets

RNG = np.random.default_rng(0)


def pytorch(x: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray, stride: int, pad: tuple):
    """PyTorch's convolution and its gradients, channels last."""
    images = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    weights = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    padded = torch.nn.functional.pad(images, (*pad, *pad))
    out = torch.nn.functional.conv2d(padded, weights, stride=stride)
    out.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    assert images.grad is not None
    assert weights.grad is not None
    return (
        out.detach().numpy().transpose(0, 2, 3, 1),
        images.grad.numpy().transpose(0, 2, 3, 1),
        weights.grad.numpy().transpose(2, 3, 1, 0),
    )


@contextmanager
def limit_windows(count: int) -> Iterator[None]:
    """Limit the windows in a matrix product, so that the images of a batch take several."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WINDOWS", "MAX_WINDOWS"):
            patch.setattr(conv, name, count)
        yield


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 7),
    height=st.integers(5, 19),
    width=st.integers(5, 19),
    size=st.integers(1, 5),
    stride=st.integers(1, 4),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    features=st.sampled_from([2, MIN_WEIGHTS // 3 + 1]),
)
def test_gradient_by_offsets(
    batch: int,
    height: int,
    width: int,
    size: int,
    stride: int,
    pad: tuple[int, int],
    features: int,
) -> None:
    """A product for each offset, and one for each row of offsets.

    Catches: folding that starts at the wrong pixel, a remainder of images or rows left out, offsets
    of a row in another order or one pixel off.
    """
    rows, columns = ((side + sum(pad) - size) // stride + 1 for side in (height, width))
    x = RNG.normal(size=(batch, height, width, 3))
    kernel = RNG.normal(size=(size, size, 3, features))
    cotangent = RNG.normal(size=(batch, rows, columns, features))
    with jax.enable_x64(True), limit_windows(2 * rows * columns):
        ours = jax.jit(kernel_gradient_by_offsets, static_argnames=("stride", "padding"))(
            x, cotangent, kernel, stride=stride, padding=pad
        )
    *_, expected = pytorch(x, kernel, cotangent, stride, pad)
    # Float64 sums of up to some thousand terms, in another order.
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_bfloat16_adds_up_in_float32() -> None:
    """Catches a sum over images that is rounded to bfloat16 after each."""
    x = RNG.normal(size=(64, 13, 13, 4)).astype(jnp.bfloat16)
    gradient = RNG.normal(size=(64, 13, 13, 4)).astype(jnp.bfloat16)
    with limit_windows(500):
        exact, ours = (
            kernel_gradient_by_offsets(
                jnp.asarray(x, dtype),
                jnp.asarray(gradient, dtype),
                jnp.zeros((3, 3, 4, 4), dtype),
                stride=1,
                padding=(1, 1),
            )
            for dtype in (jnp.float32, jnp.bfloat16)
        )
    assert ours.dtype == jnp.bfloat16
    # Rounded once: half of bfloat16's last place, 2^-8.
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


# As conv1 of the paper, as a layer with many channels, as one with few, as the projections and the
# first convolution of a stage of a residual network, and as conv1 of a model for CIFAR-10.
@pytest.mark.parametrize(
    ("side", "channels", "size", "stride", "pad"),
    [
        *((59, (3, 96), 11, 4, (0, 3)), (13, (64, 64), 3, 1, (1, 1)), (9, (4, 6), 3, 2, (0, 1))),
        *((8, (4, 6), 1, 2, (0, 0)), (21, (32, 64), 1, 2, (0, 0)), (9, (4, 6), 1, 2, (1, 1))),
        *((21, (64, 64), 3, 2, (1, 1)), (11, (3, 8), 5, 1, (2, 2))),
    ],
)
def test_convolve(side: int, channels: tuple[int, int], size: int, stride: int, pad: tuple) -> None:
    """Catches a gradient of another convolution than the forward one, in either form."""
    out = (side + sum(pad) - size) // stride + 1
    x = RNG.normal(size=(3, side, side, channels[0]))
    kernel = RNG.normal(size=(size, size, *channels))
    cotangent = RNG.normal(size=(3, out, out, channels[1]))

    @jax.jit
    def ours(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        value, vjp = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, pad), x, kernel)
        return value, *vjp(cotangent)

    with jax.enable_x64(True):
        found = ours(x, kernel, cotangent)
    for actual, expected in zip(found, pytorch(x, kernel, cotangent, stride, pad), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_the_form_is_the_platforms(platform: str, loops: bool) -> None:
    """Catches the CPU's loop on an accelerator, and XLA's own form on a CPU."""
    x, kernel = jnp.zeros((16, 13, 13, 64)), jnp.zeros((3, 3, 64, 64))
    gradient = jax.jit(jax.grad(lambda k: convolve(x, k, 1, (1, 1)).sum()))
    program = jax.export.export(gradient, platforms=[platform])(kernel).mlir_module()
    assert ("stablehlo.while" in program) is loops
    # The value is not needed for its gradient: what is left is XLA's own form of it.
    assert ("stablehlo.convolution" in program) is not loops


def test_strided_kernels_are_not_enlarged() -> None:
    """Catches: the gradient of a 1×1 or a 3×3 kernel of stride 2 computed for 2×2 or 4×4 pixels,
    of which most are thrown away; that of conv1 of the paper, 11×11, not for 12×12."""

    def kernel_gradient(size: int, stride: int) -> str:
        x, kernel = jnp.zeros((2, 112, 112, 16)), jnp.zeros((size, size, 16, 256))
        gradient = jax.grad(lambda k: convolve(x, k, stride, (size // 2, size // 2)).sum())
        exported = jax.export.export(jax.jit(gradient), platforms=["cpu"])
        return exported(kernel).mlir_module()

    products = {size: kernel_gradient(size, stride) for size, stride in [(1, 2), (3, 2), (11, 4)]}
    assert "stablehlo.dot_general" in products[1]
    assert "x64xf32>" not in products[1]  # 16 channels, not 2 × 2 × 16
    assert "stablehlo.dot_general" not in products[3]
    assert "stablehlo.dot_general" in products[11]
