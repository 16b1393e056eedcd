"""Residual networks and plain networks (He, Zhang, Ren and Sun 2015, arXiv:1512.03385).

    python -m alexnet_jax.main --config=configs/resnet.py                   # ResNet-50, ImageNet
    python -m alexnet_jax.main --config=configs/resnet.py:cifar20           # CIFAR-10
    python -m alexnet_jax.main --config=configs/resnet.py:cifar20,sample    # minutes on two cores

The variant, after the colon, has at most one word for the network, at most one for the data, and
then changes, separated by commas. Networks for ImageNet (table 1), with the paper's errors on
validation, top-1 and top-5 in %, ten crops (tables 2 and 3):

    18          27.88 (shortcut A)
    34          24.52, 7.46; 25.03, 7.76 with shortcut_a and 24.19, 7.40 with shortcut_c
    50          22.85, 6.71; the default
    101         21.75, 6.05
    152         21.43, 5.71
    plain18, plain34   27.94; 28.54, 10.02. The same layers without shortcuts.

Networks for CIFAR-10 of 6n + 2 layers (section 4.2), always with shortcut A, with the paper's
test errors in %:

    cifar20, cifar32, cifar44, cifar56   8.75, 7.51, 7.17, 6.97
    cifar110    6.43, the best of five runs (6.61 ± 0.16); begins at a tenth of the rate
    cifar1202   7.93
    cifar_plain20, cifar_plain32, cifar_plain44, cifar_plain56, cifar_plain110
                The same layers without shortcuts; errors are in figure 6 only.

Data:

    (none)         imagenet2012 of TensorFlow Datasets; for the last two groups, its cifar10.
    imagenette     Ten easy classes of ImageNet.
    cifar10        CIFAR-10 for any of the networks; without another word for the network, cifar20.
    sample         12,000 Fashion-MNIST images in the package, six epochs; without another word,
                   cifar20 with half of the filters, 17.3 % top-1 error (two cores of an AMD EPYC,
                   2026-11-26).
    fashion_mnist  All 70,000 of them from TensorFlow Datasets; otherwise like sample.

With images of 28 or 32 pixels, the networks for ImageNet begin with a 3×3 convolution of stride 1.

Changes:

    shortcut_a, shortcut_b, shortcut_c   Zeros for new channels; projections where the shape
                   changes, the default for ImageNet; projections everywhere (section 4.1).
    v1.5           Give the stride of a bottleneck block to its 3×3 convolution, not the first 1×1.
    torchvision    The same, and padding before the first max pooling, as in torchvision's models;
                   refused for networks that have neither.

The authors trained on 8 GPUs for ImageNet and on 2 for CIFAR-10. Of the errors above, only that of
the sample was measured with this program.
"""

from alexnet_jax.config import Config, OptimizerConfig, ScheduleConfig
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import ResNetConfig
from configs import variants
from configs.variants import Change


def get_config(variant: str = "") -> Config:
    """Return the config of ResNet-50 on ImageNet, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = imagenet_recipe()
    words = set(variant.split(","))
    if words & SMALL_IMAGES and not words & NETWORKS.keys():
        NETWORKS["cifar20"](config)
        if "cifar10" not in words:
            resnet(config).width = 8
    variants.apply_variant(config, variant, DATA, CHANGES, NETWORKS)
    return config


def imagenet_recipe() -> Config:
    """Return the config of ResNet-50 with the recipe for ImageNet (section 3.4)."""
    return Config(
        batch_size=256,
        epochs=120,  # "up to 60 × 10⁴ iterations"
        learning_rate=0.1,
        optimizer=OptimizerConfig(weight_decay=0.0001),
        schedule=ScheduleConfig(rule="plateau"),
        # The mean of each pixel is not defined for scaled images, whose size varies; the mean of
        # each channel takes its place.
        data=DataConfig(
            image_size=480, resize="shorter_side", scale_jitter=(256, 480), mean="channel"
        ),
        model=ResNetConfig(),
    )


def set_cifar_recipe(config: Config) -> None:
    """Change a config into the recipe for CIFAR-10 (section 4.2).

    The rate drops after 32,000 and 48,000 steps of all 50,000 training images, and training ends
    after 64,000. With images held out, the drops and the end come earlier, in the same epochs.
    """
    config.batch_size = 128
    config.epochs, config.max_steps = 164, 64_000
    config.schedule.rule = "epochs"
    steps_per_epoch = 50_000 / config.batch_size
    # Half a step less, so that rounding cannot add a step.
    config.schedule.drop_epochs = tuple(
        1 + (step - 0.5) / steps_per_epoch for step in (32_000, 48_000)
    )
    config.data.name, config.data.validation_share = "cifar10", 0.0
    config.data.image_size = config.data.crop = 32
    config.data.resize = "crop"
    config.data.scale_jitter, config.data.padding = (), 4
    config.data.mean, config.data.lighting = "image", "none"


def resnet(config: Config) -> ResNetConfig:
    """Return the model of a config, which is a residual network."""
    assert isinstance(config.model, ResNetConfig)
    return config.model


def imagenet_network(block: str, *stage_sizes: int, shortcut: str = "B") -> Change:
    """Return the change to a network for ImageNet (table 1)."""

    def change(config: Config) -> None:
        model = resnet(config)
        model.block, model.stage_sizes, model.shortcut = block, stage_sizes, shortcut

    return change


def cifar_network(layers: int, shortcut: str = "A") -> Change:
    """Return the change to a network of 6n + 2 layers and the recipe for CIFAR-10."""

    def change(config: Config) -> None:
        model = resnet(config)
        model.stem, model.width, model.block, model.shortcut = "small", 16, "basic", shortcut
        model.stage_sizes = ((layers - 2) // 6,) * 3
        set_cifar_recipe(config)
        if layers == 110:  # "0.01 … until the training error is below 80 % (about 400 iterations)"
            config.schedule.warmup_steps, config.schedule.warmup_factor = 400, 0.1

    return change


NETWORKS: dict[str, Change] = {
    "18": imagenet_network("basic", 2, 2, 2, 2),
    "34": imagenet_network("basic", 3, 4, 6, 3),
    "50": imagenet_network("bottleneck", 3, 4, 6, 3),
    "101": imagenet_network("bottleneck", 3, 4, 23, 3),
    "152": imagenet_network("bottleneck", 3, 8, 36, 3),
    "plain18": imagenet_network("basic", 2, 2, 2, 2, shortcut="none"),
    "plain34": imagenet_network("basic", 3, 4, 6, 3, shortcut="none"),
    **{f"cifar{n}": cifar_network(n) for n in (20, 32, 44, 56, 110, 1202)},
    **{f"cifar_plain{n}": cifar_network(n, shortcut="none") for n in (20, 32, 44, 56, 110)},
}


def make_small(config: Config) -> None:
    """Change a config into one for the embedded images, gray, of 28 pixels, in six epochs."""
    config.batch_size = 128
    config.epochs, config.max_steps, config.checkpoint_every = 6, 0, 200
    config.schedule.rule, config.schedule.drop_epochs = "epochs", (4, 6)
    config.schedule.warmup_steps = 0  # cifar110's 400 are nearly all of this run
    config.data.validation_share = 0.1
    config.data.image_size, config.data.crop, config.data.resize = 28, 26, "crop"
    config.data.scale_jitter, config.data.padding = (), 0
    config.data.mean, config.data.lighting = "image", "none"
    model = resnet(config)
    model.channels, model.stem = 1, "small"


def cifar10(config: Config) -> None:
    """Use CIFAR-10 with the recipe of section 4.2."""
    set_cifar_recipe(config)
    resnet(config).stem = "small"


def set_shortcut(kind: str) -> Change:
    """Return the change to another kind of shortcut (section 4.1).

    Raises:
        InputError: the network is plain.
    """

    def change(config: Config) -> None:
        model = resnet(config)
        if model.shortcut == "none":
            raise InputError(f"shortcut_{kind.lower()} changes shortcuts, but the network is plain")
        model.shortcut = kind

    return change


def v1_5(config: Config) -> None:
    """Give the stride of a bottleneck block to its 3×3 convolution.

    Raises:
        InputError: the network has no bottleneck blocks.
    """
    model = resnet(config)
    if model.block != "bottleneck":
        raise InputError("v1.5 changes bottleneck blocks, of which the network has none")
    model.stride_in = "3x3"


def torchvision(config: Config) -> None:
    """Use the strides and the padding of torchvision's models.

    Raises:
        InputError: the network has neither bottleneck blocks nor a first max pooling.
    """
    model = resnet(config)
    if model.block != "bottleneck" and model.stem == "small":
        raise InputError(
            "torchvision changes bottleneck blocks and the first max pooling, and the network has "
            "neither"
        )
    model.stride_in, model.pool_padding = "3x3", 1


SMALL_IMAGES = {"sample", "fashion_mnist", "cifar10"}
DATA = {**variants.data_words(make_small), "cifar10": cifar10}
CHANGES: dict[str, Change] = {
    **{f"shortcut_{kind.lower()}": set_shortcut(kind) for kind in ("A", "B", "C")},
    "v1.5": v1_5,
    "torchvision": torchvision,
}
