"""bfloat16 is for convolutions and matrix products; what must stay float32 does."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_reference import make_one_column

from alexnet_jax import sharding
from alexnet_jax.analysis.collectives import abstract_train_step
from alexnet_jax.models import registry
from configs.alexnet import get_config


@pytest.fixture(scope="module", params=[1, 2], ids=["one column", "two columns"])
def lowered(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The sample's training step in bfloat16, as StableHLO, and the state it returns."""
    config = get_config("sample")
    config.compute_dtype, config.model.num_classes, config.batch_size = "bfloat16", 10, 4
    if request.param == 1:
        make_one_column(config)
    step, arguments = abstract_train_step(config, sharding.make_mesh(config.parallel))
    return step.lower(*arguments).as_text(), jax.eval_shape(step, *arguments)


def _types(text: str, operation: str) -> set[str]:
    """Element types of the operands and results of every such operation.

    The results of matrix products are left out: logits and gradients of kernels are added up in
    float32.
    """
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    if operation == "dot_general":
        lines = [line.partition("->")[0] for line in lines]
    assert lines
    return {kind for line in lines for kind in re.findall(r"tensor<[^>]*?(bf16|f32|f64)>", line)}


@pytest.mark.parametrize("operation", ["convolution", "dot_general"])
def test_products_are_bfloat16(lowered: tuple[str, Any], operation: str) -> None:
    """Catches a layer that forgets dtype, or a gradient that widens its operands."""
    assert _types(lowered[0], operation) == {"bf16"}


@pytest.mark.parametrize("operation", ["rsqrt", "log", "exponential"])
def test_normalization_and_softmax_are_float32(lowered: tuple[str, Any], operation: str) -> None:
    """Catches LRN or the loss computed in bfloat16."""
    assert _types(lowered[0], operation) == {"f32"}


def test_state_stays_float32(lowered: tuple[str, Any]) -> None:
    """Catches parameters or optimizer state kept in the compute type."""
    state, _ = lowered[1]
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds == {jnp.dtype("float32")}


@pytest.mark.parametrize("columns", [1, 2])
def test_logits_are_close_to_float32(columns: int) -> None:
    """Catches a wrong cast that still has the right type: bfloat16 has 8 bits of mantissa."""
    config = get_config("sample")
    config.model.num_classes = 10
    if columns == 1:
        make_one_column(config)
    variables = registry.init_variables(config)
    crop = config.data.crop
    images = jax.random.normal(jax.random.key(1), (4, crop, crop, 1))

    def logits() -> jax.Array:
        apply = jax.jit(partial(registry.apply_model, registry.make_model(config)))
        outputs, _ = apply(variables, images)
        result: jax.Array = outputs.logits
        return result

    exact = logits()
    config.compute_dtype = "bfloat16"
    rough = logits()
    assert rough.dtype == jnp.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.03 * float(jnp.abs(exact).max()))
