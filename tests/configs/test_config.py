"""The config: sealing, copies, misspelled names, and the order of its ops."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from helpers.config_files import load
from helpers.torch_reference import small_config

from alexnet_jax import fields
from alexnet_jax.config import (
    Config,
    config_to_json,
    sequential_model,
    validated,
    with_changes,
)
from alexnet_jax.data_config import (
    DataConfig,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, ReLU

# JSON and back


# Misspelled fields


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data.corp", r"^the config has no field data\.corp; did you mean crop\?$"),
        ("optimzer", r"^the config has no field optimzer; did you mean optimizer\?$"),
        ("optimzer.momentum", r"^the config has no field optimzer; did you mean optimizer\?$"),
        ("schedule.multiplier", r"schedule\.multiplier; did you mean multipliers\?$"),
        ("model.ops.convl.features", r"no field model\.ops\.convl; did you mean conv"),
        ("model.ops.conv1.fetures", r"model\.ops\.conv1\.fetures; did you mean features\?$"),
        ("model.ops.conv1.window", r"conv1\.window; expected one of features, kernel, stride, "),
        ("xyz", r"^the config has no field xyz; expected one of seed, init_from, "),
        ("seed.crop", r"^the config has no field seed\.crop; seed is a value$"),
        ("data.crop.x.y", r"^the config has no field data\.crop\.x\.y; data\.crop is a value$"),
        ("data.", r"^the config has no field data\.; expected one of name, dir"),
    ],
)
def test_misspelled_field(path: str, message: str) -> None:
    """Catches a hint from another section, or none; and a path that is taken for another's."""
    found = fields.find_unknown(small_config(), path)
    assert found is not None
    assert re.search(message, found)


def test_no_existing_field_is_unknown() -> None:
    """Catches a field that exists and is said not to."""
    config = small_config()
    paths = [path for path, _ in fields.leaves(config_to_json(config))]
    untagged = [path for path in paths if not path.endswith("type")]
    assert len(untagged) > 100
    for path in (*untagged, "model", "model.ops", "model.ops.conv1"):
        assert fields.find_unknown(config, path) is None


def test_misspelled_attribute() -> None:
    """Catches a config file that sets a field that does not exist."""
    config = small_config()
    with pytest.raises(AttributeError, match="no field bacth_size; did you mean batch_size"):
        config.bacth_size = 4
    with pytest.raises(AttributeError, match="no field paddding; did you mean padding"):
        sequential_model(config).ops["conv1"].paddding = 4
    with pytest.raises(AttributeError, match="no field corp; did you mean crop"):
        with_changes(config, {"data.corp": 24})


# Sealing


def sealed_parts() -> list[tuple[Any, str]]:
    """Every section of a sealed config, with the name of one of its fields."""
    config = validated(small_config())
    parts: list[Any] = [config, config.optimizer, config.schedule, config.parallel, config.data]
    parts += [config.model, *sequential_model(config).ops.values()]
    return [(part, next(iter(fields.field_types(type(part))), "")) for part in parts]


@pytest.mark.parametrize(("part", "name"), [(p, n) for p, n in sealed_parts() if n])
def test_sealed_config_keeps_its_fields(part: Any, name: str) -> None:
    """Catches a section that is not sealed with the config it is in, and fields that can be
    deleted, after which the class's default would stand there."""
    before = copy.deepcopy(part)
    with pytest.raises(AttributeError, match="is sealed"):
        setattr(part, name, getattr(part, name))
    with pytest.raises(AttributeError, match=name):
        delattr(part, name)
    assert part == before


@pytest.mark.parametrize(
    "change",
    [
        lambda ops: ops.update(relu9=ReLU()),
        lambda ops: ops.__setitem__("relu9", ReLU()),
        lambda ops: ops.__delitem__("relu1"),
        lambda ops: ops.__ior__({"relu9": ReLU()}),
        lambda ops: ops.setdefault("relu9", ReLU()),
        lambda ops: ops.pop("relu1"),
        lambda ops: ops.popitem(),
        lambda ops: ops.clear(),
    ],
)
def test_sealed_ops_stay(change: Callable[[Any], object]) -> None:
    """Catches a way to change the mapping of a sealed config's ops."""
    ops = sequential_model(validated(small_config())).ops
    with pytest.raises(TypeError, match="the config is sealed"):
        change(ops)
    assert list(ops) == list(sequential_model(small_config()).ops)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: fields.replace(c, {})],
)
def test_copies_are_not_sealed(copied: Callable[[Config], Config]) -> None:
    """Catches copies that cannot be changed, or that share a part with the original."""
    config = validated(small_config())
    changed = copied(config)
    assert changed == config
    changed.data.crop = 25
    sequential_model(changed).ops["conv1"] = Conv(4, kernel=3)
    sequential_model(changed).ops["relu9"] = ReLU()
    assert config == validated(small_config())


def test_with_changes_leaves_the_original() -> None:
    """Catches a copy that is not sealed or not checked, and an original that changes with it."""
    config = small_config()
    changed = with_changes(config, {"data.crop": 28, "model.ops.conv1.kernel": 3})
    assert config == small_config()
    assert changed.data.crop == 28
    with pytest.raises(AttributeError, match="sealed"):
        changed.seed = 1
    with pytest.raises(InputError, match="epochs=0"):
        with_changes(config, {"epochs": 0})
    config.seed = 1  # not sealed by the copy


def test_sealing_gives_fields_their_types() -> None:
    """Catches whole numbers and lists that stay in place of the floats and tuples declared."""
    config = small_config()
    config.learning_rate = 1
    config.schedule.drop_epochs = [1, 2.5]  # type: ignore[assignment]
    config.optimizer.decay_multipliers = [["a", 1]]  # type: ignore[assignment]
    sequential_model(config).ops["conv1"] = Conv(8, 5, 2, [0, 3])  # type: ignore[arg-type]
    validated(config)
    assert repr(config.learning_rate) == "1.0"
    assert repr(config.schedule.drop_epochs) == "(1.0, 2.5)"
    assert repr(config.optimizer.decay_multipliers) == "(('a', 1.0),)"
    assert "padding=(0, 3)" in repr(sequential_model(config).ops["conv1"])


def test_a_fresh_section_is_not_shared() -> None:
    """Catches defaults that all configs share, so that one file's changes reach another's."""
    one, other = Config(), Config()
    one.data.crop = 1
    one.optimizer.momentum = 0.5
    sequential_model(one).ops["relu1"] = ReLU()
    assert other == Config()
    assert other.data == DataConfig()


def test_the_order_of_ops_counts() -> None:
    """Catches a model with its ops in another order taken for the same one."""
    config = validated(load("alexnet.py", "sample"))
    names = [*sequential_model(config).ops]
    swapped = [*names[:2], names[3], names[2], *names[4:]]  # pool1 before norm1
    ops = {name: sequential_model(config).ops[name] for name in swapped}
    other = with_changes(config, {"model.ops": ops})
    assert other != config
    old, new = config_to_json(config), config_to_json(other)
    assert [*fields.differences(old, new)] == [("model.ops", names, swapped)]
