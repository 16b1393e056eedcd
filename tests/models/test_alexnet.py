"""The whole model: the paper's sizes, and a small one against PyTorch."""

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.torch_reference import (
    TorchReference,
    conv_op,
    dense_op,
    make_one_column,
    random_params,
    small_config,
    torch_weights,
)

from alexnet_jax.analysis.summary import LayerSummary, abstract_activations, summarize
from alexnet_jax.config import Config, sequential_model
from alexnet_jax.models import registry
from alexnet_jax.models.api import Layout
from alexnet_jax.models.ops import LRN, Conv, Dropout, MaxPool, ReLU, Tanh
from alexnet_jax.models.sequential import Sequential
from configs.alexnet import get_config

# Section 3.5: kernels of all columns, biases, and outputs of the layer.
PAPER = {
    "conv1": ((2, 11, 11, 3, 48), 34_848, 96, (55, 55, 96)),
    "conv2": ((2, 5, 5, 48, 128), 307_200, 256, (27, 27, 256)),
    "conv3": ((2, 3, 3, 256, 192), 884_736, 384, (13, 13, 384)),
    "conv4": ((2, 3, 3, 192, 192), 663_552, 384, (13, 13, 384)),
    "conv5": ((2, 3, 3, 192, 128), 442_368, 256, (13, 13, 256)),
    "fc6": ((2, 4608, 4096), 37_748_736, 4096, (4096,)),
    "fc7": ((2, 4096, 2048), 16_777_216, 4096, (4096,)),
    "fc8": ((2, 2048, 1000), 4_096_000, 1000, (1000,)),
}


QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once


def paper() -> Config:
    config = get_config()
    config.model.num_classes = 1000
    return config


def test_parameters_of_the_paper() -> None:
    """Catches a layer that sees the wrong columns: its kernel has twice or half of the inputs."""
    params = registry.abstract_variables(paper())["params"]
    assert list(params) == list(PAPER)
    for name, (shape, weights, biases, _) in PAPER.items():
        assert params[name]["kernel"].shape == shape
        assert params[name]["kernel"].size == weights
        assert params[name]["bias"].size == biases
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 60_965_224
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_kernels_of_one_column_are_plain() -> None:
    """Catches an axis of columns, and a conv1 of another number of channels, in a model without
    groups."""
    config = get_config("one_column")
    config.model.num_classes = 1000
    params = registry.abstract_variables(config)["params"]
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {
        "conv1": (11, 11, 3, 48),
        "conv2": (5, 5, 48, 128),
        "conv3": (3, 3, 128, 192),
        "conv4": (3, 3, 192, 192),
        "conv5": (3, 3, 192, 256),
        "fc6": (9216, 4096),
        "fc7": (4096, 4096),
        "fc8": (4096, 1000),
    }
    for layer in params.values():
        assert layer["bias"].shape == layer["kernel"].shape[-1:]


# Receptive field and stride in pixels; the fully-connected layers see pool5's 6 × 6 of (195, 32).
FIELDS = {
    **dict(conv1=(11, 4), conv2=(51, 8), conv3=(99, 16), conv4=(131, 16), conv5=(163, 16)),
    **dict.fromkeys(("fc6", "fc7", "fc8"), (195 + 5 * 32, 32)),
}


def test_description_of_the_paper() -> None:
    """Catches outputs after pooling in place of the layer's own, columns counted once, and the
    receptive field of another op."""
    rows = {row.name: row for row in summarize(paper())}
    assert list(rows) == list(PAPER)
    for name, (_, weights, biases, output) in PAPER.items():
        pixels = output[0] * output[1] if len(output) == 3 else 1
        field, stride = FIELDS[name]
        assert rows[name] == LayerSummary(
            name, output, field, stride, weights + biases, pixels * weights
        )
    assert sum(row.parameters for row in rows.values()) == 60_965_224
    assert sum(row.multiply_adds for row in rows.values()) == 724_406_816


def test_activations_of_the_paper() -> None:
    """Catches a missing or renamed activation, and sizes that round down."""
    kept = abstract_activations(paper())
    assert {name: out.shape for name, out in kept.items() if "relu" not in name} == {
        "conv1": (1, 55, 55, 96),
        "norm1": (1, 55, 55, 96),
        "pool1": (1, 27, 27, 96),
        "conv2": (1, 27, 27, 256),
        "norm2": (1, 27, 27, 256),
        "pool2": (1, 13, 13, 256),
        "conv3": (1, 13, 13, 384),
        "conv4": (1, 13, 13, 384),
        "conv5": (1, 13, 13, 256),
        "pool5": (1, 6, 6, 256),
        "fc6": (1, 4096),
        "drop6": (1, 4096),
        "fc7": (1, 4096),
        "drop7": (1, 4096),
        "fc8": (1, 1000),
    }


def test_activations_in_order() -> None:
    """Catches another order of ops, and values of the op before or after."""
    config = small_config()
    params = jax.tree.map(jnp.float32, random_params(config))
    model = registry.make_model(config)
    kept = registry.compute_activations(model, {"params": params}, jnp.ones((1, 24, 24, 1)))
    assert list(kept) == list(sequential_model(config).ops)
    np.testing.assert_array_equal(kept["relu1"], np.maximum(kept["conv1"], 0))
    np.testing.assert_array_equal(kept["drop6"], 0.5 * kept["relu6"])
    outputs, _ = registry.apply_model(model, {"params": params}, jnp.ones((1, 24, 24, 1)))
    np.testing.assert_array_equal(kept["fc8"], outputs.logits)


def test_columns_are_side_by_side() -> None:
    """Catches activations whose columns are swapped or interleaved: with kernels of zeros a
    channel is its bias."""
    config = small_config()
    params = jax.tree.map(np.zeros_like, random_params(config))
    params["conv1"]["bias"] = np.arange(8.0).reshape(2, 4)
    model = registry.make_model(config)
    kept = registry.compute_activations(model, {"params": params}, jnp.ones((1, 24, 24, 1)))
    np.testing.assert_array_equal(kept["conv1"][0, 0, 0], np.arange(8.0))


def init(config: Config) -> dict[str, Any]:
    initialize = jax.jit(lambda: registry.init_variables(config), compiler_options=QUICK)
    params: dict[str, Any] = initialize()["params"]
    return params


def test_initial_values() -> None:
    """Catches another σ, biases of 1 on the wrong layers, and columns that start the same."""
    config = paper()
    for name in ("fc6", "fc7"):
        dense_op(config, name).features = 64  # the full ones only cost time
    params = init(config)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"])
        spread = 5 * 0.01 / (2 * kernel.size) ** 0.5  # five standard deviations of the estimate
        assert kernel.std() == pytest.approx(0.01, abs=spread)
        assert kernel.mean() == pytest.approx(0, abs=5 * 0.01 / kernel.size**0.5)
        assert np.abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.1
        np.testing.assert_array_equal(layer["bias"], float(name in ones))


@pytest.mark.parametrize("columns", [1, 2])
def test_scaled_initial_values(columns: int) -> None:
    """Catches a fan-in that forgets the second column, or that takes the classifier's for half."""
    config = small_config()
    dense_op(config, "fc6").features = dense_op(config, "fc7").features = 200
    inputs = {"conv1": 25, "conv2": 9 * 4, "conv3": 9 * 12, "fc6": 72, "fc7": 200, "fc8": 200}
    if columns == 1:
        make_one_column(config)
        inputs["conv2"] *= 2
    for name, layer in init(config).items():
        deviation = (2 / inputs[name]) ** 0.5
        error = 5 * deviation / (2 * layer["kernel"].size) ** 0.5
        assert float(layer["kernel"].std()) == pytest.approx(deviation, abs=error)


def test_conv1_overhangs_right_and_bottom() -> None:
    """Catches padding on both sides or none, as for crops of 227, and a shifted window."""
    config = paper()
    conv1 = replace(conv_op(config, "conv1"), features=4)
    sequential_model(config).ops = {"conv1": conv1, "fc8": dense_op(config, "fc8")}
    images = 100 * np.random.default_rng(0).normal(size=(1, 224, 224, 3))
    params = random_params(config)
    params["conv1"]["bias"][:] = 0
    with jax.enable_x64(True):
        model = Sequential(sequential_model(config), Layout(), jnp.float64)
        compute = jax.jit(partial(registry.compute_activations, model))
        activation = compute({"params": params}, images)["conv1"]
    zeros = np.zeros((1, 3, 227, 227))
    zeros[:, :, :224, :224] = images.transpose(0, 3, 1, 2)
    weight = torch.tensor(np.concatenate(params["conv1"]["kernel"].transpose(0, 4, 3, 1, 2)))
    expected = F.conv2d(torch.tensor(zeros), weight, stride=4).permute(0, 2, 3, 1)
    assert expected.shape == (1, 55, 55, 4)
    np.testing.assert_allclose(activation, expected, rtol=1e-10, atol=1e-10)


def variant(change: str) -> Config:
    config = small_config()
    model = sequential_model(config)
    norms = [op for op in model.ops.values() if isinstance(op, LRN)]
    pools = [op for op in model.ops.values() if isinstance(op, MaxPool)]
    drops = [op for op in model.ops.values() if isinstance(op, Dropout)]
    if change == "tanh, Caffe's LRN after pooling":
        norm = LRN(size=5, k=1.0, alpha=0.5, beta=0.5, alpha_over_size=True)
        ops = dict(model.ops)
        conv1, pool1 = ops.pop("conv1"), ops.pop("pool1")
        del ops["relu1"], ops["norm1"]
        ops["norm2"] = norm
        model.ops = dict(conv1=conv1, tanh1=Tanh(), pool1=pool1, norm1=replace(norm), **ops)
    elif change == "LRN across columns, inverted dropout":
        for norm in norms:
            norm.size, norm.across_columns = 5, True
        for drop in drops:
            drop.inverted = True
    elif change == "no overlap, three channels, no communication":
        for pool in pools:
            pool.window = pool.stride = 2
        model.channels = 3
        conv_op(config, "conv3").groups = dense_op(config, "fc6").groups = 2
    elif change == "one column":
        make_one_column(config)
    elif change == "pools rounded down, dropout of other rates":
        model.ops["conv1"] = replace(conv_op(config, "conv1"), padding=(2, 2))  # 24 → 12 → 5 → 2
        for pool in pools:
            pool.ceil_mode = False
        drops[0].inverted, drops[1].rate = True, 0.3
    elif change == "one column that ends in convolutions":
        make_one_column(config)
        names = ("conv1", "relu1", "norm1", "pool1", "conv2", "relu2")
        pooled = {"pool2": MaxPool(ceil_mode=False), "drop2": Dropout(0.2), "fc8": model.ops["fc8"]}
        model.ops = {**{name: model.ops[name] for name in names}, **pooled}
    elif change == "four columns, a convolution of pixels":
        model.num_columns = 4
        model.ops = dict(
            conv1=conv_op(config, "conv1"), relu1=ReLU(), norm1=LRN(size=3, alpha=0.4),
            conv2=Conv(8, kernel=1, groups=4), pool2=MaxPool(5, 4),
            fc6=dense_op(config, "fc6"), fc8=dense_op(config, "fc8"),
        )  # fmt: skip
    return config


@pytest.mark.parametrize(
    "change",
    [
        "",
        "tanh, Caffe's LRN after pooling",
        "LRN across columns, inverted dropout",
        "no overlap, three channels, no communication",
        "one column",
        "pools rounded down, dropout of other rates",
        "one column that ends in convolutions",
        "four columns, a convolution of pixels",
    ],
)
def test_against_pytorch(change: str) -> None:
    """Catches crossed columns, another flattening, LRN across columns, pools that round the other
    way, and inverted dropout."""
    config = variant(change)
    model = sequential_model(config)
    params = random_params(config)
    rng = np.random.default_rng(0)
    images = 60 * rng.normal(size=(4, 24, 24, model.channels))
    cotangent = rng.normal(size=(4, 10)).astype(np.float32).astype(float)

    @partial(jax.jit, compiler_options=QUICK)
    def run(params: Any, images: jax.Array, cotangent: jax.Array) -> Any:
        module = Sequential(model, Layout(), jnp.float64)

        def compute(params: Any) -> jax.Array:
            outputs, _ = registry.apply_model(module, {"params": params}, images)
            return outputs.logits

        value, vjp = jax.vjp(compute, params)
        return value, vjp(cotangent.astype(value.dtype))[0]

    with jax.enable_x64(True):
        value, gradients = run(params, images, cotangent)
    reference = TorchReference(model, params)
    expected = reference(torch.tensor(images.transpose(0, 3, 1, 2)))
    expected.backward(torch.tensor(cotangent))
    # Our logits are rounded to float32, once; all below them is float64.
    np.testing.assert_allclose(value, expected.detach(), rtol=2e-7, atol=1e-6)
    for name, gradient in torch_weights(model, gradients).items():
        expected_gradient = reference.weights[name].grad
        assert expected_gradient is not None
        scale = float(expected_gradient.abs().max())
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
def test_dropout_masks(columns: int, inverted: bool) -> None:
    """Catches masks shared by examples, layers or columns, example numbers ignored, and units
    scaled that should not be, or the other way round."""
    config = small_config()
    dense_op(config, "fc6").features = dense_op(config, "fc7").features = 400
    if columns == 1:
        make_one_column(config)
    for op in sequential_model(config).ops.values():
        if isinstance(op, Dropout):
            op.inverted = inverted
    model = registry.make_model(config)
    # Every unit of fc6 and fc7 is 1: what is left of them is their mask.
    params = {
        name: {"kernel": jnp.zeros(layer["kernel"].shape), "bias": jnp.ones(layer["bias"].shape)}
        for name, layer in registry.abstract_variables(config)["params"].items()
    }

    @partial(jax.jit, compiler_options=QUICK)
    def masks(examples: jax.Array) -> jax.Array:
        _, state = model.apply(
            {"params": params},
            jnp.zeros((4, 24, 24, 1)),
            train=True,
            examples=examples,
            rngs={"dropout": jax.random.key(1)},
            mutable=["intermediates"],
        )
        kept = state["intermediates"]["activations"]
        return jnp.stack([*kept["drop6"], *kept["drop7"]])

    drawn = np.asarray(masks(jnp.array([7, 8, 9, 10])))
    assert drawn.shape == (2 * columns, 4, 400 // columns)
    assert set(np.unique(drawn)) == {0, 2 if inverted else 1}
    np.testing.assert_array_equal(masks(jnp.array([10, 9, 8, 7])), drawn[:, ::-1])
    for one, other in combinations(drawn, 2):  # half of 800 agree by chance, ± 0.018
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.09)
    for one, other in combinations(drawn.swapaxes(0, 1), 2):
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.09)
