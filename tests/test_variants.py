"""Ablations: the parameters that the authors' runs had, and how words combine."""

from typing import Any

import pytest
from ml_collections import ConfigDict
from test_configs import load

from alexnet_jax import collectives, describe, parallel
from alexnet_jax.models.order import by_number
from configs.variants import ABLATIONS, _convolutions

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
    # conv2 goes, conv3 sees 96 maps instead of 256
    ("no_conv2", 60_965_224 - 307_456 - 9 * 160 * 384),
    # conv3 goes, conv4 sees all of conv2's 256 maps instead of 192
    ("no_conv3", 60_965_224 - 885_120 + 9 * 64 * 384),
    ("no_conv4", 60_965_224 - 663_936),
    # conv5 goes, fc6 has 6 × 6 × 384 inputs
    ("no_conv5", 60_965_224 - 442_624 + 6 * 6 * 128 * 4096),
    ("tanh", 60_965_224),
    ("no_dropout", 60_965_224),
    ("no_lighting", 60_965_224),
    ("no_crops", 60_965_224),
    # maps of 224, 112, 56, 28 pixels
    ("four_layers", 25 * (3 * 32 + 32 * 32 + 32 * 64) + 128 + 28 * 28 * 64 * 1000 + 1000),
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("variant", "parameters"), PARAMETERS)
def test_parameters(file: str, variant: str, parameters: int) -> None:
    """Catches a layer of another size, and one that sees other columns than it should."""
    config = describe.with_classes(load(file, variant))
    assert sum(row.parameters for row in describe.layers(config)) == parameters


def test_every_ablation_is_counted() -> None:
    """Catches an ablation that nobody has looked at."""
    assert [word for word, _ in PARAMETERS] == ["", *ABLATIONS]


def differences(left: Any, right: Any, name: str = "") -> set[str]:
    """Paths of the fields in which two configs differ."""
    if not isinstance(left, ConfigDict) or not isinstance(right, ConfigDict):
        return set() if left == right else {name}
    fields = {*left, *right}
    return set().union(
        *(
            differences(left.get(field), right.get(field), f"{name}.{field}".strip("."))
            for field in fields
        )
    )


@pytest.mark.parametrize(
    ("file", "word"),
    [
        *(("alexnet.py", word) for word in ABLATIONS),
        # whose steps come in another order than the paper's
        *(("source2012.py", word) for word in ("no_lrn", "lrn_conv5", "no_conv2", "no_conv5")),
    ],
)
def test_ablation_trains_on_small_data(file: str, word: str) -> None:
    """Catches an ablation that changes nothing, and one whose small net does not fit together.
    The training step is traced, not compiled: that would take five seconds for each."""
    data = "cifar10"  # with lighting, which may be left out
    config = load(file, f"{data},{word}")
    assert differences(config, load(file, data))
    config.batch_size = 4
    config = describe.with_classes(config)
    collectives.lower_train_step(config, parallel.make_mesh(config))


@pytest.mark.parametrize("file", FILES)
def test_no_overlap_pads_as_run_147(file: str) -> None:
    """Catches paddings other than those of layers-147.cfg, whose maps are 55→28→26→13→11→6."""
    layers = load(file, "no_overlap").model.layers
    padding = [layers[f"conv{n}"].padding for n in range(1, 6)]
    assert padding == [(0, 3), (1, 1), (1, 1), (1, 1), (0, 0)]


def test_neighbours_take_over() -> None:
    """Catches a net without one layer that pools once less, or whose columns never meet."""
    layers = load("alexnet.py", "no_conv2").model.layers
    assert layers.conv3.after == ("relu", "pool")
    assert load("alexnet.py", "no_conv3").model.layers.conv4.sees == "both"
    layers = load("alexnet.py", "no_conv5").model.layers
    assert layers.conv4.after == ("relu", "pool")
    assert layers.conv4.sees == "own"


def test_words_combine() -> None:
    """Catches an ablation that is lost beside another word, or undone by the data's."""
    config = load("alexnet.py", "sample,one_column,no_lrn")
    assert config.data.name == "sample"
    assert config.model.columns == 1
    assert [layer.features for layer in config.model.layers.values()][:5] == [16, 32, 48, 48, 64]
    assert config.model.layers.conv1.after == ("relu", "pool")


@pytest.mark.parametrize("file", FILES)
def test_four_layers(file: str) -> None:
    """Catches a layer left over from the larger net, a step that follows it there and not here,
    and words after it that do not reach it."""
    config = load(file, "cifar10,four_layers,tanh,no_lrn")
    layers = config.model.layers
    assert sorted(layers) == ["conv1", "conv2", "conv3", "fc4"]
    assert [layers[f"conv{n}"].after for n in (1, 2, 3)] == 3 * [("tanh", "pool")]
    config.data.crop = 32
    rows = describe.layers(describe.with_classes(config))
    assert [row.output for row in rows] == [(32, 32, 32), (16, 16, 32), (8, 8, 64), (10,)]
    after = load(file, "four_layers").model.layers.conv2.after
    assert after == ("relu", "pool", "lrn")


def test_layers_are_ordered_by_number() -> None:
    """Catches conv10 taken for a neighbour of conv1."""
    names = ["conv10", "fc11", "conv2", "conv1"]
    assert sorted(names, key=by_number) == ["conv1", "conv2", "conv10", "fc11"]
    config = load("alexnet.py", "conv6")
    config.model.layers.conv10 = config.model.layers.conv6
    assert _convolutions(config)[-2:] == ["conv6", "conv10"]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("one_column,sample", "names the data sample after one_column"),
        ("sample,one_column,one_column", "says one_column twice"),
        ("sample,cifar10", "names the data cifar10 after sample"),
        ("sample,", "unknown variant ''; known"),
        ("sample,no_lighting", "sample is trained without lighting"),
        ("one_column,no_communication", "no_communication is of columns, but there is one"),
        (
            "no_conv3,no_communication",
            "no_communication is about conv3, which this net does not have",
        ),
        ("no_conv5,lrn_conv5", "lrn_conv5 is about conv5, which this net does not have"),
        ("no_conv5,conv6", "conv6 is about conv5, which this net does not have"),
        ("no_lrn,lrn_conv5", "lrn_conv5 is one normalisation more, but no_lrn"),
        ("four_layers,no_conv4", "no_conv4 is about conv4, which this net does not have"),
        ("four_layers,one_column", "one_column takes one of two columns away, but there is one"),
        ("four_layers,no_conv2", "without conv2, conv3 would have to pool twice"),
        ("sample,tanh,four_layers", "names the net four_layers after tanh, which it would undo"),
        ("no_conv2,no_conv3,no_conv4", "without conv4, conv5 would have to pool twice"),
    ],
)
def test_wrong_words(variant: str, message: str) -> None:
    """Catches a net made small after it was ablated, and words that change nothing."""
    with pytest.raises(ValueError, match=message):
        load("alexnet.py", variant)
