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
"""

from ml_collections import ConfigDict

from configs import alexnet, variants
from configs.alexnet import paper


def get_config(variant: str = "") -> ConfigDict:
    """The config of run #145, or that of a variant."""
    config = source2012()
    variants.apply(config, variant, DATA, variants.ABLATIONS)
    return config


def source2012() -> ConfigDict:
    """The paper's config with all that its program does differently."""
    config = paper()
    config.decay_biases = False  # layer-params-145.cfg: wc is of weights
    config.data.mean = "center"  # convdata_jpeg.py: data_mean_crop, whatever the crop
    config.data.crop_chunk = 32  # convdata_jpeg.py
    config.data.lighting = "source2012"  # convdata_jpeg.py: pca_stdevs
    config.data.lighting_divisor = 1.1  # convdata_jpeg.py: 1 + the coefficient of the noise
    config.model.lrn.alpha_over_size = True
    layers = config.model.layers
    layers.conv1.after = ("lrn", "pool", "relu")
    layers.conv2.after = ("relu", "lrn", "map_norm", "pool")
    layers.conv5.after = ("pool", "relu")  # the same as ReLU before the maximum
    for name in ("conv3", "conv4", "conv5"):
        layers[name].std = 0.03
    set_epochs(config, drops=(25, 51, 79), conv1_slow=67, conv1_frozen=72, stop=91)
    return config


def set_epochs(
    config: ConfigDict,
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
        conv1_slow: conv1's weights are slowed down to a tenth, and the colour noise is off.
        conv1_frozen: conv1 stops.
        stop: the run was killed; epochs before it are done.
        bias_drops: at how many of the drops, from the first, biases follow.
    """
    config.epochs = stop - 1
    config.schedule.drop_epochs = drops
    config.data.lighting_end = conv1_slow
    config.schedule.multipliers = (
        ("conv1/kernel", conv1_slow, 0.1),
        ("conv1", conv1_frozen, 0.0),
        ("bias", 1, 2.0),
        *(("bias", epoch, 2.0 * 10**n) for n, epoch in enumerate(drops[bias_drops:], start=1)),
    )


def ilsvrc2010(config: ConfigDict) -> None:
    """Run #145-2010; the images of 2010 have a labelled test split."""
    config.data.name = "folder"
    config.model.classes = 1000
    set_epochs(config, drops=(23, 51, 78), conv1_slow=68, conv1_frozen=72, stop=93, bias_drops=1)


def small(data: variants.Change) -> variants.Change:
    """The same net in small for small images, with the same turns within 16 epochs."""

    def change(config: ConfigDict) -> None:
        data(config)
        config.data.lighting = "source2012"  # of grey images, their brightness
        set_epochs(config, drops=(12, 15), conv1_slow=14, conv1_frozen=15, stop=17)

    return change


DATA = {
    "2010": ilsvrc2010,
    "imagenette": alexnet.imagenette,
    **{name: small(alexnet.DATA[name]) for name in ("sample", "fashion_mnist", "cifar10")},
}
