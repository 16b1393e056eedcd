"""ResNet-50 against Keras's, the port of the authors' Caffe model, with its weights."""

from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax.config import validated
from alexnet_jax.models import registry
from configs import resnet

BLOCK_PARTS = {"0": "shortcut_{}", "1": "{}1", "2": "{}2", "3": "{}3"}


def layer_path(name: str) -> list[str]:
    """Return the path of a layer here for its name in Keras, such as conv2_block1_0_bn."""
    if name == "predictions":
        return ["fc"]
    *block, kind = name.split("_")
    if len(block) == 1:  # conv1_conv, conv1_bn
        return [f"{kind}1"]
    stage, number, part = block
    return [f"{stage}_{number.removeprefix('block')}", BLOCK_PARTS[part].format(kind)]


@pytest.mark.slow
def test_logits_are_kerass() -> None:
    """Catches: a stride in another convolution of a block than the first, a projection of another
    stride or without normalization, pooling padded otherwise, mean and variance swapped."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    peer = keras.applications.ResNet50(
        weights=None, classes=7, classifier_activation=None, input_shape=(224, 224, 3)
    )
    rng = np.random.default_rng(0)
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}

    def store(collection: str, layer: str, **arrays: np.ndarray) -> None:
        *parents, last = layer_path(layer)
        tree = variables[collection]
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[last] = {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    for layer in (layer for layer in peer.layers if layer.weights):
        if layer.name.endswith("_bn"):
            size = layer.gamma.shape
            scale, var = (rng.uniform(0.5, 1.5, size) for _ in range(2))
            bias, mean = (rng.normal(0, 0.1, size) for _ in range(2))
            layer.set_weights([scale, bias, mean, var])
            store("params", layer.name, scale=scale, bias=bias)
            store("batch_stats", layer.name, mean=mean, var=var)
            continue
        kernel, bias = layer.get_weights()
        if kernel.ndim == 2:
            store("params", layer.name, kernel=kernel, bias=bias)
        else:  # convolutions here have no biases
            assert not bias.any()
            store("params", layer.name, kernel=kernel)
    config = resnet.get_config("50")
    config.model.num_classes = 7
    model = resnet.resnet(config)
    model.pool_padding, model.batch_norm.epsilon = 1, 1.001e-5
    ours = registry.make_model(validated(config))
    images = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
    logits = jax.jit(lambda v, x: registry.apply_model(ours, v, x)[0].logits)(variables, images)
    expected = np.asarray(peer(images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
