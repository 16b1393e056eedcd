"""Every config and variant: it builds, it trains a step, and no field of it is idle."""

import ast
import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import config as configs
from alexnet_jax import describe, fields, sharding
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, blocks
from alexnet_jax.train_step import make_state, make_train_step
from configs.variants import sequential

CONFIGS = Path(__file__).parents[1] / "configs"
PACKAGE = Path(alexnet_jax.__file__).parent


def module_of(file: str) -> Any:
    return importlib.import_module(f"configs.{Path(file).stem}")


def variants() -> list[tuple[str, str]]:
    """Every config file with each word for its data; tests/test_variants.py has the ablations."""
    found = []
    for path in sorted({*CONFIGS.glob("*.py")} - {CONFIGS / "like.py"}):  # its words are workdirs
        module = module_of(path.name)
        if hasattr(module, "get_config"):
            found += [(path.name, word) for word in ("", *getattr(module, "DATA", ()))]
    return found


def load(file: str, variant: str) -> Config:
    config: Config = module_of(file).get_config(variant)
    return config


def shrunk(config: Config) -> Config:
    """A few channels and units instead of many; the crop, and with it every size, stays."""
    model = sequential(config)
    for op in model.ops.values():
        if isinstance(op, Conv | Dense) and op.features:  # the last layer has as many as classes
            op.features = 2 * model.num_columns
    model.num_classes, config.batch_size = 7, 2
    config.data.name = ""
    return configs.validated(config)


@cache
def one_step(config_json: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Loss of a random batch, and parameters before and after; once for configs that differ
    in the name of their data only."""
    config = configs.from_json(json.loads(config_json))
    crop, channels = config.data.crop, config.model.channels
    rng = np.random.default_rng(0)
    shapes = registry.abstract_variables(config)["params"]
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.1, p.shape), p.dtype), shapes)
    state = make_state(config, {"params": params})
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


@pytest.mark.parametrize(("file", "variant"), variants())
def test_builds_and_trains(file: str, variant: str) -> None:
    """Catches a variant that nobody has run: a missing field, a crop too small for its layers."""
    config = load(file, variant)
    rows = summarize(describe.with_classes(config))
    assert [row.name for row in rows] == list(blocks(sequential(config).ops))
    loss, before, after = one_step(configs.dumps(shrunk(load(file, variant))))
    assert np.isfinite(loss)
    for name, layer in before.items():
        change = np.abs(np.asarray(after[name]["kernel"] - layer["kernel"]))
        assert np.isfinite(change).all()
        assert (change > 0).any()


@pytest.mark.parametrize("file", sorted({file for file, _ in variants()}))
def test_unknown_variant(file: str) -> None:
    """Catches a misspelled variant that quietly trains another one."""
    with pytest.raises(InputError, match="unknown variant 'smaple'; known"):
        load(file, "smaple")


def reads(source: str) -> set[str]:
    """Names that a program takes out of something: x.name, or x["name"]."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            names.add(str(node.slice.value))
    return names


def unread(content: dict[str, Any], package: set[str]) -> list[str]:
    """Paths of the fields that no program reads; `type` is the tag of an op's class."""
    names = {path: path.rpartition(".")[2] for path, _ in fields.leaves(content)}
    return [path for path, name in names.items() if name not in {*package, "type"}]


@pytest.mark.parametrize(("file", "variant"), variants())
def test_every_field_is_read(file: str, variant: str) -> None:
    """Catches a field that changes nothing, whoever sets it; that config.py checks it is not
    enough."""
    modules = {*PACKAGE.rglob("*.py")} - {PACKAGE / "config.py"}
    package = set().union(*(reads(path.read_text()) for path in modules))
    content = configs.to_json(load(file, variant))
    assert unread(content, package) == []
    content["data"]["idle"] = 1
    content["model"]["ops"]["conv1"]["idle"] = 1
    assert unread(content, package) == ["data.idle", "model.ops.conv1.idle"]
