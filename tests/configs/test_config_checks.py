"""What makes no sense in a config is refused: wrong types, and every check."""

import re
from dataclasses import replace
from typing import Any

import pytest
from helpers.torch_reference import small_config

from alexnet_jax.config import sequential_model, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, ReLU, WithinChannelLRN
from alexnet_jax.models.sequential_config import SequentialConfig

# Types of values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", 1.0, r"^seed is 1\.0; expected a whole number$"),
        ("seed", True, r"^seed is True; expected a whole number$"),
        ("seed", "1", r"^seed is '1'; expected a whole number$"),
        ("seed", 2**63, r"^seed=9223372036854775808; expected a whole number of 64 bits$"),
        ("seed", -(2**63) - 1, r"^seed=-9223372036854775809; expected a whole number of 64 bits$"),
        ("epochs", None, r"^epochs is None; expected a whole number$"),
        ("learning_rate", float("nan"), r"^learning_rate=nan; expected a finite number$"),
        ("learning_rate", float("inf"), r"^learning_rate=inf; expected a finite number$"),
        ("learning_rate", "0.1", r"^learning_rate is '0\.1'; expected a number$"),
        ("learning_rate", False, r"^learning_rate is False; expected a number$"),
        ("optimizer.momentum", float("-inf"), r"^optimizer\.momentum=-inf; expected a finite"),
        ("data.flip", 1, r"^data\.flip is 1; expected True or False$"),
        ("data.name", None, r"^data\.name is None; expected text$"),
        ("data.std", 1.0, r"^data\.std is 1\.0; expected a tuple whose elements are each a number"),
        ("data.std", (1.0, "2"), r"^data\.std\[1\] is '2'; expected a number$"),
        ("schedule.drop_epochs", (1, float("nan")), r"^schedule\.drop_epochs\[1\]=nan; expected a"),
        ("schedule.multipliers", ("fc8",), r"^schedule\.multipliers\[0\] is 'fc8'; expected a tup"),
        ("schedule.multipliers", (("fc8", 1),), r"multipliers\[0\] is \('fc8', 1\); expected a tup"
         r"le of text, a number, a number$"),
        ("schedule.multipliers", (("a", "1", 1.0),), r"multipliers\[0\]\[1\] is '1'; expected a n"),
        ("optimizer.decay_multipliers", ((1, 1.0),), r"multipliers\[0\]\[0\] is 1; expected text$"),
        ("init_layers", "conv1", r"^init_layers is 'conv1'; expected a tuple whose elements are e"),
        ("model.ops.conv1.padding", (1,), r"^model\.ops\.conv1\.padding is \(1,\); expected a tup"),
        ("model.ops.conv1.padding", (0, 1.5), r"^model\.ops\.conv1\.padding\[1\] is 1\.5; expecte"),
        ("model.ops.norm1.k", float("nan"), r"^model\.ops\.norm1\.k=nan; expected a finite number"),
        ("model.ops.relu1", "relu", r"^model\.ops\.relu1 is 'relu'; expected Op$"),
        ("model.ops", [], r"^model\.ops is \[\]; expected dict"),
        ("model", None, r"^model is None; expected ModelConfig$"),
        ("data", {}, r"^data is \{\}; expected DataConfig$"),
    ],
)  # fmt: skip
def test_wrong_types(path: str, value: object, message: str) -> None:
    """Catches a value that is taken for another, one that JSON cannot hold or NumPy overflows on,
    and a message that does not name the field."""
    with pytest.raises(InputError, match=message):
        with_changes(small_config(), {path: value})


@pytest.mark.parametrize("path", ["seed", "learning_rate", "data.name", "data.std"])
def test_numbers_that_python_does_not_print(path: str) -> None:
    """Catches a message that is itself an error: Python prints no more than 4300 digits."""
    message = rf"^{re.escape(path)}( is |=)a number of thousands of digits; expected "
    with pytest.raises(InputError, match=message):
        with_changes(small_config(), {path: 10**5000})


# Every check of config.py and models/sequential_config.py

TINY = 1e-9


@pytest.mark.parametrize(
    ("path", "wrong", "right"),
    [
        ("seed", (-1, 2**32), (0, 2**32 - 1)),  # others have the same key as one of these
        ("batch_size", (0, -1), (1,)),
        ("epochs", (0,), (1,)),
        ("log_every", (0,), (1,)),
        ("checkpoint_every", (0,), (1,)),
        ("evaluate_every", (0,), (1,)),
        ("keep_checkpoints", (0,), (1,)),
        ("max_steps", (-1,), (0,)),
        ("stop_error", (-TINY, 1.0), (0.0, 1 - TINY)),
        ("learning_rate", (0.0, -1.0), (TINY,)),
        ("optimizer.momentum", (-TINY, 1.0), (0.0, 1 - TINY)),
        ("optimizer.weight_decay", (-TINY,), (0.0,)),
        ("schedule.factor", (0.0,), (TINY, 1.5)),
        ("schedule.patience", (0,), (1,)),
        ("schedule.drops", (-1,), (0,)),
        ("model.channels", (0,), (1, 3)),
        ("model.num_classes", (-1,), (0, 1)),
        ("data.image_size", (0,), (1,)),
        ("data.crop", (0,), (24,)),
        ("data.jpeg_quality", (0, 101), (1, 100)),
        ("data.max_bad_share", (-TINY, 1 + TINY), (0.0, 1.0)),
        ("data.validation_share", (-TINY, 1.0), (0.0, 1 - TINY)),
        ("data.test_share", (-TINY, 1.0), (0.0, 1 - TINY)),
        ("data.crop_chunk", (0,), (1,)),
        ("data.lighting_divisor", (1 - TINY,), (1.0,)),
        ("data.lighting_end", (-1,), (0,)),
    ],
)
def test_limits_of_numbers(path: str, wrong: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    """Catches a limit that is missing, off by one, or whose message does not name the field."""
    for value in wrong:
        message = f"^{re.escape(f'{path}={value}; expected ')}"
        with pytest.raises(InputError, match=message):
            with_changes(small_config(), {path: value})
    for value in right:
        with_changes(small_config(), {path: value})


@pytest.mark.parametrize(
    ("path", "word", "nearest"),
    [
        ("compute_dtype", "float16", "float32, bfloat16"),
        ("schedule.rule", "epoch", "epochs, period, plateau"),
        ("parallel.scheme", "weird", "columns, one_weird_trick"),
        ("data.resize", "stretch", "crop, squash, shorter_side"),
        ("data.encoding", "png", "auto, raw"),
        ("data.jpeg_subsampling", "4:1:1", "4:4:4, 4:2:2, 4:2:0"),
        ("data.lighting", "pca", "paper, source2012, none"),
        ("data.mean", "centre", "image, center, channel, given, none"),
        ("data.channel_order", "BGR", "rgb, bgr"),
        ("data.resident", "yes", "auto, on, off"),
    ],
)
def test_words(path: str, word: str, nearest: str) -> None:
    """Catches a word that turns nothing on, and one that the message does not offer."""
    with pytest.raises(
        InputError, match=f"^{re.escape(f'{path}={word}; expected one of {nearest}')}$"
    ):
        with_changes(small_config(), {path: word})


def small_model(**changes: Any) -> SequentialConfig:
    """The small model with some ops put in place of those of the same name, or removed (None)."""
    model = sequential_model(small_config())
    ops = {**model.ops, **changes}
    return replace(model, ops={name: op for name, op in ops.items() if op is not None})


def spread(model: SequentialConfig, after: str, **added: Any) -> SequentialConfig:
    """The model with ops added after one of its own."""
    ops: dict[str, Any] = {}
    for name, op in model.ops.items():
        ops[name] = op
        if name == after:
            ops.update(added)
    return replace(model, ops=ops)


LAST = r"; expected a fully-connected layer, Dense, with features=0 \(the classes\) and groups=1$"
AFTER_DENSE = " after a fully-connected layer, which has no pixels; expected convolutions first"
MANY = ((".*", 1.0),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # patterns
        ({"optimizer.decay_multipliers": (*MANY, ("(", 1.0))},
         r"^optimizer\.decay_multipliers has '\(': no regular expression: missing \)"),
        ({"schedule.multipliers": (("*", 1.0, 1.0),)},
         r"^schedule\.multipliers has '\*': no regular expression: nothing to repeat"),
        ({"optimizer.decay_multipliers": (*MANY, ("a", -1.0))},
         r"^optimizer\.decay_multipliers=\('a', -1\.0\); expected factors of 0 or more$"),
        ({"schedule.multipliers": (("a", 1.0, -1.0),)},
         r"^schedule\.multipliers=\('a', 1\.0, -1\.0\); expected factors of 0 or more$"),
        ({"schedule.multipliers": (("a", 0.5, 1.0),)},
         r"^schedule\.multipliers=\('a', 0\.5, 1\.0\); expected epochs of 1 or more$"),
        # units of the inputs
        ({"data.given_mean": (1.0,)}, r"^data\.given_mean is \(1\.0,\) and .* none otherwise$"),
        ({"data.mean": "given"}, r"^data\.given_mean is \(\) and data\.mean=given; expected 1 num"),
        ({"data.mean": "given", "data.given_mean": (1.0, 2.0, 3.0)}, r"expected 1 numbers with"),
        ({"data.std": ()}, r"^data\.std is \(\); expected one number above 0, or one for each of"),
        ({"data.std": (1.0, 2.0)}, r"one for each of the 1 channels$"),
        ({"data.std": (0.0,)}, r"^data\.std is \(0\.0,\); expected one number above 0"),
        ({"data.std": (1.0, 0.0, 1.0), "model.channels": 3}, r"above 0, .* the 3 channels$"),
        # devices
        ({"parallel.data": 0}, r"^parallel\.data=0 × parallel\.columns=1; expected 1 or more of e"),
        ({"parallel.columns": 0}, r"^parallel\.data=1 × parallel\.columns=0; expected 1 or more o"),
        ({"parallel.columns": 3},
         r"^parallel\.columns=3 devices cannot share model\.num_columns=2 evenly$"),
        ({"parallel.data": 3}, r"^batch_size=8 is not a multiple of parallel\.data=3$"),
        ({"parallel.scheme": "one_weird_trick"}, r"^parallel\.scheme=one_weird_trick shares out t"),
        ({"parallel.scheme": "one_weird_trick", "parallel.columns": 2, "parallel.data": 2,
          "batch_size": 6}, r"^batch_size=6 is not a multiple of parallel\.data=2 × parallel\.col"),
        ({"parallel.columns": 2, "model.ops.norm1.size": 11,
          "model.ops.norm1.across_columns": True},
         r"^model\.ops\.norm1\.size=11 across columns reaches 5 channels far, and a device holds "),
        ({"optimizer.max_filter_rms": -0.1}, r"^optimizer\.max_filter_rms=-0.1; expected more "),
        ({"schedule.drop_epochs": (0,)}, r"^schedule\.drop_epochs=\(0\.0,\); expected epochs of"),
        ({"data.scale": 0.0}, r"^data\.scale=0\.0; expected more than 0$"),
        ({"data.lighting_std": -0.1}, r"^data\.lighting_std=-0\.1; expected 0 or more$"),
        ({"data.padding": 24}, r"^data\.padding=24; expected from 0 to below data"),
        ({"data.crop_positions": "six"}, r"^data\.crop_positions=six; expected one of all, five"),
        ({"data.scale_jitter": (256,)}, r"^data\.scale_jitter is \(256,\); expected \(\), or "),
        ({"data.scale_jitter": (20, 512)}, r"^data\.scale_jitter is \(20, 512\); .* data\.crop="),
        ({"data.scale_jitter": (512, 256)}, r"^data\.scale_jitter is \(512, 256\); expected "),
        ({"data.scale_jitter": (256, 512)}, r"^data\.scale_jitter scales images, and data\.mean="),
        # the model
        ({"model.init": "xavier"}, r"^model\.init is 'xavier'; expected one of normal, scaled, gl"),
        ({"model.num_columns": 0}, r"^model\.num_columns is 0; expected 1 or more$"),
        ({"model.ops": {}}, rf"^model\.ops ends with nothing: None{LAST}"),
        ({"model": small_model(fc8=None)}, rf"^model\.ops ends with drop7: Dropout\(.*\){LAST}"),
        ({"model.ops.fc8.features": 10}, rf"^model\.ops ends with fc8: Dense\(.*\){LAST}"),
        ({"model.ops.fc8.groups": 2}, rf"^model\.ops ends with fc8: Dense\(.*\){LAST}"),
        ({"model": small_model(**dict.fromkeys(("fc6", "fc7", "fc8")))}, rf"ends with .*{LAST}"),
        ({"model": spread(small_model(), "relu6", conv7=Conv(8, 1))},
         rf"^model\.ops\.conv7 is a Conv{AFTER_DENSE}"),
        ({"model": spread(small_model(), "relu6", pool6=MaxPool())},
         rf"^model\.ops\.pool6 is a MaxPool{AFTER_DENSE}"),
        ({"model": spread(small_model(), "relu6", rnorm6=WithinChannelLRN())},
         rf"^model\.ops\.rnorm6 is a WithinChannelLRN{AFTER_DENSE}"),
        ({"model": spread(small_model(), "relu6", **{"norm/6": LRN()})},
         r"^model\.ops has the name 'norm/6'; expected a letter, then letters, digits"),
        ({"model": spread(small_model(), "relu6", param=ReLU())}, r"^model\.ops has the name 'par"),
        ({"model": spread(small_model(), "relu6", config=ReLU())}, r"has the name 'config'"),
        ({"model": replace(small_model(), ops={"relu0": ReLU(), **small_model().ops})},
         r"^model\.ops begins with relu0: ReLU\(\); expected a convolution, which takes the image"),
        ({"model.ops": {"fc6": Dense(4), "fc8": Dense(0)}}, r"^model\.ops begins with fc6: Dense"),
        ({"model.ops.conv2.groups": 4}, r"^model\.ops\.conv2\.groups is 4; expected 1, or 2 as th"),
        ({"model.ops.fc6.groups": 0}, r"^model\.ops\.fc6\.groups is 0; expected 1, or 2 as the mo"),
        ({"model.ops.conv1.groups": 2}, r"^model\.ops\.conv1\.groups is 2; expected 1, since its "),
        ({"model.ops.conv2.features": 0}, r"^model\.ops\.conv2\.features is 0; expected 1 or mor"),
        ({"model.ops.fc7.features": 0}, r"^model\.ops\.fc7\.features is 0; expected 1 or more$"),
        ({"model.ops.conv3.features": 7},
         r"^model\.ops\.conv3\.features is 7; expected a multiple of model\.num_columns=2$"),
        ({"model.ops.fc6.features": 7}, r"^model\.ops\.fc6\.features is 7; expected a multiple of"),
        # ops
        ({"model.ops.conv2.kernel": 0}, r"^model\.ops\.conv2\.kernel is 0; expected 1 or more$"),
        ({"model.ops.conv2.stride": 0}, r"^model\.ops\.conv2\.stride is 0; expected 1 or more$"),
        ({"model.ops.conv2.std": -1.0}, r"^model\.ops\.conv2\.std is -1\.0; expected 0 or more$"),
        ({"model.ops.norm1.k": 0.0}, r"^model\.ops\.norm1\.k is 0\.0; expected more than 0$"),
        ({"model.ops.norm1.alpha": -1.0}, r"^model\.ops\.norm1\.alpha is -1\.0; expected 0 or mo"),
        ({"model.ops.norm1.beta": -1.0}, r"^model\.ops\.norm1\.beta is -1\.0; expected 0 or more$"),
        ({"model.ops.conv2.padding": (0, -1)}, r"^model\.ops\.conv2\.padding is \(0, -1\); expect"),
        ({"model.ops.norm1.size": 4}, r"^model\.ops\.norm1\.size is 4; expected an odd number"),
        ({"model.ops.norm1.size": -1}, r"^model\.ops\.norm1\.size is -1; expected an odd number"),
        ({"model.ops.norm2": WithinChannelLRN(size=2)}, r"^model\.ops\.norm2\.size is 2; expected"),
        ({"model.ops.pool1.window": 0}, r"^model\.ops\.pool1\.window is 0; expected 1 or more$"),
        ({"model.ops.pool1.stride": 0}, r"^model\.ops\.pool1\.stride is 0; expected 1 or more$"),
        ({"model.ops.pool1.stride": 4}, r"^model\.ops\.pool1\.stride is 4; expected at most the w"),
        ({"model.ops.drop6.rate": 1.0}, r"^model\.ops\.drop6\.rate=1\.0; expected from 0 to below"),
        ({"model.ops.drop6.rate": -TINY}, r"^model\.ops\.drop6\.rate=-1e-09; expected from 0 to b"),
        # sizes
        ({"data.crop": 1}, r"^data\.crop=1 is too small for the model: conv1 has a window of 5×5 a"
         r"nd an input of 4×4 pixels$"),
        ({"data.crop": 5}, r"^data\.crop=5 is too small for the model: pool1 has a window of 3×3 "),
        ({"model.ops.pool2.window": 9, "model.ops.pool2.stride": 2}, r"pool2 has a window of 9×9 a"
         r"nd an input of 6×6 pixels$"),
    ],
)  # fmt: skip
def test_what_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    """Catches a check that is missing, or whose message does not name the field.

    Without its changes each of these configs is valid.
    """
    validated(small_config())
    with pytest.raises(InputError, match=message):
        with_changes(small_config(), changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.mean": "given", "data.given_mean": (1.0,)},
        {"model.channels": 3, "data.std": (1.0, 2.0, 3.0)},
        {"parallel.columns": 2, "parallel.data": 2, "parallel.scheme": "one_weird_trick"},
        {"parallel.columns": 2, "model.ops.norm1.size": 9, "model.ops.norm1.across_columns": True},
        {"parallel.columns": 1, "model.ops.norm1.size": 11, "model.ops.norm1.across_columns": True},
        {"schedule.multipliers": (("no/such/layer", 1.0, 0.0),)},  # checked with the parameters
        {"model": spread(small_model(), "relu6", norm6=LRN(), drop5=Dropout(0.0))},
        {"data.crop": 6, "model.ops.pool2": MaxPool(1, 1)},
        {"model.ops.pool1.window": 12, "model.ops.pool2": MaxPool(1, 1)},
        {"model": SequentialConfig(ops=dict(relu0=ReLU(), fc6=Dense(3), fc8=Dense(0)))},
    ],
)  # fmt: skip
def test_what_makes_sense(changes: dict[str, Any]) -> None:
    """Catches a check that refuses what is on the right side of its limit."""
    with_changes(small_config(), changes)
