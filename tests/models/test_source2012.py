"""The 2012 program's config against its logs: every difference from the paper, every rate."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import pytest
from absl import flags
from helpers.config_files import CONFIGS, differences, followers, load
from ml_collections import config_flags

from alexnet_jax import command, describe, run_config, sharding
from alexnet_jax.analysis.collectives import lower_train_step
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import config_to_json, sequential_model
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import blocks
from alexnet_jax.schedules import init_schedule_state, learning_rate, learning_rates

IMAGES = {"": 1_281_167, "2010": 1_261_406, "finetune2012": 1_281_167}

# Field by field, what layers-145.cfg, layer-params-145.cfg and convdata_jpeg.py have; in epochs
# of its log, counted from 1.
CHANGES = {
    "optimizer.decay_multipliers": [[".*/bias", 0.0]],
    "schedule.multipliers": [
        ["conv1/kernel", 67, 0.1],
        ["conv1/.*", 72, 0.0],
        [".*/bias", 1, 2.0],
        [".*/bias", 25, 20.0],
        [".*/bias", 51, 200.0],
        [".*/bias", 79, 2000.0],
    ],
    "data.mean": "center",
    "data.crop_chunk": 32,
    "data.lighting": "source2012",
    "data.lighting_divisor": 1.1,
    "data.lighting_end": 67,
    "model.ops.norm1.alpha_over_size": True,
    "model.ops.norm2.alpha_over_size": True,
    "model.ops.rnorm2": {
        "type": "WithinChannelLRN",
        "size": 5,
        "k": 1.0,
        "alpha": 0.001,
        "beta": 0.75,
        "alpha_over_size": True,
    },
    "model.ops.conv3.std": 0.03,
    "model.ops.conv4.std": 0.03,
    "model.ops.conv5.std": 0.03,
}
# Its order of ops, where that is another: what follows a layer.
FOLLOWERS = {
    "conv1": ["LRN", "MaxPool", "ReLU"],
    "conv2": ["ReLU", "LRN", "WithinChannelLRN", "MaxPool"],
    "conv5": ["MaxPool", "ReLU"],
}
# What the paper says already, and its preset therefore has.
SHARED = {
    "learning_rate": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0005,
    "batch_size": 128,
    "epochs": 90,
    "schedule.drop_epochs": [25, 51, 79],
    "data.crop": 224,
    "data.lighting_std": 0.1,
}


def field(content: Any, path: str) -> object:
    for name in path.split("."):
        content = content[name]
    return content


def test_differences_from_the_paper() -> None:
    """Catches a difference that is lost, one that nobody listed, and one that reaches the paper's
    preset."""
    paper, program = load("alexnet.py", ""), load("source2012.py", "")
    assert differences(paper, program) == {*CHANGES, "model.ops"}  # their order
    content = config_to_json(program)
    assert {path: field(content, path) for path in CHANGES} == CHANGES
    assert {path: field(content, path) for path in SHARED} == SHARED
    layers = list(blocks(sequential_model(program).ops))
    assert layers == list(blocks(sequential_model(paper).ops))
    others = {name: followers(program, name) for name in layers}
    assert {n: f for n, f in others.items() if f != followers(paper, n)} == FOLLOWERS


@cache
def each_rate(variant: str, epoch: int) -> dict[str, float]:
    """The rates in the middle of an epoch, by parameter."""
    config, images = load("source2012.py", variant), IMAGES[variant]
    step = round((epoch - 0.5) * images / config.batch_size)
    params = {name: {"kernel": 0, "bias": 0} for name in blocks(sequential_model(config).ops)}
    rate = learning_rate(config, images, step, init_schedule_state(config.schedule))
    each = learning_rates(config, images, jnp.int32(step), rate, params)
    return {f"{n}/{kind}": float(r) for n, layer in each.items() for kind, r in layer.items()}


@pytest.mark.parametrize(
    ("variant", "epoch", "weights", "conv1", "biases", "conv1_bias"),
    [
        ("", 24, 1e-2, 1e-2, 2e-2, 2e-2),
        ("", 25, 1e-3, 1e-3, 2e-2, 2e-2),
        ("", 51, 1e-4, 1e-4, 2e-2, 2e-2),
        ("", 66, 1e-4, 1e-4, 2e-2, 2e-2),
        ("", 67, 1e-4, 1e-5, 2e-2, 2e-2),
        ("", 72, 1e-4, 0, 2e-2, 0),
        ("", 79, 1e-5, 0, 2e-2, 0),
        ("", 90, 1e-5, 0, 2e-2, 0),
        ("2010", 22, 1e-2, 1e-2, 2e-2, 2e-2),
        ("2010", 23, 1e-3, 1e-3, 2e-3, 2e-3),
        ("2010", 51, 1e-4, 1e-4, 2e-3, 2e-3),
        ("2010", 67, 1e-4, 1e-4, 2e-3, 2e-3),
        ("2010", 68, 1e-4, 1e-5, 2e-3, 2e-3),
        ("2010", 72, 1e-4, 0, 2e-3, 0),
        ("2010", 78, 1e-5, 0, 2e-3, 0),
    ],
)
def test_rates_of_the_logs(
    variant: str, epoch: int, weights: float, conv1: float, biases: float, conv1_bias: float
) -> None:
    """Catches an epoch off by one, a layer at another's rate, and biases that end elsewhere than
    where the program's files do."""
    got = each_rate(variant, epoch)
    for name, value in got.items():
        layer, kind = name.split("/")
        expected = {"kernel": (weights, conv1), "bias": (biases, conv1_bias)}[kind]
        assert value == pytest.approx(expected[layer == "conv1"], rel=1e-5), name


@pytest.mark.parametrize(("variant", "epochs", "dark"), [("", 90, 67), ("2010", 92, 68)])
def test_ends_of_the_logs(variant: str, epochs: int, dark: int) -> None:
    """Catches a run that trains in the epoch in which the original was stopped."""
    config = load("source2012.py", variant)
    assert (config.epochs, config.data.lighting_end) == (epochs, dark)


@pytest.mark.parametrize(
    ("epoch", "others", "conv1", "fc8", "biases"),
    [
        (1, 1e-3, 1e-4, 1e-2, 2e-2),
        (4, 1e-3, 1e-4, 1e-2, 2e-2),
        (5, 1e-3, 1e-5, 1e-2, 2e-2),
        (7, 1e-3, 0, 1e-2, 2e-2),
        (9, 1e-3, 0, 1e-3, 2e-2),
        (22, 1e-4, 0, 1e-4, 2e-2),
        (42, 1e-5, 0, 1e-5, 2e-2),
        (53, 1e-5, 0, 1e-5, 2e-2),
    ],
)
def test_rates_of_fine_tuning(
    epoch: int, others: float, conv1: float, fc8: float, biases: float
) -> None:
    """Catches a turn of layer-params-146-2012-2011.cfg that is lost or off by an epoch."""
    for name, value in each_rate("finetune2012", epoch).items():
        layer, kind = name.split("/")
        expected = {"conv1": conv1, "fc8": fc8}.get(layer, others)
        if kind == "bias":
            expected = 0 if layer == "conv1" and epoch >= 7 else biases
        assert value == pytest.approx(expected, rel=1e-5), name


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
@pytest.mark.parametrize("data", ["", "sample", "imagenette"])
@pytest.mark.parametrize(
    ("before", "word", "taken"),
    [
        ("", "pretrain2009", ["conv1", "conv2", "conv3", "conv4", "conv5"]),
        ("pretrain2009", "pretrain2011", ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6"]),
        ("pretrain2011", "finetune2012", ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6"]),
    ],
)
def test_chain(
    monkeypatch: pytest.MonkeyPatch, data: str, before: str, word: str, taken: list[str]
) -> None:
    """Catches a run that looks for another workdir than the one before it leaves, and layers to
    take over that this one does not have, or not in this shape."""
    earlier, variant = (",".join(filter(None, (data, word))) for word in (before, word))
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", values)
    values(["main", f"--config={CONFIGS / 'source2012.py'}:{earlier}"])
    monkeypatch.setattr(command, "FLAGS", values)
    config = load("source2012.py", variant)
    assert config.init_from == command.default_workdir()
    dense = ["fc6", "fc7"] if word == "finetune2012" else []
    assert list(config.init_layers) == [*taken, *dense]
    config.model.num_classes = 9
    earlier_config = load("source2012.py", earlier)
    earlier_config.model.num_classes = 7
    old, new = (registry.abstract_variables(c)["params"] for c in (earlier_config, config))
    for name in config.init_layers:
        assert old[name]["kernel"].shape == new[name]["kernel"].shape


@pytest.mark.parametrize(
    "variant",
    ["2010,pretrain2009", "no_lrn,pretrain2009", "pretrain2011,tanh", "pretrain2009,pretrain2011"],
)
def test_chain_combines_with_small_data_only(variant: str) -> None:
    """Catches a run that looks for another model's workdir: that of the words it knows of."""
    with pytest.raises(InputError, match="has no run to start from; pretrain2009, "):
        load("source2012.py", variant)


# By hand, with the classes of the releases: conv6 has 590,080 of them.
@pytest.mark.parametrize(
    ("word", "classes", "parameters"),
    [
        ("pretrain2009", 10_000, 61_555_304 + 9_000 * 4_097),
        # 2048 linear units between fc7 and the classifier
        ("pretrain2011", 21_843, 61_555_304 - 4_097_000 + 4_097 * 2_048 + 21_843 * 2_049),
        ("finetune2012", 1_000, 61_555_304),
    ],
)
def test_parameters_of_the_chain(word: str, classes: int, parameters: int) -> None:
    """Catches a sixth convolution of another size, and a bottleneck that is missing or in the way
    of the classifier."""
    config = load("source2012.py", word)
    config.model.num_classes = classes
    assert sum(row.parameters for row in summarize(config)) == parameters


@pytest.mark.parametrize("word", ["pretrain2009", "pretrain2011", "finetune2012"])
def test_chain_trains_on_small_data(word: str) -> None:
    """Catches a model of the chain whose layers do not fit together, or rates for layers that it
    does not have. The training step is traced, not compiled."""
    config = load("source2012.py", f"sample,{word}")
    config.batch_size = 4
    config = describe.with_classes(config)
    run_config.check_devices_and_patterns(config)
    lower_train_step(config, sharding.make_mesh(config.parallel))


def test_small_model_keeps_the_order_of_ops() -> None:
    """Catches a sample that is the paper's small model under this config's name."""
    sample, full = load("source2012.py", "sample"), load("source2012.py", "")
    full_ops, sample_ops = (
        {n: type(o).__name__ for n, o in sequential_model(c).ops.items()} for c in (full, sample)
    )
    assert list(sample_ops.items()) == list(full_ops.items())
    assert sample.schedule.multipliers[1] == ("conv1/.*", 15.0, 0.0)
    assert sample.data.lighting_end == 14
