"""bfloat16 is for convolutions and matrix products; what must stay float32 does."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import network, parallel, train
from configs.alexnet import get_config


@pytest.fixture(scope="module")
def lowered():
    """The sample's training step in bfloat16, as StableHLO, and the state it gives."""
    config = get_config("sample")
    config.compute_dtype, config.model.classes, config.batch_size = "bfloat16", 10, 4
    mesh = parallel.make_mesh(config)
    step = train.make_train_step(config, mesh, images=100)
    state = jax.eval_shape(lambda: train.init_state(config))
    rows, crop = config.batch_size, config.data.crop
    batch = {
        "image": jax.ShapeDtypeStruct((rows, crop, crop, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((rows,), np.int32),
        "offset": jax.ShapeDtypeStruct((rows, 2), np.int32),
        "flip": jax.ShapeDtypeStruct((rows,), bool),
        "shift": jax.ShapeDtypeStruct((rows, 1), np.float32),
        "gain": jax.ShapeDtypeStruct((rows,), np.float32),
        "example": jax.ShapeDtypeStruct((rows,), np.uint32),
    }
    mean = jax.ShapeDtypeStruct((28, 28, 1), np.float32)
    program = step.lower(state, mean, batch)
    return program.as_text(), jax.eval_shape(step, state, mean, batch)


def _types(text: str, operation: str) -> set[str]:
    """Element types of the operands and results of every such operation."""
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    assert lines
    return {kind for line in lines for kind in re.findall(r"tensor<[^>]*?(bf16|f32|f64)>", line)}


@pytest.mark.parametrize("operation", ["convolution", "dot_general"])
def test_products_are_bfloat16(lowered, operation):
    # Catches a layer that forgets dtype, or a gradient that widens its operands.
    assert _types(lowered[0], operation) == {"bf16"}


@pytest.mark.parametrize("operation", ["rsqrt", "log", "exponential"])
def test_normalisation_and_softmax_are_float32(lowered, operation):
    # Catches LRN or the loss computed in bfloat16.
    assert _types(lowered[0], operation) == {"f32"}


def test_state_stays_float32(lowered):
    # Catches parameters or velocity kept in the compute type.
    state, _ = lowered[1]
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.velocity))}
    assert kinds == {jnp.dtype("float32")}


def test_logits_are_close_to_float32():
    # Catches a wrong cast that still has the right type: bfloat16 has 8 bits of mantissa.
    config = get_config("sample")
    config.model.classes = 10
    params = network.init_params(config)
    crop = config.data.crop
    images = jax.random.normal(jax.random.key(1), (4, crop, crop, 1))

    def logits():
        return jax.jit(partial(network.logits, network.make_model(config)))(params, images)

    exact = logits()
    config.compute_dtype = "bfloat16"
    rough = logits()
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.03 * float(jnp.abs(exact).max()))
