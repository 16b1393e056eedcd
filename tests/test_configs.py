"""Every config and variant: it builds, it trains a step, and no field of it is idle."""

import ast
import json
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import alexnet_jax
from alexnet_jax import describe, network, parallel, train
from alexnet_jax.inputs import mean_of
from alexnet_jax.optimizer import Plateau, make_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
PACKAGE = Path(alexnet_jax.__file__).parent


def variants() -> list[tuple[str, str]]:
    """Every config file with each word for its data; tests/test_variants.py has the ablations."""
    found = []
    for path in sorted({*CONFIGS.glob("*.py")} - {CONFIGS / "like.py"}):  # its words are workdirs
        module = runpy.run_path(str(path))
        if "get_config" in module:
            found += [(path.name, word) for word in ("", *module.get("DATA", ()))]
    return found


def load(file: str, variant: str) -> ConfigDict:
    config: ConfigDict = runpy.run_path(str(CONFIGS / file))["get_config"](variant)
    return config


def shrunk(config: ConfigDict) -> ConfigDict:
    """A few maps and units instead of many; the crop, and with it every size, stays."""
    for layer in config.model.layers.values():
        if layer.features:  # the last layer has as many as there are classes
            layer.features = 2 * config.model.columns
    config.model.classes, config.batch_size = 7, 2
    config.data.name = ""
    return config


@cache
def one_step(config_json: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Loss of a random batch, and parameters before and after; once for configs that differ
    in the name of their data only."""
    config = ConfigDict(json.loads(config_json))
    crop, channels = config.data.crop, config.model.channels
    rng = np.random.default_rng(0)
    shapes = network.abstract_params(config)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.1, p.shape), p.dtype), shapes)
    velocity = make_optimizer(config).init(params)
    state = train.TrainState(jnp.int32(0), params, velocity, Plateau.start())
    mean_image = rng.uniform(0, 255, (crop + 4, crop + 4, channels)).astype(np.float32)
    mean = mean_of(mean_image, config.data, channels)
    batch = {
        "image": rng.integers(0, 256, (2, crop, crop, channels), np.uint8),
        "label": np.array([0, 6], np.int32),
        "offset": np.array([[0, 4], [4, 1]], np.int32),
        "flip": np.array([False, True]),
        "shift": rng.normal(size=(2, channels)).astype(np.float32),
        "gain": np.array([1, 0.9], np.float32),
        "example": np.array([0, 1], np.uint32),
    }
    step = train.make_train_step(config, parallel.make_mesh(config), 100)
    # Quick to compile, since it runs once.
    quick = jax.jit(lambda *a: step(*a), compiler_options={"xla_backend_optimization_level": 0})
    new, sums = quick(state, mean, batch)
    return float(sums["loss"]), params, new.params


@pytest.mark.parametrize(("file", "variant"), variants())
def test_builds_and_trains(file: str, variant: str) -> None:
    """Catches a variant that nobody has run: a missing field, a crop too small for its layers."""
    config = load(file, variant)
    rows = describe.layers(describe.with_classes(config))
    assert [row.name for row in rows] == sorted(config.model.layers)
    loss, before, after = one_step(shrunk(config).to_json())
    assert np.isfinite(loss)
    for name, layer in before.items():
        change = np.abs(np.asarray(after[name]["kernel"] - layer["kernel"]))
        assert np.isfinite(change).all()
        assert (change > 0).any()


@pytest.mark.parametrize("file", sorted({file for file, _ in variants()}))
def test_unknown_variant(file: str) -> None:
    """Catches a misspelt variant that quietly trains another one."""
    with pytest.raises(ValueError, match="unknown variant 'smaple'; known"):
        load(file, "smaple")


def leaves(config: ConfigDict, path: str = "") -> Iterator[str]:
    """Paths of all fields that hold values."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name


def reads(source: str) -> set[str]:
    """Names that a program takes out of something: x.name, or x["name"]."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            names.add(str(node.slice.value))
    return names


def unread(config: ConfigDict, package: set[str]) -> list[str]:
    return [path for path in leaves(config) if path.rpartition(".")[2] not in package]


@pytest.mark.parametrize(("file", "variant"), variants())
def test_every_field_is_read(file: str, variant: str) -> None:
    """Catches a field that changes nothing, whoever sets it."""
    package = set().union(*(reads(path.read_text()) for path in PACKAGE.rglob("*.py")))
    config = load(file, variant)
    assert unread(config, package) == []
    config.data.idle = 1
    assert unread(config, package) == ["data.idle"]
