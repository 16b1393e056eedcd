"""The config as data: JSON and back, sealing, misspelled names, and every check."""

import copy
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from helpers.config_files import data_variants, load, module_of
from helpers.torch_reference import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from alexnet_jax import fields
from alexnet_jax.config import (
    COMPUTE_DTYPES,
    RULES,
    Config,
    config_from_json,
    config_to_json,
    config_to_text,
    sequential_model,
    validated,
    with_changes,
)
from alexnet_jax.data_config import (
    CHANNEL_ORDERS,
    CROP_POSITIONS,
    ENCODINGS,
    LIGHTING,
    RESIDENT,
    RESIZES,
    SUBSAMPLINGS,
    DataConfig,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, ReLU
from alexnet_jax.models.sequential_config import INITIALIZERS, SequentialConfig

# JSON and back


def words_of(file: str, data: str) -> list[str]:
    """Every word that may follow a word of the data; what does not go together is left out."""
    module = module_of(file)
    if not hasattr(module, "DATA"):
        return [""]
    changes = getattr(module, "CHANGES", module.variants.ABLATIONS)
    words = ["", *changes, *getattr(module, "PRETRAINING", ())]
    refused = [*getattr(module, "PRETRAINING", ())] if data == "2010" else []
    if file == "zfnet.py" or (file != "source2012.py" and data in ("sample", "fashion_mnist")):
        refused.append("no_lighting")  # they are trained without
    if file == "zfnet.py" and data != "krizhevsky":
        refused += ["one_column", "no_communication"]  # it has one column
    if data in ("b", "krizhevsky"):
        refused.append("four_layers")  # it would undo them
    if file == "vgg.py":
        refused += [] if data == "B" else ["conv5x5"]
        refused += ["s384"] if data in ("sample", "fashion_mnist", "cifar10") else []
        refused += ["caffe", "torchvision"] if data in ("sample", "fashion_mnist") else []
    if file == "resnet.py":
        plain, imagenet = "plain" in data, data in ("", "imagenette", "50", "101", "152")
        refused += [f"shortcut_{kind}" for kind in "abc"] if plain else []
        refused += [] if imagenet else ["v1.5"]  # the others have no bottleneck blocks
        small = data.startswith("cifar") or data in ("sample", "fashion_mnist")
        refused += ["torchvision"] if small else []  # and these no first max pooling
    if file == "cifar.py" and data not in ("18pct", "11pct"):
        refused.append("no_lrn")  # the others have no normalization
    return [word for word in words if word not in refused]


@pytest.mark.parametrize(("file", "data"), data_variants())
def test_every_config_survives_json(file: str, data: str) -> None:
    """Catches a field that JSON loses or changes in type, an op that comes back as another, and
    ops in another order."""
    for word in words_of(file, data):
        config = validated(load(file, ",".join(filter(None, (data, word)))))
        back = config_from_json(json.loads(config_to_text(config)))
        assert back == config
        assert repr(back) == repr(config)  # numbers and tuples of the same types
        if isinstance(config.model, SequentialConfig):
            assert list(sequential_model(back).ops) == list(config.model.ops)
        assert config_to_text(back) == config_to_text(config)


def positive(*, least: float = 0.0, most: float | None = None) -> SearchStrategy[float | int]:
    """Finite numbers above `least`; a whole one does for a field that takes any."""
    above = st.floats(least, most, exclude_min=True, allow_infinity=False, allow_nan=False)
    return above | st.integers(int(least) + 1, 2**53 if most is None else int(most))


WHOLE = st.integers(1, 2**63 - 1)
ANY_NUMBER = st.floats(allow_nan=False, allow_infinity=False)
NOT_NEGATIVE = st.floats(0, allow_infinity=False, allow_nan=False)
SHARES = st.floats(0, 1, exclude_max=True)
PATTERNS = st.sampled_from([".*/bias", "conv1/.*", r"fc\d/kernel", "[^/]*"])


def tuples_of(*elements: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Tuples, or the lists that a config file may have in their place."""
    each = elements[0] if len(elements) == 1 else st.tuples(*elements)
    lists: SearchStrategy[Any] = st.lists(each, max_size=3)
    return lists.map(tuple) | lists


# Every field with values that it may have by itself. Of the ops, one of each kind; their geometry,
# and what is checked against another field, is left out.
VALUES: dict[str, SearchStrategy[Any]] = {
    "seed": st.integers(-(2**63), 2**63 - 1),
    "init_from": st.text(),
    "init_layers": tuples_of(st.text()),
    "batch_size": WHOLE,
    "epochs": WHOLE,
    "max_steps": st.integers(0, 2**63 - 1),
    "stop_error": SHARES,
    "learning_rate": positive(),
    "compute_dtype": st.sampled_from(COMPUTE_DTYPES),
    "evaluate_every": WHOLE,
    "checkpoint_every": WHOLE,
    "keep_checkpoints": WHOLE,
    "log_every": WHOLE,
    "optimizer.momentum": SHARES,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.decay_multipliers": tuples_of(PATTERNS, NOT_NEGATIVE),
    "optimizer.max_filter_rms": NOT_NEGATIVE,
    "optimizer.ema_decay": SHARES,
    "schedule.rule": st.sampled_from(RULES),
    "schedule.factor": positive(),
    "schedule.drop_epochs": tuples_of(ANY_NUMBER | st.integers(1, 99)),
    "schedule.period": positive(),
    "schedule.warmup_steps": st.integers(0, 2**63 - 1),
    "schedule.warmup_factor": positive(),
    "schedule.patience": WHOLE,
    "schedule.drops": st.integers(0, 2**63 - 1),
    "schedule.multipliers": tuples_of(PATTERNS, positive(least=1.0), NOT_NEGATIVE),
    "parallel.columns": st.sampled_from([1, 2]),
    "data.name": st.text(),
    "data.dir": st.text(),
    "data.pack_dir": st.text(),
    "data.image_size": WHOLE,
    "data.enlarge": st.booleans(),
    # Packs of whole images have no mean for each pixel and no padding.
    "data.resize": st.sampled_from([word for word in RESIZES if word != "shorter_side"]),
    "data.encoding": st.sampled_from(ENCODINGS),
    "data.jpeg_quality": st.integers(1, 100),
    "data.jpeg_subsampling": st.sampled_from(SUBSAMPLINGS),
    "data.max_bad_share": st.floats(0, 1),
    "data.validation_share": SHARES,
    "data.test_share": SHARES,
    "data.split_seed": st.integers(-(2**63), 2**63 - 1),
    "data.shuffle": st.booleans(),
    "data.part_images": st.integers(0, 2**63 - 1),
    "data.crop": st.integers(224, 1000),
    "data.crop_positions": st.sampled_from(CROP_POSITIONS),
    "data.crop_aspect": st.sampled_from([(0.5, 2.0), [1, 1]]),
    "data.padding": st.integers(0, 99),
    "data.flip": st.booleans(),
    "data.crop_chunk": WHOLE,
    "data.lighting": st.sampled_from(LIGHTING),
    "data.lighting_std": ANY_NUMBER,
    "data.lighting_divisor": positive(least=1.0),
    "data.lighting_end": st.integers(0, 2**63 - 1),
    "data.scale": ANY_NUMBER,
    "data.std": st.tuples(positive()) | st.tuples(*[positive()] * 3),
    "data.channel_order": st.sampled_from(CHANNEL_ORDERS),
    "data.resident": st.sampled_from(RESIDENT),
    "model.num_classes": st.integers(0, 2**63 - 1),
    "model.init": st.sampled_from(INITIALIZERS),
    "model.ops.conv1.std": ANY_NUMBER,
    "model.ops.conv1.bias": ANY_NUMBER,
    "model.ops.fc6.groups": st.sampled_from([1, 2]),
    "model.ops.norm1.k": ANY_NUMBER,
    "model.ops.norm1.alpha_over_size": st.booleans(),
    "model.ops.pool1.ceil_mode": st.booleans(),
    "model.ops.drop6.rate": SHARES,
    "model.ops.drop6.inverted": st.booleans(),
}
NEED_ANOTHER_FIELD = {
    "data.mean",
    "data.given_mean",
    "data.scale_jitter",
    "data.crop_area",
    "data.stages",
    "parallel.data",
    "parallel.scheme",
    "model.type",
    "model.channels",
    "model.num_columns",
}


def test_every_field_has_values() -> None:
    """Catches a new field that the test below leaves out."""
    paths = {path for path, _ in fields.leaves(config_to_json(load("alexnet.py", "")))}
    paths = {path for path in paths if not path.startswith("model.ops.")}
    ours = {path for path in VALUES if not path.startswith("model.ops.")}
    assert ours | NEED_ANOTHER_FIELD == paths


@settings(deadline=None, max_examples=60)
@given(changes=st.fixed_dictionaries({}, optional=VALUES))
def test_any_config_survives_json(changes: dict[str, Any]) -> None:
    """Catches numbers that lose digits on the way, whole numbers and lists that stay what a
    float or a tuple should be, text that is not kept, and valid values that are refused."""
    config = with_changes(load("alexnet.py", ""), changes)
    back = config_from_json(json.loads(config_to_text(config)))
    assert back == config
    assert repr(back) == repr(config)


def test_fields_of_other_configs_are_refused() -> None:
    """Catches a field that is ignored, one that silently gets a default, and another class's."""
    content = config_to_json(validated(small_config()))

    def refused(message: str, change: Callable[[Any], object]) -> None:
        changed = copy.deepcopy(content)
        change(changed)
        with pytest.raises(InputError, match=message):
            config_from_json(changed)

    refused(r"^the config lacks the fields seed$", lambda c: c.pop("seed"))
    refused(r"^model\.ops\.conv2 lacks the fields bias$",
            lambda c: c["model"]["ops"]["conv2"].pop("bias"))  # fmt: skip
    refused(r"^model\.ops\.relu1 has type=None; expected one of Conv, LocalConv, Dense, ReLU",
            lambda c: c["model"]["ops"]["relu1"].pop("type"))  # fmt: skip
    refused(r"^model\.ops\.relu1 has type='Config'",
            lambda c: c["model"]["ops"]["relu1"].update(type="Config"))  # fmt: skip
    refused(r"^model has type='ReLU'; expected one of .*SequentialConfig",
            lambda c: c["model"].update(type="ReLU"))  # fmt: skip
    refused(r"^data is 3; expected an object of fields$", lambda c: c.update(data=3))
    refused(r"^model\.ops is \[\]; expected dict", lambda c: c["model"].update(ops=[]))
    refused(r"^model\.ops\.conv1 is 'conv'; expected an object of fields$",
            lambda c: c["model"]["ops"].update(conv1="conv"))  # fmt: skip
    with pytest.raises(InputError, match=r"^the config is None; expected an object of fields$"):
        config_from_json(None)


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


@pytest.mark.parametrize(
    ("parents", "name", "message"),
    [
        ((), "batchsize", r"^the config has no field batchsize; did you mean batch_size\?$"),
        (("data",), "corp", r"^the config has no field data\.corp; did you mean crop\?$"),
        (("model", "ops", "fc6"), "group",
         r"^the config has no field model\.ops\.fc6\.group; did you mean groups\?$"),
    ],
)  # fmt: skip
def test_misspelled_field_in_json(parents: tuple[str, ...], name: str, message: str) -> None:
    """Catches a misspelled field of a config.json that is ignored, or without a hint."""
    content = config_to_json(validated(small_config()))
    part = content
    for parent in parents:
        part = part[parent]
    part[name] = 1
    with pytest.raises(InputError, match=message):
        config_from_json(content)


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
