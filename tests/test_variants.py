"""Ablations: the parameters that the authors' runs had, and how words combine."""

import pytest
from test_configs import load

from alexnet_jax import describe

# Of the 2012 program's run logs, where it prints them, or by hand from the layers' table.
PARAMETERS = [
    ("alexnet.py", "", 60_965_224),
    ("alexnet.py", "one_column", 59_798_312),
    ("alexnet.py", "no_communication", 60_714_408),
]


@pytest.mark.parametrize(("file", "variant", "parameters"), PARAMETERS)
def test_parameters(file: str, variant: str, parameters: int) -> None:
    """Catches a layer of another size, and one that sees other columns than it should."""
    config = describe.with_classes(load(file, variant))
    assert sum(row.parameters for row in describe.layers(config)) == parameters


def test_words_combine() -> None:
    """Catches an ablation that is lost beside another word, or undone by the data's."""
    config = load("alexnet.py", "sample,one_column")
    assert config.data.name == "sample"
    assert config.model.columns == 1
    assert [layer.features for layer in config.model.layers.values()][:5] == [16, 32, 48, 48, 64]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("one_column,sample", "names the data sample after one_column"),
        ("sample,one_column,one_column", "says one_column twice"),
        ("sample,cifar10", "names the data cifar10 after sample"),
        ("sample,", "unknown variant ''; known"),
    ],
)
def test_wrong_words(variant: str, message: str) -> None:
    """Catches a net made small after it was ablated, and words that are ignored."""
    with pytest.raises(ValueError, match=message):
        load("alexnet.py", variant)
