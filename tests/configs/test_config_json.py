"""The config as JSON: configs and values of every field come back, other fields are refused."""

import copy
import json
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
    MAX_SEED,
    RULES,
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
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import INITIALIZERS, SequentialConfig


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
    "seed": st.integers(0, MAX_SEED),
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
    "schedule.drop_epochs": tuples_of(positive(least=1.0)),
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
    "data.lighting_std": NOT_NEGATIVE,
    "data.lighting_divisor": positive(least=1.0),
    "data.lighting_end": st.integers(0, 2**63 - 1),
    "data.scale": positive(),
    "data.std": st.tuples(positive()) | st.tuples(*[positive()] * 3),
    "data.channel_order": st.sampled_from(CHANNEL_ORDERS),
    "data.resident": st.sampled_from(RESIDENT),
    "model.num_classes": st.integers(0, 2**63 - 1),
    "model.init": st.sampled_from(INITIALIZERS),
    "model.ops.conv1.std": NOT_NEGATIVE,
    "model.ops.conv1.bias": ANY_NUMBER,
    "model.ops.fc6.groups": st.sampled_from([1, 2]),
    "model.ops.norm1.k": positive(),
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
