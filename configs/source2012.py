"""The network and the recipe of the 2012 program: run #145, the published net.

    python -m alexnet_jax.main --config=configs/source2012.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/source2012.py:sample     # embedded images, minutes

The program is computerhistory/AlexNet-Source-Code. A net is one of its layers/layers-N.cfg, and
the log of its run stands at the end of layers/layer-params-N.cfg. `source2012` lists every field
in which #145 and the paper (configs/alexnet.py) differ; all else is as there.

VARIANT, after the colon, is the data's word, then ablations, separated by commas. Data:

    (none)         ILSVRC-2012. Logged: 40.664 % top-1, 18.210 % top-5 on validation, ten views.
    2010           ILSVRC-2010, run #145-2010, from a folder of class folders (--config.data.dir).
                   Logged on test: 37.473 % and 16.999 %, ten views; 39.025 % and 18.295 %, centre.
    imagenette, sample, fashion_mnist, cifar10   as in configs/alexnet.py.

The ablations are those of configs/variants.py. Those that the authors ran, with the errors that
they logged (top-1 and top-5, ten views, validation of 2012 but for one_column, test of 2010):

    no_lrn            #148, 42.034 % and 19.362 %
    no_overlap        #147, 41.058 % and 18.510 %
    one_column        #145-half, 39.168 % and 18.229 %
    no_communication  #150, 41.828 % and 19.330 %
    lrn_conv5         #149, not logged

Each of those runs had epochs of its own; here all keep #145's.

The nets with a sixth convolution, pretrained on more images, are a chain of runs, each of which
starts from the one before in its default workdir (--config.init_from names another):

    (none)            #145
    pretrain2009      #146-2009, 10k classes of Fall 2009; takes conv1 … conv5
    pretrain2011      #146-2011, 22k classes of Fall 2011; takes conv1 … conv6
    finetune2012      #146-2012-2011, ILSVRC-2012; logged 38.990 % and 16.622 %

The two in the middle read a folder of class folders; on small images (sample,pretrain2009) all
four see the same ones.
"""

import math
from collections.abc import Callable

from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import (
    LRN,
    Conv,
    Dense,
    MaxPool,
    Op,
    ReLU,
    WithinChannelLRN,
)
from configs import alexnet, variants


def get_config(variant: str = "") -> Config:
    """The config of run #145, or that of a variant.

    Raises:
        InputError: words that are not known or do not go together.
    """
    words = variant.split(",")
    if {*words} & {*CHAIN} and (len([w for w in words if w not in DATA]) > 1 or "2010" in words):
        raise InputError(
            f"the variant {variant!r} has no run to start from; {', '.join(CHAIN)} stand alone, or "
            "after the data's word where that is not 2010"
        )
    config = source2012()
    variants.apply(config, variant, DATA, {**variants.ABLATIONS, **CHAIN})
    return config


def source2012() -> Config:
    """Return the paper's config with all that its program does differently."""
    config = alexnet.paper()
    config.optimizer.decay_multipliers = (
        (".*/bias", 0.0),
    )  # layer-params-145.cfg: wc is of weights
    config.data.mean = "center"  # convdata_jpeg.py: data_mean_crop, whatever the crop
    config.data.crop_chunk = 32  # convdata_jpeg.py
    config.data.lighting = "source2012"  # convdata_jpeg.py: pca_stdevs
    config.data.lighting_divisor = 1.1  # convdata_jpeg.py: 1 + the coefficient of the noise
    variants.sequential(config).ops = source2012_ops()
    set_epochs(config, drops=(25, 51, 79), conv1_slow=67, conv1_frozen=72, stop=91)
    return config


def source2012_ops() -> dict[str, Op]:
    """Return the network of layers-145.cfg, in its order of ops."""

    def norm() -> LRN:
        return LRN(alpha_over_size=True)

    return dict(
        conv1=Conv(96, kernel=11, stride=4, padding=(0, 3)),
        norm1=norm(), pool1=MaxPool(), relu1=ReLU(),
        conv2=Conv(256, kernel=5, padding=(2, 2), groups=2, bias=1.0),
        relu2=ReLU(), norm2=norm(), rnorm2=WithinChannelLRN(), pool2=MaxPool(),
        conv3=Conv(384, kernel=3, padding=(1, 1), std=0.03),
        relu3=ReLU(),
        conv4=Conv(384, kernel=3, padding=(1, 1), groups=2, std=0.03, bias=1.0),
        relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1), groups=2, std=0.03, bias=1.0),
        pool5=MaxPool(), relu5=ReLU(),  # the same as ReLU before the maximum
        **{name: op for name, op in alexnet.paper_ops().items() if name[-1] in "678"},
    )  # fmt: skip


def set_epochs(
    config: Config,
    *,
    drops: tuple[int, ...],
    conv1_slow: int,
    conv1_frozen: int,
    stop: int,
    bias_drops: int = 0,
) -> None:
    """What a run's log says, in epochs counted from 1.

    Biases start at twice the rate of the weights. When their rates changed was not logged; the
    files hold the last ones. #145 ends with 0.02, as it must have begun, so here its biases stay
    at that rate. #145-2010 ends with 0.002: here its biases follow the first drop of the weights.
    conv1's stop with its weights, as the 0 in the files says.

    Args:
        config: changed in place.
        drops: the weights' rate is divided by ten.
        conv1_slow: conv1's weights are slowed down to a tenth, and the color noise is off.
        conv1_frozen: conv1 stops.
        stop: the run was killed; epochs before it are done.
        bias_drops: at how many of the drops, from the first, biases follow.
    """
    config.epochs = stop - 1
    config.schedule.drop_epochs = drops
    config.data.lighting_end = conv1_slow
    config.schedule.multipliers = (
        ("conv1/kernel", conv1_slow, 0.1),
        ("conv1/.*", conv1_frozen, 0.0),
        (".*/bias", 1, 2.0),
        *((".*/bias", epoch, 2.0 * 10**n) for n, epoch in enumerate(drops[bias_drops:], start=1)),
    )


def ilsvrc2010(config: Config) -> None:
    """Run #145-2010; the images of 2010 have a labeled test split."""
    config.data.name = "folder"
    config.model.num_classes = 1000
    set_epochs(config, drops=(23, 51, 78), conv1_slow=68, conv1_frozen=72, stop=93, bias_drops=1)


def small(data: variants.Change) -> variants.Change:
    """The same net in small for small images, with the same turns within 16 epochs."""

    def change(config: Config) -> None:
        data(config)
        config.data.lighting = "source2012"  # of grey images, their brightness
        set_epochs(config, drops=(12, 15), conv1_slow=14, conv1_frozen=15, stop=17)

    return change


DATA = {
    "2010": ilsvrc2010,
    "imagenette": alexnet.imagenette,
    **{name: small(alexnet.DATA[name]) for name in ("sample", "fashion_mnist", "cifar10")},
}


def pretrain2009(config: Config) -> None:
    """Run #146-2009. It changed rates in the midst of epoch 2 and was killed in its sixth; here
    they change at the start of epoch 2, and epoch 6 is done."""
    start_from(config, (), "conv1", "conv2", "conv3", "conv4", "conv5")
    variants.conv6(config)
    other_images(config)
    set_stage(config, epochs=6, fast=("conv6", "fc6", "fc7", "fc8"), until=2)


def pretrain2011(config: Config) -> None:
    """Run #146-2011, killed in its eighth epoch, which is done here. Half as many linear units as
    fc7 has, fc8, stand before its classifier, fc9, and keep that small."""
    convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    start_from(config, ("pretrain2009",), *convolutions)
    variants.conv6(config)
    other_images(config)
    ops = variants.sequential(config).ops
    fc7 = ops["fc7"]
    assert isinstance(fc7, Dense)
    ops["fc9"], ops["fc8"] = ops["fc8"], Dense(fc7.features // 2)
    set_stage(config, epochs=8, fast=("fc6", "fc7", "fc8", "fc9"), until=6)


def finetune2012(config: Config) -> None:
    """Run #146-2012-2011. Which layers it took over was not logged: here all but the classifier.
    fc8 was sped up after 300 batches, taken as batches of 128 here. When the rates of the biases
    changed was not logged either: here they stay at 0.02 to the end, as #145's do."""
    convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    start_from(config, ("pretrain2011",), *convolutions, "fc6", "fc7")
    variants.conv6(config)
    turn = proportion(config)
    drops = (turn(22), turn(42))
    config.learning_rate /= 10
    config.epochs = math.ceil(turn(54)) - 1
    config.data.lighting_end = math.ceil(turn(38))
    config.schedule.drop_epochs = drops
    config.schedule.multipliers = (
        ("conv1/kernel", 1, 0.1),
        ("conv1/kernel", turn(5), 0.01),
        ("conv1/.*", turn(7), 0.0),
        ("fc8/kernel", turn(1 + 300 * 128 / 1_281_167), 10.0),
        ("fc8/kernel", turn(9), 1.0),
        *((".*/bias", epoch, 20.0 * 10**n) for n, epoch in enumerate((1, *drops))),
    )


def start_from(config: Config, before: tuple[str, ...], *layers: str) -> None:
    """Take layers from the run of the variant with these words, in its default workdir."""
    data = () if config.data.name == "imagenet2012" else (config.data.name,)
    config.init_from = "/".join(("runs", "-".join(("source2012", *data, *before))))
    config.init_layers = layers


def other_images(config: Config) -> None:
    """Of ImageNet, the releases of 2009 and 2011, which the user prepares as class folders."""
    if config.data.name == "imagenet2012":
        config.data.name = "folder"


def set_stage(config: Config, *, epochs: int, fast: tuple[str, ...], until: int) -> None:
    """Rates of the two runs on more images: 0.001, layers that start anew at 0.01 until an epoch.

    Biases are at 0.02, as the files have it; conv6's, which end with 0.002 there, too.
    """
    turn = proportion(config)
    config.learning_rate /= 10
    config.epochs = math.ceil(turn(epochs + 1)) - 1
    config.data.lighting_end = 0
    config.schedule.drop_epochs = ()
    config.schedule.multipliers = (
        *((f"{name}/kernel", 1, 10.0) for name in fast),
        *((f"{name}/kernel", turn(until), 1.0) for name in fast),
        (".*/bias", 1, 20.0),
    )


def proportion(config: Config) -> Callable[[float], float]:
    """From an epoch of the logs to this config's, whose #145 may have fewer than 90."""
    share = config.epochs / 90
    return lambda epoch: 1 + (epoch - 1) * share


CHAIN = dict(pretrain2009=pretrain2009, pretrain2011=pretrain2011, finetune2012=finetune2012)
