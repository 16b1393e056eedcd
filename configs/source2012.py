"""The model and the recipe of the authors' 2012 program: run #145, the published model.

    python -m alexnet_jax.main --config=configs/source2012.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/source2012.py:sample     # embedded images, minutes

The program is computerhistory/AlexNet-Source-Code. Its layers/layers-N.cfg defines the model of
run #N, and the log of the run is at the end of layers/layer-params-N.cfg. The function
`source2012` sets every field in which #145 differs from the paper (configs/alexnet.py).

The variant, after the colon, is a word for the data, then ablations, separated by commas. Data:

    (none)         ILSVRC-2012. Logged: 40.664 % top-1, 18.210 % top-5 on validation, ten views.
    2010           ILSVRC-2010, run #145-2010, from a folder of class folders (--config.data.dir).
                   Logged on test: 37.473 % and 16.999 %, ten views; 39.025 % and 18.295 %, center.
    imagenette, sample, fashion_mnist, cifar10   See configs/alexnet.py.

The ablations are those of configs/variants.py. The authors ran five of them and logged these
errors (top-1 and top-5, ten views, on validation of 2012; one_column on test of 2010):

    no_lrn            #148, 42.034 % and 19.362 %
    no_overlap        #147, 41.058 % and 18.510 %
    one_column        #145-half, 39.168 % and 18.229 %
    no_communication  #150, 41.828 % and 19.330 %
    lrn_conv5         #149, not logged

Their learning rates dropped at other epochs than those of #145, which all variants use here.

The models with a sixth convolution, pretrained on more images, result from a sequence of runs.
Each run starts from the workdir of the previous one; --config.init_from names another workdir.

    (none)            #145
    pretrain2009      #146-2009, 10k classes of Fall 2009; takes conv1 … conv5
    pretrain2011      #146-2011, 22k classes of Fall 2011; takes conv1 … conv6
    finetune2012      #146-2012-2011, ILSVRC-2012; logged 38.990 % and 16.622 %

The two pretraining runs read a folder of class folders. With the word of a small data set
(sample,pretrain2009), all four runs use that data set.
"""

import math
from collections.abc import Callable

from alexnet_jax import command
from alexnet_jax.config import Config, sequential_model
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
    """Return the config of run #145, or a variant of it.

    Raises:
        InputError: words are unknown or cannot be combined.
    """
    words = variant.split(",")
    is_combined = len([word for word in words if word not in DATA]) > 1 or "2010" in words
    if {*words} & {*PRETRAINING} and is_combined:
        raise InputError(
            f"the variant {variant!r} has no run to start from; {', '.join(PRETRAINING)} stand "
            "alone, or after a word for the data other than 2010"
        )
    config = source2012()
    variants.apply_variant(config, variant, DATA, {**variants.ABLATIONS, **PRETRAINING})
    return config


def source2012() -> Config:
    """Return the paper's config, changed in all points in which the 2012 program differs."""
    config = alexnet.paper()
    # layer-params-145.cfg: wc, the weight decay, applies to weights only
    config.optimizer.decay_multipliers = ((".*/bias", 0.0),)
    config.data.mean = "center"  # convdata_jpeg.py: data_mean_crop, for every crop position
    config.data.crop_chunk = 32  # convdata_jpeg.py
    config.data.lighting = "source2012"  # convdata_jpeg.py: pca_stdevs
    config.data.lighting_divisor = 1.1  # convdata_jpeg.py: 1 + the coefficient of the noise
    sequential_model(config).ops = source2012_ops()
    set_epochs(config, drops=(25, 51, 79), conv1_slow=67, conv1_frozen=72, stop=91)
    return config


def source2012_ops() -> dict[str, Op]:
    """Return the ops of layers-145.cfg, in the order of that file."""

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
        pool5=MaxPool(), relu5=ReLU(),  # the result is that of ReLU before the maximum
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
    """Set the learning rates over time to those in the log of a run; epochs count from 1.

    The rate of biases begins at twice that of weights. The log does not record when it changed,
    but the files contain its last value. It is 0.02 for #145, the initial value, so biases keep
    that rate here. It is 0.002 for #145-2010, so biases follow the first drop of the weights
    here. The biases of conv1 end with a rate of 0, so they stop with its weights here.

    Args:
        config: the config to change in place.
        drops: epochs at whose start the rate of the weights is divided by ten.
        conv1_slow: epoch from which on the weights of conv1 have a tenth of the rate and color
            noise is off.
        conv1_frozen: epoch from which on conv1 has a rate of 0.
        stop: epoch in which the run was stopped; the previous epoch is the last one here.
        bias_drops: number of drops, from the first, that biases follow.
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
    """Use ILSVRC-2010 as run #145-2010 does; it has a labeled test split."""
    config.data.name = "folder"
    config.model.num_classes = 1000
    set_epochs(config, drops=(23, 51, 78), conv1_slow=68, conv1_frozen=72, stop=93, bias_drops=1)


def small(data: variants.Change) -> variants.Change:
    """Return the change to a small data set and model, with the same changes of rates in 16 epochs.

    Args:
        data: the change of the paper's config to that data set.
    """

    def change(config: Config) -> None:
        data(config)
        config.data.lighting = "source2012"  # changes the brightness of gray images
        set_epochs(config, drops=(12, 15), conv1_slow=14, conv1_frozen=15, stop=17)

    return change


DATA = {
    "2010": ilsvrc2010,
    "imagenette": alexnet.DATA["imagenette"],
    **{name: small(alexnet.DATA[name]) for name in ("sample", "fashion_mnist", "cifar10")},
}


def pretrain2009(config: Config) -> None:
    """Train on 10k classes of Fall 2009 as run #146-2009 does.

    That run changed its rates in the middle of epoch 2 and was stopped in epoch 6. Here they
    change at the start of epoch 2, and epoch 6 is completed.
    """
    start_from(config, (), "conv1", "conv2", "conv3", "conv4", "conv5")
    variants.conv6(config)
    use_image_folder(config)
    set_pretraining(config, epochs=6, fast=("conv6", "fc6", "fc7", "fc8"), until=2)


def pretrain2011(config: Config) -> None:
    """Train on 22k classes of Fall 2011 as run #146-2011 does.

    Before the classifier, fc9, stands a layer without activation function, fc8, which has half of
    the units of fc7 and so reduces the parameters of the classifier. The run was stopped in
    epoch 8, which is completed here.
    """
    convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    start_from(config, ("pretrain2009",), *convolutions)
    variants.conv6(config)
    use_image_folder(config)
    ops = sequential_model(config).ops
    fc7 = ops["fc7"]
    assert isinstance(fc7, Dense)
    ops["fc9"], ops["fc8"] = ops["fc8"], Dense(fc7.features // 2)
    set_pretraining(config, epochs=8, fast=("fc6", "fc7", "fc8", "fc9"), until=6)


def finetune2012(config: Config) -> None:
    """Train on ILSVRC-2012 as run #146-2012-2011 does.

    The log does not record which layers the run started from; here they are all but the
    classifier. The rate of fc8 rises after 300 batches, assumed to be of 128 images. The log does
    not record when the rates of biases changed; here they stay at 0.02, as in #145.
    """
    convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    start_from(config, ("pretrain2011",), *convolutions, "fc6", "fc7")
    variants.conv6(config)
    rescale = make_epoch_rescaler(config)
    drops = (rescale(22), rescale(42))
    config.learning_rate /= 10
    config.epochs = math.ceil(rescale(54)) - 1
    config.data.lighting_end = math.ceil(rescale(38))
    config.schedule.drop_epochs = drops
    config.schedule.multipliers = (
        ("conv1/kernel", 1, 0.1),
        ("conv1/kernel", rescale(5), 0.01),
        ("conv1/.*", rescale(7), 0.0),
        ("fc8/kernel", rescale(1 + 300 * 128 / 1_281_167), 10.0),
        ("fc8/kernel", rescale(9), 1.0),
        *((".*/bias", epoch, 20.0 * 10**n) for n, epoch in enumerate((1, *drops))),
    )


def start_from(config: Config, variant_words: tuple[str, ...], *layers: str) -> None:
    """Take layers from the default workdir of another variant on the same data.

    Args:
        config: the config to change in place.
        variant_words: words of the variant without that of the data.
        layers: names of the layers to take.
    """
    data = () if config.data.name == "imagenet2012" else (config.data.name,)
    config.init_from = command.workdir_of(f"source2012.py:{','.join((*data, *variant_words))}")
    config.init_layers = layers


def use_image_folder(config: Config) -> None:
    """In place of ILSVRC-2012, read another release of ImageNet from a folder of class folders."""
    if config.data.name == "imagenet2012":
        config.data.name = "folder"


def set_pretraining(config: Config, *, epochs: int, fast: tuple[str, ...], until: int) -> None:
    """Set the learning rates of the runs on more images.

    Weights have a rate of 0.001, and biases of 0.02, as in the files; so do the biases of conv6,
    whose last rate in the files is 0.002.

    Args:
        config: the config to change in place.
        epochs: number of epochs of the logged run.
        fast: newly initialized layers, whose weights begin with a rate of 0.01.
        until: epoch of the logged run at whose start that rate ends.
    """
    rescale = make_epoch_rescaler(config)
    config.learning_rate /= 10
    config.epochs = math.ceil(rescale(epochs + 1)) - 1
    config.data.lighting_end = 0
    config.schedule.drop_epochs = ()
    config.schedule.multipliers = (
        *((f"{name}/kernel", 1, 10.0) for name in fast),
        *((f"{name}/kernel", rescale(until), 1.0) for name in fast),
        (".*/bias", 1, 20.0),
    )


def make_epoch_rescaler(config: Config) -> Callable[[float], float]:
    """Return the function from an epoch of the logs to the corresponding one of this config.

    Run #145 had 90 epochs; its variants for small images have fewer.
    """
    share = config.epochs / 90
    return lambda epoch: 1 + (epoch - 1) * share


PRETRAINING = dict(pretrain2009=pretrain2009, pretrain2011=pretrain2011, finetune2012=finetune2012)
