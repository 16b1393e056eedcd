"""Both full models against plain NumPy loops, every activation; gradients against differences."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import numpy_reference
from helpers.config_files import load
from helpers.numpy_reference import PAPER, RUN_145, Table

from alexnet_jax import describe
from alexnet_jax.config import sequential_model
from alexnet_jax.models import registry
from alexnet_jax.models.api import Layout
from alexnet_jax.models.ops import LRN, Conv, Dense
from alexnet_jax.models.sequential import Sequential
from alexnet_jax.models.sequential_config import SequentialConfig

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


@pytest.mark.parametrize(("file", "table"), [("alexnet.py", PAPER), ("source2012.py", RUN_145)])
def test_every_activation(file: str, table: Table) -> None:
    """Catches a wrong size, padding, order, constant or groups anywhere in either full model, and
    an activation that is missing or has another's name."""
    config = describe.with_classes(load(file, ""))
    params = random_params(registry.abstract_variables(config)["params"], np.float32)
    image = np.random.default_rng(1).uniform(-120, 130, (224, 224, 3)).astype(np.float32)
    compute = jax.jit(partial(registry.compute_activations, registry.make_model(config)))
    ours = compute({"params": params}, image[None])
    expected = numpy_reference.forward(table, params, image)
    assert [name for name in sequential_model(config).ops if name in ours] == list(expected)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        found = np.asarray(ours[name])[0]
        assert found.dtype == np.float32
        assert found.shape == value.shape
        # Sums of up to 9,216 float32 products, rounded through eight layers.
        assert np.abs(found - value).max() <= 1e-5 * np.abs(value).max(), name


def small(file: str) -> tuple[SequentialConfig, Any]:
    """The small model with 4 … 8 channels, and the shapes of its parameters for images of 12
    pixels."""
    config = load(file, "sample")
    model = sequential_model(config)
    for op in model.ops.values():
        if isinstance(op, Conv | Dense):
            op.features = min(op.features, 8)
    model.num_classes = 5
    config.data.crop = 12
    return model, registry.abstract_variables(config)["params"]


@pytest.mark.parametrize(("file", "table"), [("alexnet.py", PAPER), ("source2012.py", RUN_145)])
def test_gradient(file: str, table: Table) -> None:
    """Catches a gradient of ours that is not that of the function: of the normalizations, the
    pooling, or a layer whose columns meet. The differences are of the loops' own loss."""
    model, shapes = small(file)
    conv1 = replace(table.layers[0], stride=1, pad=(2, 2))
    norm = model.ops["norm1"]
    assert isinstance(norm, LRN)
    share = 5 if norm.alpha_over_size else 1
    table = replace(table, layers=[conv1, *table.layers[1:]], alpha=0.4 / share)
    table = replace(table, pixel_alpha=4.0 / 25 if table.pixel_alpha else 0.0)
    params = random_params(shapes, np.float64)
    image, label = 2 * np.random.default_rng(2).normal(size=(12, 12, 1)), 3

    def loss(params: Any) -> jax.Array:
        module = Sequential(model, Layout(), jnp.float64)
        outputs, _ = registry.apply_model(module, {"params": params}, jnp.asarray(image[None]))
        return -jax.nn.log_softmax(outputs.logits)[0, label]

    def plain_loss() -> float:
        logits = numpy_reference.forward(table, params, image)["fc8"]
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
