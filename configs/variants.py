"""Variants: the data a config is for, and the authors' ablations, as words after the colon.

    --config=configs/alexnet.py:sample,no_lrn

Words are separated by commas, the data's first; ablations are applied in the order given. Each
is a function that changes a config in place, and says which run of the 2012 program it follows
(#N is layers/layers-N.cfg there). Rates and epochs stay those of the config.

    no_lrn            no response normalization.
    lrn_conv5         response normalization after conv5 too.
    no_overlap        pooling windows that do not overlap.
    one_column        one column with half of the kernels in conv1 … conv4.
    no_communication  columns that do not see each other.
    conv6             a sixth convolution, as in the networks trained on more images.
    no_conv2 … no_conv5  one convolution less.
    tanh              tanh in place of ReLU.
    no_dropout, no_lighting, no_crops  one of the paper's means against overfitting less.

One word is another network, and stands before those that change it (sample,four_layers,tanh):

    four_layers       three convolutions and a classifier, for figure 1.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import (
    LRN,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Op,
    ReLU,
    SequentialConfig,
    Tanh,
    WithinChannelLRN,
    blocks,
    free_name,
    spatial_sizes,
)

Change = Callable[[Config], None]


def apply(
    config: Config, words: str, data: Mapping[str, Change], ablations: Mapping[str, Change]
) -> None:
    """Apply the words of a variant, `DATA`, `DATA,ABLATION,…` or `ABLATION,…`.

    Raises:
        InputError: a word that neither table has, one said twice, data named after an ablation,
            or a network after a change of another.
    """
    given = words.split(",") if words else []
    for place, word in enumerate(given):
        if word not in {**data, **ablations}:
            raise InputError(
                f"unknown variant {word!r}; known: {', '.join(data)} (the data) and, also after "
                f"a comma, {', '.join(ablations)}"
            )
        if word in given[:place]:
            raise InputError(f"the variant {words!r} says {word} twice; expected each word once")
        if word in data and place:
            raise InputError(
                f"the variant {words!r} names the data {word} after {given[0]}; expected at most "
                "one word for the data, and that first"
            )
        if word == "four_layers" and (earlier := [w for w in given[:place] if w not in data]):
            raise InputError(
                f"the variant {words!r} names the network {word} after {earlier[-1]}, which it "
                f"would undo; expected {word} before it"
            )
        {**data, **ablations}[word](config)


def sequential(config: Config) -> SequentialConfig:
    """Return the config's model, which must be a chain of ops."""
    if not isinstance(config.model, SequentialConfig):
        raise InputError(f"expected a chain of ops, not {type(config.model).__name__}")
    return config.model


def joined(layers: Mapping[str, Mapping[str, Op]]) -> dict[str, Op]:
    """Return the ops of `blocks` in one mapping."""
    ops: dict[str, Op] = {}
    for block in layers.values():
        assert not ops.keys() & block.keys()
        ops.update(block)
    return ops


def four_layers(config: Config) -> None:
    """Another network, of one column: conv1, conv2, conv3 and the classifier, fc4 (figure 1).

    The paper says of it no more than "a four-layer convolutional network". Here its sizes are
    those of a network for CIFAR-10 that the authors published with their program cuda-convnet
    (example-layers/layers-18pct.cfg): 32, 32 and 64 kernels of 5 × 5, pooling after each of them,
    then normalization after the first two, no hidden fully-connected layer, and no dropout. That
    network averages in its second and third pooling, where this takes maxima; pooling windows
    and normalization are the config's.
    """
    model = sequential(config)
    norm = next(op for op in model.ops.values() if isinstance(op, LRN))
    pool = next(op for op in model.ops.values() if isinstance(op, MaxPool))
    ops: dict[str, Op] = {}
    for number, features, std in ((1, 32, 0.0001), (2, 32, 0.01), (3, 64, 0.01)):
        ops[f"conv{number}"] = Conv(features, kernel=5, padding=(2, 2), std=std)
        ops[f"relu{number}"] = ReLU()
        ops[f"pool{number}"] = dataclasses.replace(pool)
        if number < 3:
            ops[f"norm{number}"] = dataclasses.replace(norm)
    model.num_columns = 1
    model.ops = {**ops, "fc4": Dense(0)}


def no_lrn(config: Config) -> None:
    """No response normalization (section 3.3); nor any within a channel, as in run #148."""
    _remove(config, LRN, WithinChannelLRN)


def lrn_conv5(config: Config) -> None:
    """Response normalization in layer 5 too, before its pooling (run #149)."""
    model = sequential(config)
    _need(config, "lrn_conv5", "conv5")
    norms = [op for op in model.ops.values() if isinstance(op, LRN)]
    if not norms:
        raise InputError("lrn_conv5 is one normalization more, but no_lrn has taken all away")
    layers = blocks(model.ops)
    before: dict[str, Op] = {}
    for name, op in layers["conv5"].items():
        if isinstance(op, MaxPool):
            before["norm5"] = dataclasses.replace(norms[0])
        before[name] = op
    layers["conv5"] = before
    model.ops = joined(layers)


def no_overlap(config: Config) -> None:
    """Pooling by windows of 2 × 2, two pixels apart (section 3.4, run #147).

    Layers after the first are padded less where their pooled maps would be larger than before: in
    the paper's network conv2 by 1 and conv5 not at all, which is what #147 does. The maps are
    55, 28 | 26, 13 | 13 | 13 | 11, 6 pixels wide, and the parameters as many.
    """
    ops, crop = sequential(config).ops, config.data.crop
    sizes = spatial_sizes(ops, crop)
    for op in ops.values():
        if isinstance(op, MaxPool):
            op.window = op.stride = 2
    for layer in list(blocks(ops).values())[1:]:
        for name, op in layer.items():
            conv = next(iter(layer.values()))
            if isinstance(op, MaxPool) and isinstance(conv, Conv):
                while spatial_sizes(ops, crop)[name] > sizes[name]:
                    conv.padding = (conv.padding[0] - 1, conv.padding[1] - 1)


def one_column(config: Config) -> None:
    """One column, as one accelerator can hold it (section 3.2 of the paper, run #145-half).

    conv1 to conv4 have half of their kernels. conv5 and the layers after it keep their sizes, so
    that fc6, where most of the parameters are, is the same (the paper's second footnote).
    """
    model = sequential(config)
    if model.num_columns == 1:
        raise InputError("one_column takes one of two columns away, but there is one only")
    model.num_columns = 1
    for name, op in _layers(config):
        op.groups = 1
        if name in ("conv1", "conv2", "conv3", "conv4"):
            op.features //= 2


def no_communication(config: Config) -> None:
    """Columns that never communicate before the last layer (run #150).

    conv2 has a quarter more kernels (2 × 160) and fc6 twice the units (2 × 4096), which makes up
    for the parameters that are lost where layers see one column.
    """
    model = sequential(config)
    if model.num_columns == 1:
        raise InputError("no_communication is of columns, but there is one only")
    _need(config, "no_communication", "conv2", "conv3")
    for name, op in _layers(config):
        if name in ("conv3", "fc6", "fc7"):
            op.groups = model.num_columns
        if name == "conv2":
            op.features = op.features * 5 // 4
        if name == "fc6":
            op.features *= 2


def conv6(config: Config) -> None:
    """A sixth convolution after the last pooling, which sees both columns (section 6.1, run #146).

    Kernels, bias and spread are those of conv5.
    """
    model = sequential(config)
    _need(config, "conv6", "conv5")
    conv5 = model.ops["conv5"]
    assert isinstance(conv5, Conv)
    layers: dict[str, dict[str, Op]] = {}
    for name, block in blocks(model.ops).items():
        layers[name] = block
        if name == "conv5":
            sixth = dataclasses.replace(conv5, padding=(1, 1), groups=1)
            layers["conv6"] = {"conv6": sixth, free_name(ReLU(), "conv6", model.ops): ReLU()}
    model.ops = joined(layers)


def no_conv(name: str) -> Change:
    """Without one of conv2 … conv5 (section 7: "removing any of the middle layers").

    The paper does not say how the rest closed up. Here the maps keep their sizes and the columns
    still meet: the next convolution takes over pooling and the sight of both columns; where there
    is none, after conv5, the one before takes over the pooling, and fc6 sees its 384 maps in place
    of 256 (79,396,968 parameters). A normalization goes with its layer.
    """

    def change(config: Config) -> None:
        model = sequential(config)
        _need(config, f"no_{name}", name)
        layers = blocks(model.ops)
        order = [layer for layer, block in layers.items() if isinstance(block[layer], Conv)]
        place = order.index(name)
        heir = (order[place + 1 :] or order[place - 1 :])[0]
        gone, after = layers.pop(name), layers[heir]
        old, new = gone.pop(name), after[heir]
        assert isinstance(old, Conv)
        assert isinstance(new, Conv)
        if any(isinstance(op, MaxPool) for op in gone.values()):
            if any(isinstance(op, MaxPool) for op in after.values()):
                raise InputError(f"without {name}, {heir} would have to pool twice")
            taken = joined({n: block for n, block in layers.items() if n != heir})
            layers[heir] = {heir: new}
            for op in gone.values():
                if not isinstance(op, LRN | WithinChannelLRN):
                    layers[heir][free_name(op, heir, taken)] = op
        if old.groups == 1 and order.index(heir) > place:
            new.groups = 1
        model.ops = joined(layers)

    return change


def tanh(config: Config) -> None:
    """Units that saturate (section 3.1)."""
    model = sequential(config)
    ops: dict[str, Op] = {}
    for name, op in model.ops.items():
        if isinstance(op, ReLU):
            ops[name.replace(ReLU.prefix, Tanh.prefix)] = Tanh()
        else:
            ops[name] = op
    model.ops = ops


def no_dropout(config: Config) -> None:
    """All units, always (section 4.2)."""
    _remove(config, Dropout)


def no_lighting(config: Config) -> None:
    """The colors as they are (section 4.1).

    Raises:
        InputError: a config without lighting, which this would not change.
    """
    if config.data.lighting == "none":
        raise InputError(
            f"{config.data.name} is trained without lighting; no_lighting is no variant"
        )
    config.data.lighting = "none"


def no_crops(config: Config) -> None:
    """The center of every image, never mirrored: no augmentation of section 4.1's first form."""
    config.data.random_crop = False
    config.data.flip = False


def _need(config: Config, word: str, *names: str) -> None:
    for name in names:
        if name not in sequential(config).ops:
            raise InputError(f"{word} is about {name}, which this network does not have")


def _remove(config: Config, *kinds: type[Op]) -> None:
    model = sequential(config)
    model.ops = {name: op for name, op in model.ops.items() if not isinstance(op, kinds)}


def _layers(config: Config) -> Iterator[tuple[str, Conv | Dense]]:
    """Yield the ops that have parameters."""
    for name, op in sequential(config).ops.items():
        if isinstance(op, Conv | Dense):
            yield name, op


ABLATIONS: dict[str, Change] = dict(
    no_lrn=no_lrn,
    lrn_conv5=lrn_conv5,
    no_overlap=no_overlap,
    one_column=one_column,
    no_communication=no_communication,
    conv6=conv6,
    **{f"no_{name}": no_conv(name) for name in ("conv2", "conv3", "conv4", "conv5")},
    tanh=tanh,
    no_dropout=no_dropout,
    no_lighting=no_lighting,
    no_crops=no_crops,
    four_layers=four_layers,
)
