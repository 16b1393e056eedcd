"""Ablations: the parameters that the authors' runs had, and how words combine."""

import pytest
from helpers.config_files import differences, followers, load
from helpers.torch_reference import conv_op, dense_op

from alexnet_jax import describe, sharding
from alexnet_jax.analysis.collectives import lower_train_step
from alexnet_jax.analysis.summary import summarize
from alexnet_jax.config import Config, sequential_model
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, Dense, blocks
from configs.variants import ABLATIONS

FILES = ("alexnet.py", "source2012.py")  # those with ablations

# By hand from the sizes of the layers.
PARAMETERS = [
    ("", 60_965_224),
    ("no_lrn", 60_965_224),
    ("lrn_conv5", 60_965_224),
    ("no_overlap", 60_965_224),  # fc6 still has 6 × 6 × 256 inputs
    ("one_column", 59_798_312),
    ("no_communication", 60_714_408),
    ("conv6", 60_965_224 + 2 * (9 * 256 * 128 + 128)),
    # conv2 goes, conv3 sees 96 channels instead of 256
    ("no_conv2", 60_965_224 - 307_456 - 9 * 160 * 384),
    # conv3 goes, conv4 sees all of conv2's 256 channels instead of 192
    ("no_conv3", 60_965_224 - 885_120 + 9 * 64 * 384),
    ("no_conv4", 60_965_224 - 663_936),
    # conv5 goes, fc6 has 6 × 6 × 384 inputs
    ("no_conv5", 60_965_224 - 442_624 + 6 * 6 * 128 * 4096),
    ("no_fc6", 60_965_224 - 16_781_312),  # fc7 has the inputs and the size of fc6
    ("no_fc7", 60_965_224 - 16_781_312),
    ("tanh", 60_965_224),
    ("no_dropout", 60_965_224),
    ("no_lighting", 60_965_224),
    ("no_crops", 60_965_224),
    # feature maps of 224, 112, 56, 28 pixels
    ("four_layers", 25 * (3 * 32 + 32 * 32 + 32 * 64) + 128 + 28 * 28 * 64 * 1000 + 1000),
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("variant", "parameters"), PARAMETERS)
def test_parameters(file: str, variant: str, parameters: int) -> None:
    """Catches a layer of another size, and one that sees other columns than it should."""
    config = describe.with_classes(load(file, variant))
    assert sum(row.parameters for row in summarize(config)) == parameters


def test_every_ablation_is_counted() -> None:
    """Catches an ablation that nobody has looked at."""
    assert [word for word, _ in PARAMETERS] == ["", *ABLATIONS]


def layers(config: Config) -> list[str]:
    """Names of the layers with parameters."""
    return list(blocks(sequential_model(config).ops))


def features(config: Config) -> list[int]:
    """Features of the layers with parameters."""
    return [
        op.features for op in sequential_model(config).ops.values() if isinstance(op, Conv | Dense)
    ]


@pytest.mark.parametrize(
    ("file", "word"),
    [
        *(("alexnet.py", word) for word in ABLATIONS),
        # whose ops come in another order than the paper's
        *(("source2012.py", word) for word in ("no_lrn", "lrn_conv5", "no_conv2", "no_conv5")),
    ],
)
def test_ablation_trains_on_small_data(file: str, word: str) -> None:
    """Catches an ablation that changes nothing, and one whose small model does not fit together.
    The training step is traced, not compiled: that would take five seconds for each."""
    data = "cifar10"  # with lighting, which may be left out
    config = load(file, f"{data},{word}")
    assert differences(config, load(file, data))
    config.batch_size = 4
    config = describe.with_classes(config)
    lower_train_step(config, sharding.make_mesh(config.parallel))


@pytest.mark.parametrize("file", FILES)
def test_no_overlap_pads_as_run_147(file: str) -> None:
    """Catches paddings other than those of layers-147.cfg, whose maps are 55→28→26→13→11→6."""
    config = load(file, "no_overlap")
    padding = [conv_op(config, f"conv{n}").padding for n in range(1, 6)]
    assert padding == [(0, 3), (1, 1), (1, 1), (1, 1), (0, 0)]


@pytest.mark.parametrize("file", FILES)
def test_one_column_has_no_groups(file: str) -> None:
    """Catches a layer that still sees a part of the channels."""
    config = load(file, "one_column")
    assert sequential_model(config).num_columns == 1
    ops = sequential_model(config).ops.values()
    assert {op.groups for op in ops if isinstance(op, Conv | Dense)} == {1}


def test_neighbors_take_over() -> None:
    """Catches a model without one layer that pools once less, or whose columns never meet."""
    config = load("alexnet.py", "no_conv2")
    assert followers(config, "conv3") == ["ReLU", "MaxPool"]
    assert list(blocks(sequential_model(config).ops)["conv3"]) == ["conv3", "relu3", "pool3"]
    assert conv_op(load("alexnet.py", "no_conv3"), "conv4").groups == 1
    config = load("alexnet.py", "no_conv5")
    assert followers(config, "conv4") == ["ReLU", "MaxPool"]
    assert conv_op(config, "conv4").groups == 2


def test_words_combine() -> None:
    """Catches an ablation that is lost beside another word, or undone by the data's."""
    config = load("alexnet.py", "sample,one_column,no_lrn")
    assert config.data.name == "sample"
    assert sequential_model(config).num_columns == 1
    assert features(config)[:5] == [16, 32, 48, 48, 64]
    assert followers(config, "conv1") == ["ReLU", "MaxPool"]


@pytest.mark.parametrize("file", FILES)
def test_four_layers(file: str) -> None:
    """Catches a layer left over from the larger model, an op that follows it there and not here,
    and words after it that do not reach it."""
    config = load(file, "cifar10,four_layers,tanh,no_lrn")
    assert layers(config) == ["conv1", "conv2", "conv3", "fc4"]
    assert [followers(config, f"conv{n}") for n in (1, 2, 3)] == 3 * [["Tanh", "MaxPool"]]
    config.data.crop = 32
    rows = summarize(describe.with_classes(config))
    assert [row.output for row in rows] == [(32, 32, 32), (16, 16, 32), (8, 8, 64), (10,)]
    config = load(file, "four_layers")
    assert followers(config, "conv2") == ["ReLU", "MaxPool", "LRN"]
    assert dense_op(config, "fc4").groups == 1


def test_conv6_stands_before_the_dense_layers() -> None:
    """Catches a sixth convolution that takes the name of another op, or its place."""
    config = load("alexnet.py", "conv6")
    assert layers(config) == [f"conv{n}" for n in range(1, 7)] + ["fc6", "fc7", "fc8"]
    assert followers(config, "conv6") == ["ReLU"]
    assert followers(config, "fc6") == ["ReLU", "Dropout"]
    assert conv_op(config, "conv6").groups == 1


@pytest.mark.parametrize("variant", ["no_communication,conv6", "conv6,no_communication"])
def test_conv6_does_not_join_separate_columns(variant: str) -> None:
    """Catches columns "without communication" that exchange their channels before conv6."""
    ops = sequential_model(load("alexnet.py", variant)).ops
    hidden = ("conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")
    assert {name: ops[name].groups for name in hidden} == dict.fromkeys(hidden, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("one_column,sample", "names the data sample after one_column"),
        ("sample,one_column,one_column", "has one_column twice"),
        ("sample,cifar10", "names the data cifar10 after sample"),
        ("sample,", "unknown variant ''; known"),
        ("sample,no_lighting", "sample is trained without lighting"),
        ("no_communication,no_communication", "has no_communication twice"),
        (
            "one_column,no_communication",
            "no_communication separates columns, but the model has only one",
        ),
        (
            "no_conv3,no_communication",
            "no_communication changes conv3, which this model does not have",
        ),
        ("no_conv5,lrn_conv5", "lrn_conv5 changes conv5, which this model does not have"),
        ("no_conv5,conv6", "conv6 changes conv5, which this model does not have"),
        ("no_lrn,lrn_conv5", "lrn_conv5 adds a normalization, but no_lrn"),
        ("four_layers,no_conv4", "no_conv4 changes conv4, which this model does not have"),
        ("four_layers,one_column", "one_column removes a column, but the model has only one"),
        ("four_layers,no_conv2", "without conv2, conv3 would have to pool twice"),
        (
            "sample,tanh,four_layers",
            "names the model four_layers after tanh, which it would undo",
        ),
        ("no_conv2,no_conv3,no_conv4", "without conv4, conv5 would have to pool twice"),
    ],
)
def test_wrong_words(variant: str, message: str) -> None:
    """Catches a model made small after it was ablated, and words that change nothing."""
    with pytest.raises(InputError, match=message):
        load("alexnet.py", variant)


def test_without_conv5_the_sixth_convolution_pools() -> None:
    """Catches ops that get the name of another's, so that fc6's ReLU is lost."""
    ops = sequential_model(load("alexnet.py", "conv6,no_conv5")).ops
    kinds = [type(op).__name__ for op in ops.values()]
    assert kinds.count("ReLU") == 7
    assert [*blocks(ops)["conv6"]] == ["conv6", "relu_conv6", "pool6"]
    assert [*blocks(ops)["fc6"]] == ["fc6", "relu6", "drop6"]


def test_the_learning_rate_of_cifar10() -> None:
    """Catches: the rate chosen for CIFAR-10 lost, or given to the other small data sets."""
    rates = {data: load("alexnet.py", data).learning_rate for data in ("cifar10", "sample")}
    assert rates == {"cifar10": 0.06, "sample": 0.03}
