"""Matrix products whose sums are wider than their factors, and their gradients."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from alexnet_jax.layers.arithmetic import matmul

SHAPES = ((5, 40), (40, 7), (5, 7))  # x, kernel, gradient of their product


def draw(dtype: jnp.dtype) -> list[jax.Array]:
    """Random factors of a type, and a gradient of their product in float32."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, gradient = (
        jax.random.normal(key, shape) for key, shape in zip(keys, SHAPES, strict=True)
    )
    return [x.astype(dtype), kernel.astype(dtype), gradient]


def multiply(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> list[jax.Array]:
    """The product with sums in float32, and the gradients of both factors."""
    product, multiply_back = jax.vjp(partial(matmul, sum_dtype=jnp.float32), x, kernel)
    return [product, *multiply_back(gradient)]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_values_and_gradients(dtype: jnp.dtype) -> None:
    """Catches sums rounded to the type of the factors, gradients of the wrong factor or transposed
    ones, and a gradient that is rounded though the factors are float32."""
    x, kernel, gradient = draw(dtype)
    wide_x, wide_kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    rounded = gradient.astype(dtype).astype(jnp.float32)
    product, x_gradient, kernel_gradient = multiply(x, kernel, gradient)
    np.testing.assert_allclose(product, wide_x @ wide_kernel, rtol=1e-5, atol=1e-5)
    for got, expected in (
        (x_gradient, rounded @ wide_kernel.T),
        (kernel_gradient, wide_x.T @ rounded),
    ):
        assert got.dtype == dtype
        # Half a unit in the last place of the type, and what differs in the sums before.
        rtol = float(jnp.finfo(dtype).eps) / 2 + 1e-5
        np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=rtol, atol=1e-5)


def test_gradients_are_summed_over_devices() -> None:
    """Catches the gradient of one device's images, where the batch is split over devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    x, kernel, _ = draw(jnp.bfloat16)
    x = jnp.concatenate([x, 2 * x])  # the gradient of the second device is twice that of the first

    def total(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return lax.psum(matmul(x, kernel, jnp.float32).sum(), "data")

    on_two = jax.shard_map(
        jax.grad(total),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    expected = np.broadcast_to(x.astype(jnp.float32).sum(0)[:, None], kernel.shape)
    got = jax.jit(on_two)(kernel, x).astype(jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=2**-7, atol=2**-7)


def test_factors_have_one_type() -> None:
    """Catches a product of a factor in bfloat16 with a gradient in float32."""
    program = jax.jit(multiply).lower(*draw(jnp.bfloat16)).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    kinds = [re.findall(r"x(bf16|f32)>", line) for line in products]
    assert sorted(kinds) == [["bf16"] * 3, ["bf16"] * 3, ["bf16", "bf16", "f32"]]
