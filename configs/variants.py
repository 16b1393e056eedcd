"""Variants of a config: words after the colon that choose the data and ablations.

    --config=configs/alexnet.py:sample,no_lrn

Words are separated by commas. The words of the network, where a config has several, and of the
data come first; ablations are applied in the order given. Each ablation is a function that changes
a config in place; its docstring names the section of the paper or the run of the 2012 program that
it follows (#N is layers/layers-N.cfg of that program). Learning rates and epochs remain those of
the config.

    no_lrn            Remove local response normalization.
    lrn_conv5         Add response normalization after conv5.
    no_overlap        Use pooling windows that do not overlap.
    one_column        Use one column, with half of the kernels in conv1 … conv4.
    no_communication  Let each column take only its own channels before the last layer.
    conv6             Add a sixth convolution, as in the models trained on more images.
    no_conv2 … no_conv5  Remove a convolution.
    no_fc6, no_fc7    Remove a fully-connected layer (table 3 of Zeiler and Fergus 2013).
    tanh              Use tanh in place of ReLU.
    no_dropout, no_lighting, no_crops  Remove one of the paper's measures against overfitting.

One word replaces the model, and comes before the words that change it (sample,four_layers,tanh):

    four_layers       Use three convolutions and a classifier, for figure 1.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import (
    LRN,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Op,
    ReLU,
    Tanh,
    WithinChannelLRN,
    blocks,
    free_name,
    join_blocks,
    parameter_ops,
    spatial_sizes,
)

Change = Callable[[Config], None]


def apply_variant(
    config: Config,
    variant: str,
    data: Mapping[str, Change],
    ablations: Mapping[str, Change],
    networks: Mapping[str, Change] = MappingProxyType({}),
) -> None:
    """Apply the words of a variant to a config: of the network, of the data, then ablations.

    Args:
        config: the config to change in place.
        variant: the words, separated by commas, with those of the network and the data first, in
            any order; "" changes nothing.
        data: functions by the words for the data.
        ablations: functions by the words for ablations.
        networks: functions by the words for the network.

    Raises:
        InputError: a word is unknown or occurs twice, there are several words of the network or of
            the data, one of them comes after an ablation, or an ablation replaces the model after
            another one has changed it.
    """
    words = variant.split(",") if variant else []
    known = {**networks, **data, **ablations}
    for index, word in enumerate(words):
        if word not in known:
            listed = f"{', '.join(networks)} (the network), " if networks else ""
            close = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {close[0]}? Known" if close else "known"
            raise InputError(
                f"unknown variant {word!r}; {hint}: {listed}{', '.join(data)} (the data) and, also "
                f"after a comma, {', '.join(ablations)}"
            )
        if word in words[:index]:
            raise InputError(f"the variant {variant!r} has {word} twice; expected each word once")
        for kind, named in (("data", data), ("network", networks)):
            before = [w for w in words[:index] if w in named or w in ablations]
            if word in named and before:
                raise InputError(
                    f"the variant {variant!r} names the {kind} {word} after {before[0]}; expected "
                    f"at most one word for the {kind}, and that first"
                )
        if word == "four_layers" and (earlier := [w for w in words[:index] if w not in data]):
            raise InputError(
                f"the variant {variant!r} names the model {word} after {earlier[-1]}, which it "
                f"would undo; expected {word} before it"
            )
    for word in sorted(words, key=lambda word: word not in networks):
        known[word](config)


def data_words(make_small: Change) -> dict[str, Change]:
    """Return the words of the data sets that several configs offer.

    Args:
        make_small: change to gray images of 28 pixels and a model for them.
    """

    def imagenette(config: Config) -> None:
        """Use imagenette, ten classes of ImageNet."""
        config.data.name = "imagenette"

    def sample(config: Config) -> None:
        """Use the embedded images and a model for small images."""
        make_small(config)
        config.data.name = "sample"

    def fashion_mnist(config: Config) -> None:
        """Use the complete data set of the embedded images and a model for small images."""
        make_small(config)
        config.data.name = "fashion_mnist"

    def cifar10(config: Config) -> None:
        """Use CIFAR-10 and a model for small images in color, with the config's lighting."""
        lighting = config.data.lighting
        make_small(config)
        config.data.name = "cifar10"
        config.data.image_size = 32
        config.data.lighting = lighting
        config.model.channels = 3

    return dict(imagenette=imagenette, sample=sample, fashion_mnist=fashion_mnist, cifar10=cifar10)


def four_layers(config: Config) -> None:
    """Replace the model by one of a single column: conv1, conv2, conv3 and fc4 (figure 1).

    The paper only calls it "a four-layer convolutional network". The sizes are those of a model
    for CIFAR-10 that the authors published with their program cuda-convnet
    (example-layers/layers-18pct.cfg): 32, 32 and 64 kernels of 5 × 5, pooling after each of them,
    then normalization after the first two, no hidden fully-connected layer, and no dropout.
    Pooling windows and normalization are those of the config. Unlike here, the second and third
    pooling of that model compute averages.
    """
    model = sequential_model(config)
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
    """Remove response normalization (section 3.3), also within channels, as run #148 does.

    Raises:
        InputError: the model has none.
    """
    ops = sequential_model(config).ops.values()
    if not any(isinstance(op, LRN | WithinChannelLRN) for op in ops):
        raise InputError("no_lrn removes response normalization, but the model has none")
    _remove(config, LRN, WithinChannelLRN)


def lrn_conv5(config: Config) -> None:
    """Add response normalization to layer 5, before its pooling (run #149).

    Raises:
        InputError: the model has no conv5, or no_lrn has removed the normalization to copy.
    """
    model = sequential_model(config)
    _require_ops(config, "lrn_conv5", "conv5")
    norms = [op for op in model.ops.values() if isinstance(op, LRN)]
    if not norms:
        raise InputError("lrn_conv5 adds a normalization, but no_lrn has removed all of them")
    layers = blocks(model.ops)
    conv5: dict[str, Op] = {}
    for name, op in layers["conv5"].items():
        if isinstance(op, MaxPool):
            conv5["norm5"] = dataclasses.replace(norms[0])
        conv5[name] = op
    layers["conv5"] = conv5
    model.ops = join_blocks(layers)


def no_overlap(config: Config) -> None:
    """Use pooling windows of 2 × 2 pixels with stride 2 (section 3.4, run #147).

    The padding of layers after the first is reduced where their pooled activations would be
    larger than with overlapping windows. For the paper's model this gives conv2 a padding of 1
    and conv5 none, as in run #147. The widths of the activations before and after pooling are
    55, 28 | 26, 13 | 13 | 13 | 11, 6, and the number of parameters is unchanged.
    """
    ops, crop = sequential_model(config).ops, config.data.crop
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
    """Use one column, which fits on one accelerator (section 3.2, run #145-half).

    conv1 to conv4 have half of their kernels. conv5 and the layers after it keep their sizes, so
    that fc6, which has most of the parameters, is unchanged (the paper's second footnote).

    Raises:
        InputError: the model has one column already.
    """
    model = sequential_model(config)
    if model.num_columns == 1:
        raise InputError("one_column removes a column, but the model has only one")
    model.num_columns = 1
    for name, op in parameter_ops(model.ops):
        op.groups = 1
        if name in ("conv1", "conv2", "conv3", "conv4"):
            op.features //= 2


def no_communication(config: Config) -> None:
    """Let each column take only its own channels before the last layer (run #150).

    conv2 has a quarter more kernels (2 × 160) and fc6 twice the units (2 × 4096), to compensate
    for the parameters of the removed connections.

    Raises:
        InputError: the model has one column or separate ones, or no conv2 or conv3.
    """
    model = sequential_model(config)
    if model.num_columns == 1:
        raise InputError("no_communication separates columns, but the model has only one")
    if not model.has_communication():
        raise InputError("no_communication separates columns, but the model's are already separate")
    _require_ops(config, "no_communication", "conv2", "conv3")
    for name, op in parameter_ops(model.ops):
        if name in ("conv3", "conv6", "fc6", "fc7"):
            op.groups = model.num_columns
        if name == "conv2":
            op.features = op.features * 5 // 4
        if name == "fc6":
            op.features *= 2


def conv6(config: Config) -> None:
    """Add a sixth convolution after the last pooling, whose input is all columns (run #146).

    It has the number and size of kernels and the initial values of conv5. Section 6.1 describes
    it. If the columns do not communicate, neither do those of conv6.

    Raises:
        InputError: the model has no conv5.
    """
    model = sequential_model(config)
    _require_ops(config, "conv6", "conv5")
    conv5 = model.ops["conv5"]
    assert isinstance(conv5, Conv)
    groups = 1 if model.has_communication() else model.num_columns
    layers: dict[str, dict[str, Op]] = {}
    for name, block in blocks(model.ops).items():
        layers[name] = block
        if name == "conv5":
            sixth = dataclasses.replace(conv5, padding=(1, 1), groups=groups)
            layers["conv6"] = {"conv6": sixth, free_name(ReLU(), "conv6", model.ops): ReLU()}
    model.ops = join_blocks(layers)


def no_conv(name: str) -> Change:
    """Return the change that removes one of conv2 … conv5.

    Section 7 reports on "removing any of the middle layers", but not how the other layers were
    connected. Here the next convolution inherits the pooling of the removed one and, where that
    took both columns as input, does so too. After conv5 there is no convolution: conv4 inherits
    the pooling, and fc6 has 384 input channels in place of 256 (79,396,968 parameters). The
    response normalization of the removed layer is removed. Activations keep their sizes.
    """

    def change(config: Config) -> None:
        model = sequential_model(config)
        _require_ops(config, f"no_{name}", name)
        layers = blocks(model.ops)
        convs = [layer for layer, block in layers.items() if isinstance(block[layer], Conv)]
        index = convs.index(name)
        neighbor = (convs[index + 1 :] or convs[index - 1 :])[0]
        removed_ops, neighbor_ops = layers.pop(name), layers[neighbor]
        removed_conv, neighbor_conv = removed_ops.pop(name), neighbor_ops[neighbor]
        assert isinstance(removed_conv, Conv)
        assert isinstance(neighbor_conv, Conv)
        if any(isinstance(op, MaxPool) for op in removed_ops.values()):
            if any(isinstance(op, MaxPool) for op in neighbor_ops.values()):
                raise InputError(f"without {name}, {neighbor} would have to pool twice")
            taken = join_blocks({n: block for n, block in layers.items() if n != neighbor})
            layers[neighbor] = {neighbor: neighbor_conv}
            for op in removed_ops.values():
                if not isinstance(op, LRN | WithinChannelLRN):
                    layers[neighbor][free_name(op, neighbor, taken)] = op
        if removed_conv.groups == 1 and convs.index(neighbor) > index:
            neighbor_conv.groups = 1
        model.ops = join_blocks(layers)

    return change


def no_dense(name: str) -> Change:
    """Return the change that removes fc6 or fc7, with its activation and dropout.

    Table 3 of Zeiler and Fergus (2013) has the errors without one and without both. The next layer
    takes the input of the removed one.
    """

    def change(config: Config) -> None:
        _require_ops(config, f"no_{name}", name)
        model = sequential_model(config)
        layers = blocks(model.ops)
        del layers[name]
        model.ops = join_blocks(layers)

    return change


def tanh(config: Config) -> None:
    """Use tanh in place of ReLU (section 3.1)."""
    model = sequential_model(config)
    ops: dict[str, Op] = {}
    for name, op in model.ops.items():
        if isinstance(op, ReLU):
            ops[name.replace(ReLU.prefix, Tanh.prefix)] = Tanh()
        else:
            ops[name] = op
    model.ops = ops


def no_dropout(config: Config) -> None:
    """Remove dropout (section 4.2)."""
    _remove(config, Dropout)


def no_lighting(config: Config) -> None:
    """Turn off the color noise (section 4.1).

    Raises:
        InputError: it is off already.
    """
    if config.data.lighting == "none":
        raise InputError(
            f"{config.data.name} is trained without lighting, so no_lighting would change nothing"
        )
    config.data.lighting = "none"


def no_crops(config: Config) -> None:
    """Use the center of every image, never mirrored: turn off crops and flips (section 4.1)."""
    config.data.crop_positions = "center"
    config.data.flip = False


def _require_ops(config: Config, word: str, *names: str) -> None:
    """Raise InputError for an ablation of an op that the model does not have."""
    for name in names:
        if name not in sequential_model(config).ops:
            raise InputError(f"{word} changes {name}, which this model does not have")


def _remove(config: Config, *kinds: type[Op]) -> None:
    """Remove all ops of some kinds."""
    model = sequential_model(config)
    model.ops = {name: op for name, op in model.ops.items() if not isinstance(op, kinds)}


ABLATIONS: dict[str, Change] = dict(
    no_lrn=no_lrn,
    lrn_conv5=lrn_conv5,
    no_overlap=no_overlap,
    one_column=one_column,
    no_communication=no_communication,
    conv6=conv6,
    **{f"no_{name}": no_conv(name) for name in ("conv2", "conv3", "conv4", "conv5")},
    **{f"no_{name}": no_dense(name) for name in ("fc6", "fc7")},
    tanh=tanh,
    no_dropout=no_dropout,
    no_lighting=no_lighting,
    no_crops=no_crops,
    four_layers=four_layers,
)
