"""Variants: the data a config is for, and the authors' ablations, as words after the colon.

    --config=configs/alexnet.py:sample,no_lrn

Words are separated by commas, the data's first; ablations are applied in the order given. Each
is a function that changes a config in place. A config file has one table of each kind and
leaves the rest to `apply`.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

Change = Callable[[ConfigDict], None]


def apply(
    config: ConfigDict, words: str, data: Mapping[str, Change], ablations: Mapping[str, Change]
) -> None:
    """Apply the words of a variant, `DATA`, `DATA,ABLATION,…` or `ABLATION,…`.

    Raises:
        ValueError: a word that neither table has, one said twice, or data named after an ablation.
    """
    given = words.split(",") if words else []
    for place, word in enumerate(given):
        if word not in {**data, **ablations}:
            raise ValueError(
                f"unknown variant {word!r}; known are the data {', '.join(data)} and, "
                f"after a comma, {', '.join(ablations)}"
            )
        if word in given[:place]:
            raise ValueError(f"the variant {words!r} says {word} twice; expected each word once")
        if word in data and place:
            raise ValueError(
                f"the variant {words!r} names the data {word} after {given[0]}; expected at most "
                "one word for the data, and that first"
            )
        {**data, **ablations}[word](config)


def one_column(config: ConfigDict) -> None:
    """One column, as one accelerator can hold it (section 3.2 of the paper, run #145-half).

    conv1 to conv4 have half of their kernels. conv5 and the layers after it keep their sizes, so
    that fc6, where most of the parameters are, is the same (the paper's second footnote).
    """
    config.model.columns = 1
    convolutions = sorted(name for name in config.model.layers if name.startswith("conv"))
    for name in convolutions[: convolutions.index("conv5")]:
        config.model.layers[name].features //= 2


def no_communication(config: ConfigDict) -> None:
    """Columns that never hear of each other before the last layer (run #150).

    conv2 has a quarter more kernels (2 × 160) and fc6 twice the units (2 × 4096), which makes up
    for the parameters that are lost where layers see one column.
    """
    layers = config.model.layers
    layers.conv2.features = layers.conv2.features * 5 // 4
    layers.fc6.features *= 2
    for name in ("conv3", "fc6", "fc7"):
        layers[name].sees = "own"
