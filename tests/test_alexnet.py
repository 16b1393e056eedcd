"""The whole network: the paper's sizes, and a small one against PyTorch."""

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch_twin import Twin, config_module, random_params, small_config, torch_weights

from alexnet_jax import describe, network
from alexnet_jax.errors import InputError
from alexnet_jax.models.alexnet import AlexNet, ModelConfig, activations

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


def paper() -> ConfigDict:
    config = config_module()["get_config"]()
    config.model.classes = 1000
    return config


def test_parameters_of_the_paper() -> None:
    """Catches a layer that sees the wrong columns: its kernel has twice or half of the inputs."""
    params = network.abstract_params(paper())
    assert list(params) == list(PAPER)
    for name, (shape, weights, biases, _) in PAPER.items():
        assert params[name]["kernel"].shape == shape
        assert params[name]["kernel"].size == weights
        assert params[name]["bias"].size == biases
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 60_965_224
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_description_of_the_paper() -> None:
    """Catches outputs after pooling in place of the layer's own, and columns counted once."""
    rows = {row.name: row for row in describe.layers(paper())}
    assert list(rows) == list(PAPER)
    for name, (_, weights, biases, output) in PAPER.items():
        pixels = output[0] * output[1] if len(output) == 3 else 1
        assert rows[name] == describe.Layer(name, output, weights + biases, pixels * weights)
    assert sum(row.parameters for row in rows.values()) == 60_965_224
    assert sum(row.multiply_adds for row in rows.values()) == 724_406_816


def test_activations_of_the_paper() -> None:
    """Catches a missing or renamed activation, and sizes that round down."""
    config = paper()
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    kept = jax.eval_shape(
        lambda p, x: activations(network.make_model(config), p, x),
        network.abstract_params(config),
        images,
    )
    assert {name: out.shape for name, out in kept.items() if "_relu" not in name} == {
        "conv1": (2, 1, 55, 55, 48),
        "conv1_lrn": (2, 1, 55, 55, 48),
        "conv1_pool": (2, 1, 27, 27, 48),
        "conv2": (2, 1, 27, 27, 128),
        "conv2_lrn": (2, 1, 27, 27, 128),
        "conv2_pool": (2, 1, 13, 13, 128),
        "conv3": (2, 1, 13, 13, 192),
        "conv4": (2, 1, 13, 13, 192),
        "conv5": (2, 1, 13, 13, 128),
        "conv5_pool": (2, 1, 6, 6, 128),
        "fc6": (2, 1, 2048),
        "fc6_dropout": (2, 1, 2048),
        "fc7": (2, 1, 2048),
        "fc7_dropout": (2, 1, 2048),
        "fc8": (1, 1000),
    }


def test_activations_in_order() -> None:
    """Catches another order of ReLU, LRN and pooling, and values of the step before or after."""
    config = small_config()
    params = jax.tree.map(jnp.float32, random_params(config))
    kept = activations(network.make_model(config), params, jnp.ones((1, 24, 24, 1)))
    lrn_pool = ("", "_relu", "_lrn", "_pool")
    dropout = ("", "_relu", "_dropout")
    steps: dict[str, tuple[str, ...]] = dict(
        conv1=lrn_pool, conv2=lrn_pool, conv3=("", "_relu"), fc6=dropout, fc7=dropout, fc8=("",)
    )
    assert list(kept) == [name + step for name, after in steps.items() for step in after]
    np.testing.assert_array_equal(kept["conv1_relu"], np.maximum(kept["conv1"], 0))
    np.testing.assert_array_equal(kept["fc6_dropout"], 0.5 * kept["fc6_relu"])


def init(config: ConfigDict) -> dict[str, Any]:
    params: dict[str, Any] = jax.jit(lambda: network.init_params(config), compiler_options=QUICK)()
    return params


def test_initial_values() -> None:
    """Catches another σ, biases of 1 on the wrong layers, and columns that start the same."""
    config = paper()
    for name in ("fc6", "fc7"):
        config.model.layers[name].features = 64  # the full ones only cost time
    params = init(config)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"])
        spread = 5 * 0.01 / (2 * kernel.size) ** 0.5  # five standard deviations of the estimate
        assert kernel.std() == pytest.approx(0.01, abs=spread)
        assert kernel.mean() == pytest.approx(0, abs=5 * 0.01 / kernel.size**0.5)
        assert np.abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.1
        np.testing.assert_array_equal(layer["bias"], float(name in ones))


def test_scaled_initial_values() -> None:
    """Catches a fan-in that forgets the second column, or that takes the classifier's for half."""
    config = small_config()
    config.model.layers.fc6.features = config.model.layers.fc7.features = 200
    inputs = {"conv1": 25, "conv2": 9 * 4, "conv3": 9 * 12, "fc6": 72, "fc7": 200, "fc8": 200}
    for name, layer in init(config).items():
        deviation = (2 / inputs[name]) ** 0.5
        error = 5 * deviation / (2 * layer["kernel"].size) ** 0.5
        assert float(layer["kernel"].std()) == pytest.approx(deviation, abs=error)


def test_conv1_overhangs_right_and_bottom() -> None:
    """Catches padding on both sides or none, as for crops of 227, and a shifted window."""
    config = paper()
    config.model.layers = {name: config.model.layers[name] for name in ("conv1", "fc8")}
    config.model.layers.conv1.features = 4
    images = 100 * np.random.default_rng(0).normal(size=(1, 224, 224, 3))
    params = random_params(config)
    params["conv1"]["bias"][:] = 0
    with jax.enable_x64(True):
        model = AlexNet(ModelConfig.from_dict(config.model), dtype=jnp.float64)
        conv1 = jax.jit(activations, static_argnums=0)(model, params, images)["conv1"]
    zeros = np.zeros((1, 3, 227, 227))
    zeros[:, :, :224, :224] = images.transpose(0, 3, 1, 2)
    for column in range(2):
        weight = torch.tensor(params["conv1"]["kernel"][column].transpose(3, 2, 0, 1))
        expected = F.conv2d(torch.tensor(zeros), weight, stride=4).permute(0, 2, 3, 1)
        assert expected.shape == (1, 55, 55, 2)
        np.testing.assert_allclose(conv1[column], expected, rtol=1e-10, atol=1e-10)


def variant(change: str) -> ConfigDict:
    config = small_config()
    if change == "tanh, Caffe's LRN after pooling":
        config.model.layers.conv1.after = ("tanh", "pool", "lrn")
        config.model.lrn = dict(
            size=5, k=1.0, alpha=0.5, beta=0.5, alpha_over_size=True, across_columns=False
        )
    elif change == "LRN across columns, inverted dropout":
        config.model.lrn.size = 5
        config.model.lrn.across_columns = config.model.inverted_dropout = True
    elif change == "no overlap, three channels, columns apart":
        config.model.pool.stride = 2
        config.model.pool.window = 2
        config.model.channels = 3
        config.model.layers.conv3.sees = config.model.layers.fc6.sees = "own"
    elif change == "one column":
        config.model.columns = 1
    return config


@pytest.mark.parametrize(
    "change",
    [
        "",
        "tanh, Caffe's LRN after pooling",
        "LRN across columns, inverted dropout",
        "no overlap, three channels, columns apart",
        "one column",
    ],
)
def test_against_pytorch(change: str) -> None:
    """Catches crossed columns, another flattening, LRN across columns, and inverted dropout."""
    params = random_params(variant(change))
    config = ModelConfig.from_dict(variant(change).model)
    rng = np.random.default_rng(0)
    images = 60 * rng.normal(size=(4, 24, 24, config.channels))
    cotangent = rng.normal(size=(4, 10)).astype(np.float32).astype(float)

    @partial(jax.jit, compiler_options=QUICK)
    def run(params: Any, images: jax.Array, cotangent: jax.Array) -> Any:
        model = AlexNet(config, dtype=jnp.float64)
        value, vjp = jax.vjp(lambda p: network.logits(model, p, images), params)
        return value, vjp(cotangent.astype(value.dtype))[0]

    with jax.enable_x64(True):
        value, gradients = run(params, images, cotangent)
    twin = Twin(config, params)
    expected = twin(torch.tensor(images.transpose(0, 3, 1, 2)))
    expected.backward(torch.tensor(cotangent))
    # Our logits are rounded to float32, once; all below them is float64.
    np.testing.assert_allclose(value, expected.detach(), rtol=2e-7, atol=1e-6)
    for name, gradient in torch_weights(config, gradients).items():
        reference = twin.weights[name].grad
        assert reference is not None
        scale = float(reference.abs().max())
        np.testing.assert_allclose(gradient, reference, rtol=1e-9, atol=1e-12 * scale)


def test_dropout_masks() -> None:
    """Catches masks shared by layers or columns, example numbers ignored, and units scaled."""
    config = small_config()
    config.model.layers.fc6.features = config.model.layers.fc7.features = 400
    model = network.make_model(config)
    # Every unit of fc6 and fc7 is 1: what is left of them is their mask.
    params = {
        name: {"kernel": jnp.zeros(layer["kernel"].shape), "bias": jnp.ones(layer["bias"].shape)}
        for name, layer in network.abstract_params(config).items()
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
        return jnp.stack([*kept["fc6_dropout"], *kept["fc7_dropout"]])

    drawn = np.asarray(masks(jnp.array([7, 8, 9, 10])))
    assert drawn.shape == (4, 4, 200)
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_array_equal(masks(jnp.array([10, 9, 8, 7])), drawn[:, ::-1])
    for one, other in combinations(drawn, 2):  # half of 800 agree by chance, ± 0.018
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.09)


def remove(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        for name in path[:-1]:
            model = model[name]
        del model[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        for name in path[:-1]:
            model = model[name]
        model[path[-1]] = value

    return change


def no_dense(model: dict[str, Any]) -> None:
    for name in ("fc6", "fc7", "fc8"):
        del model["layers"][name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, "colums"), r"^model has .*unknown: colums$"),
        (put(1, "lrn", "n"), r"^model\.lrn has .*unknown: n$"),
        (put(1, "layers", "conv2", "size"), r"^model\.layers\.conv2 has .*unknown: size$"),
        (remove("dropout"), r"^model has .*missing or unknown: dropout$"),
        (remove("pool", "stride"), r"^model\.pool has .*missing or unknown: stride$"),
        (remove("layers", "fc6", "std"), r"^model\.layers\.fc6 has .*missing or unknown: std$"),
        (remove("layers"), "layers"),
        (remove("lrn"), "lrn"),
        (remove("pool"), "pool"),
        (put("xavier", "init"), r"^model\.init has 'xavier'"),
        (put("none", "layers", "conv2", "sees"), r"^model\.layers\.conv2\.sees has 'none'"),
        (put(("relu", "norm"), "layers", "fc6", "after"), r"^model\.layers\.fc6\.after has 'norm'"),
        (put(7, "layers", "conv3", "features"), r"^model\.layers\.conv3\.features is 7; .*2 col"),
        (no_dense, r"^model\.layers are conv1, conv2, conv3; .*fully-connected"),
        (put({}, "layers"), r"^model\.layers"),
    ],
)
def test_wrong_configs(change: Callable[[dict[str, Any]], None], message: str) -> None:
    """Catches a wrong field that is ignored, or whose message does not name it."""
    model = small_config().model.to_dict()
    ModelConfig.from_dict(model)
    change(model)
    with pytest.raises(InputError, match=message):
        ModelConfig.from_dict(model)


def test_wrong_compute_dtype_and_crop() -> None:
    """Catches a type that falls back to float32, and a shape error without the field's name."""
    config = small_config()
    with pytest.raises(InputError, match=r"compute_dtype is 'float16'"):
        network.make_model(ConfigDict({**config, "compute_dtype": "float16"}))
    config.data.crop = 5
    with pytest.raises(InputError, match=r"data\.crop=5"):
        network.abstract_params(config)
