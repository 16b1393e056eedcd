"""Every config and variant: it builds, and it trains a step."""

import json
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.config_files import data_variants, load

from alexnet_jax import describe, sharding
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import (
    Config,
    config_from_json,
    config_to_text,
    validated,
)
from alexnet_jax.data.batch import Batch
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.ops import LayerOp, blocks
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.train_step import make_state, make_train_step


def shrunk(config: Config) -> Config:
    """A few channels and units instead of many; the crop, and with it every size, stays."""
    model = config.model
    match model:
        case SequentialConfig():
            for op in model.ops.values():
                if isinstance(op, LayerOp) and op.features:  # the last has as many as classes
                    op.features = 8
        case ResNetConfig():
            model.width = 2
            model.stage_sizes = tuple(1 for _ in model.stage_sizes)
        case GoogLeNetConfig():
            model.width = 1 / 64
    model.num_classes, config.batch_size = 7, 2
    config.data.name = ""
    return validated(config)


@cache
def one_step(config_json: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Loss of a random batch, and parameters before and after; once for configs that differ
    in the name of their data only."""
    config = config_from_json(json.loads(config_json))
    crop, channels = config.data.crop, config.model.channels
    rng = np.random.default_rng(0)
    variables = dict(registry.abstract_variables(config))
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(0, 0.1, p.shape), p.dtype), variables.pop("params")
    )
    statistics = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    state = make_state(config, {"params": params, **statistics})
    mean_image = rng.uniform(0, 255, (crop + 4, crop + 4, channels)).astype(np.float32)
    mean = mean_of(mean_image, config.data, channels)
    batch = Batch(
        image=rng.integers(0, 256, (2, crop, crop, channels), np.uint8),
        label=np.array([0, 6], np.int32),
        offset=np.array([[0, 4], [4, 1]], np.int32),
        flip=np.array([False, True]),
        shift=rng.normal(size=(2, channels)).astype(np.float32),
        gain=np.array([1, 0.9], np.float32),
        example=np.array([0, 1], np.uint32),
        mask=np.ones(2, bool),
    )
    step = make_train_step(config, sharding.make_mesh(config.parallel), 100)
    # Quick to compile, since it runs once.
    quick = jax.jit(lambda *a: step(*a), compiler_options={"xla_backend_optimization_level": 0})
    new, metrics = quick(state, mean, batch)
    return float(metrics.sums.loss), params, new.params


@pytest.mark.parametrize(("file", "variant"), data_variants())
def test_builds_and_trains(file: str, variant: str) -> None:
    """Catches a variant that nobody has run: a missing field, a crop too small for its layers."""
    config = load(file, variant)
    if isinstance(config.model, SequentialConfig):
        rows = summarize(describe.with_classes(config))
        assert [row.name for row in rows] == list(blocks(config.model.ops))
    loss, before, after = one_step(config_to_text(shrunk(load(file, variant))))
    assert np.isfinite(loss)
    kernels = [path for path in leaves_by_path(before) if path.endswith("kernel")]
    assert kernels
    for path in kernels:
        change = np.abs(np.asarray(leaves_by_path(after)[path] - leaves_by_path(before)[path]))
        assert np.isfinite(change).all()
        assert (change > 0).any()


@pytest.mark.parametrize("file", sorted({file for file, _ in data_variants()}))
def test_unknown_variant(file: str) -> None:
    """Catches a misspelled variant that quietly trains another one."""
    with pytest.raises(InputError, match="unknown variant 'smaple'; "):
        load(file, "smaple")
