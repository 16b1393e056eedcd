"""Layers of columns against PyTorch's grouped ones, in float64."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax.core import meta

from alexnet_jax.layers.columns import ColumnClassifier, ColumnConv, ColumnDense, ColumnSharding
from alexnet_jax.layers.dense import Dense

Stack = Callable[[Any], np.ndarray]
RNG = np.random.default_rng(0)


class Ours(NamedTuple):
    """The output of a layer, a cotangent of it, and the gradients."""

    params: dict[str, Any]
    value: Any
    cotangent: Any
    gradients: dict[str, Any]
    column_gradients: list[Any]


def normal(key: jax.Array, shape: tuple[int, ...], _: int) -> jax.Array:
    return jax.random.normal(key, shape)


def ours(module: nn.Module, columns: list[np.ndarray]) -> Ours:
    """A random cotangent and random biases, in float64."""

    def run(key: jax.Array, x: list[jax.Array]) -> Ours:
        params = meta.unbox(module.init(key, x)["params"])
        params["bias"] += jax.random.normal(key, params["bias"].shape)
        value, vjp = jax.vjp(lambda p, c: module.apply({"params": p}, c), params, x)
        # Float32 numbers, since the classifier's logits pass on no others.
        draw = partial(jax.random.normal, key, dtype=jnp.float32)
        cotangent = jax.tree.map(lambda v: draw(v.shape).astype(v.dtype), value)
        return Ours(params, value, cotangent, *vjp(cotangent))

    quick = {"xla_backend_optimization_level": 0}  # to compile; it runs once
    with jax.enable_x64(True):
        return jax.jit(run, compiler_options=quick)(
            jax.random.key(0), [jnp.asarray(column) for column in columns]
        )


def pytorch(layer: Callable[..., torch.Tensor], *arrays: Any) -> tuple[np.ndarray, ...]:
    """PyTorch's output of arrays[1:], and their gradients under the cotangent arrays[0]."""
    cotangent, *tensors = (torch.tensor(np.asarray(array, np.float64)) for array in arrays)
    out = layer(*(tensor.requires_grad_() for tensor in tensors))
    out.backward(cotangent)
    return out.detach().numpy(), *(t.grad.numpy() for t in tensors if t.grad is not None)


def close(actual: Any, expected: np.ndarray) -> None:
    """Equal but for the order in which float64 sums of some tens of terms are taken."""
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def channels_first(columns: list[Any]) -> np.ndarray:
    """Columns (batch, height, width, channels) to one (batch, all channels, height, width)."""
    return np.concatenate([np.moveaxis(np.asarray(c), -1, 1) for c in columns], axis=1)


def side_by_side(columns: list[Any]) -> np.ndarray:
    return np.concatenate(columns, axis=1)


def conv_weight(kernel: Any) -> np.ndarray:
    return np.concatenate(np.asarray(kernel).transpose(0, 4, 3, 1, 2))


def dense_weight(kernel: Any) -> np.ndarray:
    return np.concatenate(np.asarray(kernel).transpose(0, 2, 1))


def summed_weight(kernel: Any) -> np.ndarray:
    return np.concatenate(kernel).T


def check(got: Ours, expected: tuple[np.ndarray, ...], stack: Stack, weight: Stack) -> None:
    """Compare output and gradients; `stack` and `weight` give ours PyTorch's shapes."""
    close(stack(got.value), expected[0])
    close(stack(got.column_gradients), expected[1])
    close(weight(got.gradients["kernel"]), expected[2])
    close(got.gradients["bias"].reshape(-1), expected[3])


@pytest.mark.parametrize("takes_all_columns", [False, True])
@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 3))])
def test_conv(takes_all_columns: bool, stride: int, padding: tuple[int, int]) -> None:
    """Catches halved or crossed inputs, swapped columns, and padding on the wrong side."""
    module = ColumnConv(
        5, 3, stride, padding, takes_all_columns, normal, 0.5, ColumnSharding(2), jnp.float64
    )
    columns = [RNG.normal(size=(2, 8, 7, 4)) for _ in range(2)]
    got = ours(module, columns)

    def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, padding * 2)
        return F.conv2d(x, weight, bias, stride=stride, groups=1 if takes_all_columns else 2)

    arrays = (
        channels_first(columns),
        conv_weight(got.params["kernel"]),
        got.params["bias"].reshape(-1),
    )
    check(got, pytorch(layer, channels_first(got.cotangent), *arrays), channels_first, conv_weight)


@pytest.mark.parametrize(
    ("takes_all_columns", "units", "shape"),
    [(False, 5, (2, 4, 5)), (True, 5, (2, 8, 5)), (True, 4, (2, 8, 4)), (True, 3, (2, 4, 6))],
)
def test_dense(takes_all_columns: bool, units: int, shape: tuple[int, ...]) -> None:
    """Catches a kernel column applied to the other column, or to half of what it sees.

    With fewer outputs than inputs the kernel is split by its inputs, otherwise by its outputs.
    """
    module = ColumnDense(units, takes_all_columns, normal, 0.5, ColumnSharding(2), jnp.float64)
    columns = [RNG.normal(size=(3, 4)) for _ in range(2)]
    got = ours(module, columns)

    def layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        groups = 1 if takes_all_columns else 2
        return F.conv1d(x[..., None], weight[..., None], bias, groups=groups)[..., 0]

    assert got.params["kernel"].shape == shape
    by_inputs = takes_all_columns and units < 4
    weight = summed_weight if by_inputs else dense_weight
    arrays = side_by_side(columns), weight(got.params["kernel"]), got.params["bias"].ravel()
    check(got, pytorch(layer, side_by_side(got.cotangent), *arrays), side_by_side, weight)


@pytest.mark.parametrize("classes", [7, 10])
def test_classifier(classes: int) -> None:
    """Catches a bias per column, which would be added twice, and columns left out."""
    module = ColumnClassifier(classes, normal, 0.5, ColumnSharding(2), jnp.float64)
    columns = [RNG.normal(size=(3, 4)) for _ in range(2)]
    got = ours(module, columns)
    kernel, bias = got.params["kernel"], got.params["bias"]
    assert (kernel.shape, bias.shape) == ((2, 4, classes), (classes,))
    weight = np.concatenate(kernel).T
    expected = pytorch(F.linear, got.cotangent, side_by_side(columns), weight, bias)
    # Logits are float32 whatever the arithmetic: 2^-24 of a few units, and of their sum.
    np.testing.assert_allclose(got.value, expected[0], rtol=2e-7, atol=1e-6)
    close(side_by_side(got.column_gradients), expected[1])
    close(np.concatenate(got.gradients["kernel"]).T, expected[2])
    close(got.gradients["bias"], expected[3])


def test_bfloat16_adds_columns_in_float32() -> None:
    """Catches logits added up in bfloat16, which has no 257."""
    last = ColumnClassifier(1, normal, 0.0, ColumnSharding(2), jnp.bfloat16)
    params = {"kernel": jnp.ones((2, 1, 1)), "bias": jnp.zeros(1)}
    logits = last.apply({"params": params}, [jnp.full((1, 1), 256.0), jnp.ones((1, 1))])
    np.testing.assert_array_equal(logits, [[257.0]])


@pytest.mark.parametrize(
    "last",
    [
        lambda x: Dense(3, normal, 0.0, jnp.bfloat16).init_with_output(jax.random.key(0), x[0]),
        lambda x: ColumnClassifier(
            3, normal, 0.0, ColumnSharding(2), jnp.bfloat16
        ).init_with_output(jax.random.key(0), x),
    ],
    ids=["dense", "columns"],
)
def test_bfloat16_does_not_round_logits(last: Callable[[list[jax.Array]], Any]) -> None:
    """Catches products rounded to bfloat16 before they become float32, which XLA's CPU compiler
    hides, since it leaves such a step out."""
    program = jax.jit(last).lower([jnp.ones((2, 8), jnp.bfloat16)] * 2).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    for line in products:
        assert re.findall(r"x(bf16|f32)>", line) == ["bf16", "bf16", "f32"]


def test_bfloat16_keeps_parameters_and_logits_float32() -> None:
    """Catches parameters or logits stored in the arithmetic's type."""
    conv = ColumnConv(4, 3, 1, (1, 1), True, normal, 0.0, ColumnSharding(2), jnp.bfloat16)
    last = ColumnClassifier(7, normal, 0.0, ColumnSharding(2), jnp.bfloat16)

    def run(x: list[jax.Array]) -> Any:
        out, variables = conv.init_with_output(jax.random.key(0), x)
        flat = [column.reshape(2, -1) for column in out]
        return out, last.init_with_output(jax.random.key(0), flat), variables

    image = jax.ShapeDtypeStruct((2, 5, 5, 3), jnp.bfloat16)
    columns, (logits, *variables), more = jax.eval_shape(run, [image] * 2)
    assert {column.dtype for column in columns} == {jnp.dtype(jnp.bfloat16)}
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves([variables, more])} == {jnp.dtype(jnp.float32)}
