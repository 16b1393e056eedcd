"""The shapes of a model's variables, which several parts of a run ask for."""

from pathlib import Path
from typing import Any

import jax
import pytest
from helpers.image_sets import write_idx_set
from helpers.tiny_model import tiny_config

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.models import registry


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The config of a small model; nothing is read from its folder."""
    write_idx_set(tmp_path, train=1, test=1)
    return tiny_config(tmp_path, **{"model.num_classes": 7})


def test_a_model_is_traced_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a trace for each caller, which of a deep model takes seconds; shapes that callers
    share, so that one changes those of another; the seed taken for something that shapes need."""
    traced: list[Config] = []
    init = registry.init_boxed_variables

    def counted(config: Config) -> Any:
        traced.append(config)
        return init(config)

    monkeypatch.setattr(registry, "init_boxed_variables", counted)
    monkeypatch.setattr(registry, "_ABSTRACT", {})
    first: Any = registry.abstract_boxed_variables(config)
    first["params"]["conv1"].clear()
    again = registry.abstract_boxed_variables(fields.replace(config, {"seed": 5}))
    assert len(traced) == 1
    expected = jax.eval_shape(lambda: init(config))
    assert again == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"data.crop": 20},
        {"model.num_classes": 8},
        {"model.channels": 3},
        {"model.ops.conv1.features": 8},
    ],
    ids=str,
)
def test_shapes_are_those_of_the_config(config: Config, changes: dict[str, Any]) -> None:
    """Catches: the shapes of another config taken for those of this one."""
    before = registry.abstract_boxed_variables(config)
    changed = fields.replace(config, changes)
    found = registry.abstract_boxed_variables(changed)
    assert found != before
    assert found == jax.eval_shape(lambda: registry.init_boxed_variables(changed))
