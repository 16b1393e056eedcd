"""Both full nets against plain NumPy loops, every activation; gradients against differences."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy_oracle
import pytest
from numpy_oracle import PAPER, RUN_145, Net
from test_configs import load

from alexnet_jax import describe, network
from alexnet_jax.models.alexnet import AlexNet, ModelConfig, activations

# Quick to compile, since it runs once.
QUICK = {"xla_backend_optimization_level": 0}


def random_params(shapes: Any, dtype: type) -> Any:
    """Kernels that keep the signal's size through the layers, so that none is drowned by its bias;
    biases of both signs."""
    rng = np.random.default_rng(0)

    def one(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "bias":
            return rng.standard_normal(leaf.shape, np.float32).astype(dtype)
        spread = (2 / np.prod(leaf.shape[1:-1])) ** 0.5
        return (spread * rng.standard_normal(leaf.shape, np.float32)).astype(dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


@pytest.mark.parametrize(("file", "net"), [("alexnet.py", PAPER), ("source2012.py", RUN_145)])
def test_every_activation(file: str, net: Net) -> None:
    """Catches a wrong size, padding, order, constant or sight anywhere in either full net, and an
    activation that is missing or has another's name."""
    config = describe.with_classes(load(file, ""))
    params = random_params(network.abstract_params(config), np.float32)
    image = np.random.default_rng(1).uniform(-120, 130, (224, 224, 3)).astype(np.float32)
    ours = jax.jit(activations, static_argnums=0)(network.make_model(config), params, image[None])
    expected = numpy_oracle.forward(net, params, image)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        found = np.asarray(ours[name])[0] if name == "fc8" else np.asarray(ours[name])[:, 0]
        assert found.dtype == np.float32
        found = found.reshape(value.shape)
        # Sums of up to 9,216 float32 products, rounded through eight layers.
        assert np.abs(found - value).max() <= 1e-5 * np.abs(value).max(), name


def small(file: str) -> tuple[ModelConfig, Any]:
    """The small net with 4 … 8 maps, and the shapes of its parameters for images of 12 pixels."""
    config = load(file, "sample")
    for layer in config.model.layers.values():
        layer.features = min(layer.features, 8)
    config.model.update(classes=5)
    config.data.crop = 12
    return ModelConfig.from_dict(config.model), network.abstract_params(config)


@pytest.mark.parametrize(("file", "net"), [("alexnet.py", PAPER), ("source2012.py", RUN_145)])
def test_gradient(file: str, net: Net) -> None:
    """Catches a gradient of ours that is not that of the function: of the normalisations, the
    pooling, or a layer whose columns meet. The differences are of the loops' own loss."""
    model, shapes = small(file)
    conv1 = replace(net.layers[0], stride=1, pad=(2, 2))
    share = 5 if model.lrn.alpha_over_size else 1
    net = replace(net, layers=[conv1, *net.layers[1:]], alpha=0.4 / share)
    net = replace(net, map_alpha=4.0 / 25 if net.map_alpha else 0.0)
    params = random_params(shapes, np.float64)
    image, label = 2 * np.random.default_rng(2).normal(size=(12, 12, 1)), 3

    def loss(params: Any) -> jax.Array:
        logits = network.logits(AlexNet(model, dtype=jnp.float64), params, jnp.asarray(image[None]))
        return -jax.nn.log_softmax(logits)[0, label]

    def plain_loss() -> float:
        logits = numpy_oracle.forward(net, params, image)["fc8"]
        return float(np.log(np.exp(logits - logits[label]).sum()))

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params)
    assert float(value) == pytest.approx(plain_loss(), rel=1e-5)  # our logits are float32
    rng, step = np.random.default_rng(3), 1e-5
    for name, layer in params.items():
        for kind, array in layer.items():
            exact = np.asarray(gradient[name][kind])
            moving = np.argwhere(exact)  # a unit that is off would agree with anything
            assert len(moving), (name, kind)
            for place in map(tuple, rng.choice(moving, min(4, len(moving)), replace=False)):
                kept, sides = array[place], []
                for sign in (1, -1):
                    array[place] = kept + sign * step
                    sides.append(plain_loss())
                array[place] = kept
                difference = (sides[0] - sides[1]) / (2 * step)
                # The gradient of the logits is rounded to float32, 6e-8 of it; the rest is float64.
                assert abs(exact[place] - difference) <= 2e-6 * np.abs(exact).max(), (name, kind)
