"""The authors' models for CIFAR-10, published with their program cuda-convnet (2011-2012).

    python -m alexnet_jax.main --config=configs/cifar.py:80sec --config.data.dir=DIR
    python -m alexnet_jax.main --config=configs/cifar.py:80sec,sample     # embedded images

DIR has the official binary files, data_batch_1.bin … test_batch.bin. The variant has at most one
word for the model and at most one for the data, and then changes, separated by commas. Models,
named after the files example-layers/layers-*.cfg of cuda-convnet, with the authors' test errors:

    80sec          26 %. Three convolutions and fc64; 10 epochs. Here 26.09 % (25.24 % in ten
                   views), after 22 minutes on two cores of an AMD EPYC beside other work.
    18pct          18 %. Response normalization within each channel; 140 epochs. Here 18.28 %, after
                   2.2 hours on two cores of an Intel Xeon beside other work.
    13pct          13 % (12.6 % in a log), ten views of 24 × 24 pixels; the default. Two
                   convolutions and two locally-connected layers; 160 epochs. Here 12.21 %, after
                   2.9 hours on two cores of an Intel Xeon beside other work.
    11pct          11 %, ten views. Normalization across channels; 520 epochs.

For the comparison with and without normalization in section 3.3 of the paper use 11pct and
11pct,no_lrn; 13pct also has a narrower local3, another decay of fc10 and fewer epochs. 11pct was
not run; docs/cifar.md has the numbers of parameters and steps.

Data:

    (none)         The binary files, in their order, of which every 79th batch is smaller.
    cifar10        cifar10 of TensorFlow Datasets, whose order is another one.
    sample         12,000 Fashion-MNIST images in the package, in 16 epochs.

Changes are no_lrn and tanh of configs/variants.py.
"""

from alexnet_jax.config import (
    Config,
    OptimizerConfig,
    ScheduleConfig,
    sequential_model,
)
from alexnet_jax.data_config import DataConfig
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    LocalConv,
    MaxPool,
    Op,
    ReLU,
    WithinChannelLRN,
)
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import variants

FILE_IMAGES = 10_000  # in each of the five files


def get_config(variant: str = "") -> Config:
    """Return the config of 13pct, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = recipe()
    if not {*variant.split(",")} & NETWORKS.keys():
        network_13pct(config)
    variants.apply_variant(config, variant, DATA, CHANGES, NETWORKS)
    return config


def recipe() -> Config:
    """Return what all models have in common (example-layers/layer-params-*.cfg).

    Biases have twice the rate of weights, epsB=0.002, and no decay. The images are taken in the
    order of the files, in minibatches of 128, of which the last one of a file has 16.
    """
    return Config(
        learning_rate=0.001,
        checkpoint_every=5 * 395,  # five epochs
        log_every=79,  # a file
        optimizer=OptimizerConfig(weight_decay=0.004, decay_multipliers=((".*/bias", 0.0),)),
        schedule=ScheduleConfig(multipliers=((".*/bias", 1, 2.0),)),
        data=DataConfig(
            name="cifar10_binary",
            image_size=32,
            validation_share=0.0,
            shuffle=False,
            part_images=FILE_IMAGES,
            crop=32,
            crop_positions="center",
            flip=False,
            lighting="none",
            mean="center",  # convdata.py: the central part of the mean image, for every crop
        ),
    )


def network_80sec(config: Config) -> None:
    """Use layers-80sec.cfg and its recipe: "reduce the learning rate after 8 epochs".

    The file does not tell how long to train at the lower rate; Caffe's copy, cifar10_quick, does so
    for a fifth of the steps.
    """
    config.epochs = 10
    config.schedule.drop_epochs = (9,)
    config.optimizer.decay_multipliers += (("fc.*/kernel", 7.5),)  # wc=.03
    ops: dict[str, Op] = dict(
        **convolutions(),
        fc64=Dense(64, std=0.1), relu4=ReLU(),
        fc10=Dense(0, std=0.1),
    )  # fmt: skip
    config.model = SequentialConfig(ops=ops)


def convolutions() -> dict[str, Op]:
    """Return the convolutions of layers-80sec.cfg with their pooling; conv1's ReLU follows it."""
    return dict(
        conv1=Conv(32, kernel=5, padding=(2, 2), std=0.0001), pool1=MaxPool(), relu1=ReLU(),
        conv2=Conv(32, kernel=5, padding=(2, 2)), relu2=ReLU(), pool2=AvgPool(),
        conv3=Conv(64, kernel=5, padding=(2, 2)), relu3=ReLU(), pool3=AvgPool(),
    )  # fmt: skip


def network_18pct(config: Config) -> None:
    """Use layers-18pct.cfg and its recipe.

    The file does not tell how long to train at the lowest rate; Caffe's copy, cifar10_full, does so
    for as long as at the one before.
    """
    config.epochs = 140
    config.schedule.drop_epochs = (121, 131)
    config.optimizer.decay_multipliers += (("fc.*/kernel", 250.0),)  # wc=1

    def norm() -> WithinChannelLRN:
        return WithinChannelLRN(size=3, alpha=0.00005)

    ops: dict[str, Op] = {}
    for name, op in convolutions().items():
        ops[name] = op
        if name in ("relu1", "pool2"):
            ops[f"rnorm{name[-1]}"] = norm()
    config.model = SequentialConfig(ops={**ops, "fc10": Dense(0)})


def network_13pct(config: Config) -> None:
    """Use layers-conv-local-13pct.cfg, with the stages of the page "Methodology" in its wiki."""
    set_stages(config, alone=100, folded_in=40)
    config.optimizer.decay_multipliers += (("conv./kernel", 0.0),)  # wc=0
    ops: dict[str, Op] = dict(
        conv1=Conv(64, kernel=5, padding=(2, 2), std=0.0001), relu1=ReLU(), pool1=MaxPool(),
        conv2=Conv(64, kernel=5, padding=(2, 2)), relu2=ReLU(), pool2=MaxPool(),
        local3=LocalConv(32, kernel=3, padding=(1, 1), std=0.04), relu3=ReLU(),
        local4=LocalConv(32, kernel=3, padding=(1, 1), std=0.04), relu4=ReLU(),
        fc10=Dense(0),
    )  # fmt: skip
    config.model = SequentialConfig(ops=ops)


def network_11pct(config: Config) -> None:
    """Use layers-conv-local-11pct.cfg; layer-params-conv-local-11pct.cfg has its stages.

    Besides the normalization, which follows pooling in layer 1 and precedes it in layer 2, it has
    another width of local3, decay of fc10 and number of epochs than 13pct.
    """
    network_13pct(config)
    set_stages(config, alone=350, folded_in=150)
    config.optimizer.decay_multipliers += (("fc10/kernel", 2.5),)  # wc=.01

    def norm() -> LRN:
        return LRN(size=9, k=1.0, alpha=0.001, alpha_over_size=True)

    model = sequential_model(config)
    ops: dict[str, Op] = {}
    for name, op in model.ops.items():
        ops[name] = op
        if name in ("pool1", "relu2"):
            ops[f"norm{name[-1]}"] = norm()
    ops["local3"] = LocalConv(64, kernel=3, padding=(1, 1), std=0.04)
    model.ops = ops


def set_stages(config: Config, *, alone: int, folded_in: int) -> None:
    """Set the stages and the crops of the models with locally-connected layers.

    They are trained on four files until the error on the fifth one no longer improves; then on all
    five; then for ten epochs at a tenth of the rate; and for ten at a hundredth. Only the rates of
    weights are lowered, epsW, not those of biases.

    Args:
        config: the config to change in place.
        alone: number of epochs on four files.
        folded_in: number of epochs on five files before the rate is lowered.
    """
    total = alone + folded_in
    drops = (total + 1, total + 11)
    config.epochs = total + 20
    config.data.stages = ((1, 4 * FILE_IMAGES), (alone + 1, 5 * FILE_IMAGES))
    config.schedule.drop_epochs = drops
    config.schedule.multipliers = (
        (".*/bias", 1, 2.0),
        *((".*/bias", epoch, 2.0 * 10**n) for n, epoch in enumerate(drops, start=1)),
    )
    config.data.crop = 24
    config.data.crop_positions, config.data.flip = "all", True


def cifar10(config: Config) -> None:
    """Use cifar10 of TensorFlow Datasets, which has no files to take in order."""
    config.data.name = "cifar10"


def sample(config: Config) -> None:
    """Use the embedded images, gray, of 28 pixels, in the same stages within 16 epochs.

    The initial weights, the scale of the pixels and the rates are those for short runs.
    """
    config.data.name = "sample"
    config.data.image_size = 28
    config.data.crop = min(config.data.crop, 28)
    config.data.scale = 1 / 64
    config.data.validation_share = 0.1
    config.data.part_images = 1_800  # of 9,000
    config.learning_rate, config.optimizer.weight_decay = 0.01, 0.0004
    if config.data.stages:
        config.data.stages = ((1, 7_200), (11, 9_000))
    config.epochs, config.schedule.drop_epochs = 16, (15, 16)
    config.schedule.multipliers = ((".*/bias", 1, 2.0),)
    config.checkpoint_every, config.log_every = 200, 50
    model = sequential_model(config)
    model.channels, model.init = 1, "scaled"


NETWORKS: dict[str, variants.Change] = {
    "80sec": network_80sec,
    "18pct": network_18pct,
    "13pct": network_13pct,
    "11pct": network_11pct,
}
DATA: dict[str, variants.Change] = dict(cifar10=cifar10, sample=sample)
CHANGES: dict[str, variants.Change] = dict(no_lrn=variants.no_lrn, tanh=variants.tanh)
