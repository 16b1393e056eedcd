"""Variants: the data a config is for, and the authors' ablations, as words after the colon.

    --config=configs/alexnet.py:sample,no_lrn

Words are separated by commas, the data's first; ablations are applied in the order given. Each
is a function that changes a config in place, and says which run of the 2012 program it follows
(#N is layers/layers-N.cfg there). Rates and epochs stay those of the config.

    no_lrn            no response normalisation.
    lrn_conv5         response normalisation after conv5 too.
    no_overlap        pooling windows that do not overlap.
    one_column        one column with half of the kernels in conv1 … conv4.
    no_communication  columns that do not see each other.
    conv6             a sixth convolution, as in the nets trained on more images.
    no_conv2 … no_conv5  one convolution less.
    tanh              tanh in place of ReLU.
    no_dropout, no_lighting, no_crops  the paper's means against overfitting, one less.

One word is another net, and stands before those that change it (sample,four_layers,tanh):

    four_layers       three convolutions and a classifier, for figure 1.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from alexnet_jax.models.order import by_number

Change = Callable[[ConfigDict], None]


def apply(
    config: ConfigDict, words: str, data: Mapping[str, Change], ablations: Mapping[str, Change]
) -> None:
    """Apply the words of a variant, `DATA`, `DATA,ABLATION,…` or `ABLATION,…`.

    Raises:
        ValueError: a word that neither table has, one said twice, data named after an ablation,
            or a net after a change of another.
    """
    given = words.split(",") if words else []
    for place, word in enumerate(given):
        if word not in {**data, **ablations}:
            raise ValueError(
                f"unknown variant {word!r}; known: {', '.join(data)} (the data) and, also after "
                f"a comma, {', '.join(ablations)}"
            )
        if word in given[:place]:
            raise ValueError(f"the variant {words!r} says {word} twice; expected each word once")
        if word in data and place:
            raise ValueError(
                f"the variant {words!r} names the data {word} after {given[0]}; expected at most "
                "one word for the data, and that first"
            )
        if word == "four_layers" and (earlier := [w for w in given[:place] if w not in data]):
            raise ValueError(
                f"the variant {words!r} names the net {word} after {earlier[-1]}, which it would "
                f"undo; expected {word} before it"
            )
        {**data, **ablations}[word](config)


def four_layers(config: ConfigDict) -> None:
    """Another net, of one column: conv1, conv2, conv3 and the classifier, fc4 (figure 1).

    The paper says of it no more than "a four-layer convolutional network". Here its sizes are
    those of a net for CIFAR-10 that the authors published with their program cuda-convnet
    (example-layers/layers-18pct.cfg): 32, 32 and 64 kernels of 5 × 5, pooling after each of them,
    then normalisation after the first two, no hidden fully-connected layer, and no dropout. That
    net takes averages in its second and third pooling, where this takes maxima; pooling windows
    and normalisation are the config's.
    """
    layers, last = config.model.layers, max(config.model.layers, key=by_number)
    config.model.columns = 1
    layers.fc4 = layers[last]
    for name in {*layers} - {"conv1", "conv2", "conv3", "fc4"}:
        del layers[name]
    layers.fc4.std = 0.01
    lrn = ("lrn",)
    for name, features, std, norm in (
        ("conv1", 32, 0.0001, lrn),
        ("conv2", 32, 0.01, lrn),
        ("conv3", 64, 0.01, ()),
    ):
        layers[name].update(
            features=features,
            kernel=5,
            stride=1,
            padding=(2, 2),
            sees="own",
            std=std,
            bias=0.0,
            after=("relu", "pool", *norm),
        )


def no_lrn(config: ConfigDict) -> None:
    """No response normalisation (section 3.3); nor any within a map, as in run #148."""
    _drop_steps(config, "lrn", "map_norm")


def lrn_conv5(config: ConfigDict) -> None:
    """Response normalisation in layer 5 too, before its pooling (run #149)."""
    layers = config.model.layers
    _need(config, "lrn_conv5", "conv5")
    if not any("lrn" in layer.after for layer in layers.values()):
        raise ValueError("lrn_conv5 is one normalisation more, but no_lrn has taken all away")
    after = list(layers.conv5.after)
    after.insert(after.index("pool"), "lrn")
    config.model.layers.conv5.after = tuple(after)


def no_overlap(config: ConfigDict) -> None:
    """Pooling by windows of 2 × 2, two pixels apart (section 3.4, run #147).

    Layers after the first are padded less where their pooled maps would be larger than before: in
    the paper's net conv2 by 1 and conv5 not at all, which is what #147 does. The maps are
    55, 28 | 26, 13 | 13 | 13 | 11, 6 pixels wide, and the parameters as many.
    """
    layers, sizes = config.model.layers, _sizes(config)
    config.model.pool.update(window=2, stride=2)
    for name in list(sizes)[1:]:
        while "pool" in layers[name].after and _sizes(config)[name] > sizes[name]:
            layers[name].padding = tuple(pixels - 1 for pixels in layers[name].padding)


def one_column(config: ConfigDict) -> None:
    """One column, as one accelerator can hold it (section 3.2 of the paper, run #145-half).

    conv1 to conv4 have half of their kernels. conv5 and the layers after it keep their sizes, so
    that fc6, where most of the parameters are, is the same (the paper's second footnote).
    """
    if config.model.columns == 1:
        raise ValueError("one_column takes one of two columns away, but there is one only")
    config.model.columns = 1
    for name in {"conv1", "conv2", "conv3", "conv4"} & {*config.model.layers}:
        config.model.layers[name].features //= 2


def no_communication(config: ConfigDict) -> None:
    """Columns that never hear of each other before the last layer (run #150).

    conv2 has a quarter more kernels (2 × 160) and fc6 twice the units (2 × 4096), which makes up
    for the parameters that are lost where layers see one column.
    """
    layers = config.model.layers
    if config.model.columns == 1:
        raise ValueError("no_communication is of columns, but there is one only")
    _need(config, "no_communication", "conv2", "conv3")
    layers.conv2.features = layers.conv2.features * 5 // 4
    layers.fc6.features *= 2
    for name in ("conv3", "fc6", "fc7"):
        layers[name].sees = "own"


def conv6(config: ConfigDict) -> None:
    """A sixth convolution after the last pooling, which sees both columns (section 6.1, run #146).

    Kernels, bias and spread are those of conv5.
    """
    layers = config.model.layers
    _need(config, "conv6", "conv5")
    layers.conv6 = ConfigDict(layers.conv5.to_dict())
    layers.conv6.update(padding=(1, 1), sees="both", after=("relu",))


def no_conv(name: str) -> Change:
    """Without one of conv2 … conv5 (section 7: "removing any of the middle layers").

    The paper does not say how the rest closed up. Here the maps keep their sizes and the columns
    still meet: the next convolution takes over pooling and the sight of both columns; where there
    is none, after conv5, the one before takes over the pooling, and fc6 sees its 384 maps in place
    of 256 (79,396,968 parameters). A normalisation goes with its layer.
    """

    def change(config: ConfigDict) -> None:
        _need(config, f"no_{name}", name)
        layers, order = config.model.layers, _convolutions(config)
        place = order.index(name)
        heir = (order[place + 1 :] or order[place - 1 :])[0]
        gone = layers[name]
        if "pool" in gone.after:
            if "pool" in layers[heir].after:
                raise ValueError(f"without {name}, {heir} would have to pool twice")
            layers[heir].after = tuple(s for s in gone.after if s not in ("lrn", "map_norm"))
        if gone.sees == "both" and order.index(heir) > place:
            layers[heir].sees = "both"
        del layers[name]

    return change


def tanh(config: ConfigDict) -> None:
    """Units that saturate (section 3.1)."""
    for layer in config.model.layers.values():
        layer.after = tuple("tanh" if step == "relu" else step for step in layer.after)


def no_dropout(config: ConfigDict) -> None:
    """All units, always (section 4.2)."""
    _drop_steps(config, "dropout")


def no_lighting(config: ConfigDict) -> None:
    """The colours as they are (section 4.1).

    Raises:
        ValueError: a config without lighting, which this would not change.
    """
    if config.data.lighting == "none":
        raise ValueError(
            f"{config.data.name} is trained without lighting; no_lighting is no variant"
        )
    config.data.lighting = "none"


def no_crops(config: ConfigDict) -> None:
    """The centre of every image, never mirrored: no augmentation of section 4.1's first form."""
    config.data.random_crop = False
    config.data.flip = False


def _need(config: ConfigDict, word: str, *names: str) -> None:
    for name in names:
        if name not in config.model.layers:
            raise ValueError(f"{word} is about {name}, which this net does not have")


def _drop_steps(config: ConfigDict, *steps: str) -> None:
    for layer in config.model.layers.values():
        layer.after = tuple(step for step in layer.after if step not in steps)


def _convolutions(config: ConfigDict) -> list[str]:
    layers = config.model.layers
    return sorted((name for name, layer in layers.items() if "kernel" in layer), key=by_number)


def _sizes(config: ConfigDict) -> dict[str, int]:
    """Pixels a side of each convolution's maps, pooled where they are."""
    size, pool, sizes = config.data.crop, config.model.pool, {}
    for name in _convolutions(config):
        layer = config.model.layers[name]
        size = (size + sum(layer.padding) - layer.kernel) // layer.stride + 1
        if "pool" in layer.after:
            size = 1 - (pool.window - size) // pool.stride  # rounded up
        sizes[name] = size
    return sizes


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
