"""The configs of the repository: load them by file and variant, compare them."""

import importlib
from pathlib import Path
from typing import Any

from alexnet_jax import fields
from alexnet_jax.config import Config, config_to_json, sequential_model
from alexnet_jax.models.ops import blocks
from helpers import ROOT

CONFIGS = ROOT / "configs"


def module_of(file: str) -> Any:
    """Return the module of a config file, such as "alexnet.py"."""
    return importlib.import_module(f"configs.{Path(file).stem}")


def data_variants() -> list[tuple[str, str]]:
    """Return every config file with each of its data sets, and with each of its networks.

    tests/models/test_variants.py has the ablations.
    """
    found = []
    without_words = CONFIGS / "from_workdir.py"  # it takes a workdir instead
    for path in sorted({*CONFIGS.glob("*.py")} - {without_words}):
        module = module_of(path.name)
        if hasattr(module, "get_config"):
            words = ("", *getattr(module, "DATA", ()), *getattr(module, "NETWORKS", ()))
            found += [(path.name, word) for word in words]
    return found


def load(file: str, variant: str) -> Config:
    """Return the config of a file and a variant, neither checked nor sealed."""
    config: Config = module_of(file).get_config(variant)
    return config


def differences(left: Config, right: Config) -> set[str]:
    """Return the paths of the fields in which two configs differ.

    An op that only one of them has counts as one field.
    """
    contents = config_to_json(left), config_to_json(right)
    return {path for path, _, _ in fields.differences(*contents)}


def followers(config: Config, layer: str) -> list[str]:
    """Return the types of the ops between a layer with parameters and the next one."""
    return [
        type(op).__name__ for op in list(blocks(sequential_model(config).ops)[layer].values())[1:]
    ]
