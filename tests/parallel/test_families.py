"""ZFNet and VGG on 1, 2 and 4 devices that share the batch."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.config_files import load
from helpers.torch_reference import random_params

from alexnet_jax import sharding
from alexnet_jax.config import sequential_model, validated
from alexnet_jax.data.batch import Batch
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.models.ops import Conv, Dense
from alexnet_jax.train_step import abstract_state, make_state, make_train_step


@cache
def params_after_step(file: str, devices: int) -> tuple[Any, Any]:
    """Return the parameters of a narrow model of the sample before and after a step."""
    config = load(file, "sample")
    config.parallel.data, config.batch_size, config.model.num_classes = devices, 8, 7
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense) and op.features:
            op.features = 6
    validated(config)
    mesh, crop, rng = (
        sharding.make_mesh(config.parallel),
        config.data.crop,
        np.random.default_rng(0),
    )
    params = jax.tree.map(jnp.float32, random_params(config))
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    state = jax.device_put(make_state(config, {"params": params}), places)
    mean = jnp.asarray(mean_of(np.full((28, 28, 1), 120, np.float32), config.data, 1))
    batch = Batch(
        image=rng.integers(0, 256, (8, crop, crop, 1), np.uint8),
        offset=np.zeros((8, 2), np.int32),
        flip=np.zeros(8, bool),
        label=rng.integers(0, 7, 8).astype(np.int32),
        mask=np.ones(8, bool),
        example=np.arange(8, dtype=np.uint32),
        shift=np.zeros((8, 1), np.float32),
        gain=np.ones(8, np.float32),
    )
    step = make_train_step(config, mesh, 100)
    # Quick to compile, since it runs once.
    quick = jax.jit(lambda *a: step(*a), compiler_options={"xla_backend_optimization_level": 0})
    start = jax.tree.map(np.asarray, params)
    new, _ = quick(state, mean, sharding.shard_batch(batch, sharding.batch_sharding(config, mesh)))
    return start, jax.tree.map(np.asarray, new.params)


@pytest.mark.parametrize("file", ["zfnet.py", "vgg.py"])
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_batch(file: str, devices: int) -> None:
    """Catches: gradients averaged over a device's images alone; masks that depend on the device;
    filters limited before the gradients of all devices are added."""
    before, expected = params_after_step(file, 1)
    _, found = params_after_step(file, devices)
    for name, layer in expected.items():
        moved = np.abs(layer["kernel"] - before[name]["kernel"]).max()
        assert moved > 0
        for part in ("kernel", "bias"):
            np.testing.assert_allclose(
                found[name][part], layer[part], rtol=1e-6, atol=max(1e-5 * moved, 1e-8)
            )


@pytest.mark.parametrize("file", ["zfnet.py", "vgg.py"])
def test_columns_need_groups(file: str) -> None:
    """Catches: a model without groups whose layers are split over devices, or a traceback."""
    config = load(file, "sample")
    config.parallel.columns = 2
    with pytest.raises(InputError, match=r"^parallel\.columns=2 devices cannot share model\.num"):
        validated(config)
