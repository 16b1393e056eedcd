"""Configs for weights of other programs, with their models, preprocessing and recipes.

Caffe and ONNX files contain the model but not the preprocessing of images; a state dict of PyTorch
contains arrays only. configs/bvlc_alexnet.py, configs/one_weird_trick.py and configs/vgg.py offer
these configs and models for training.
"""

from collections.abc import Callable, Mapping
from functools import partial

from alexnet_jax.config import Config, OptimizerConfig, ScheduleConfig
from alexnet_jax.data_config import DataConfig
from alexnet_jax.models.branched_config import BatchNormConfig, GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU
from alexnet_jax.models.sequential_config import SequentialConfig

# torchvision's normalization of x / 255, here of x in 0…255.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

VGG_CHANNELS = (64, 128, 256, 512, 512)  # of the convolutions in each block

# Sides of the kernels in each block of VGG's models (table 1 of Simonyan and Zisserman 2014). The
# blocks end with a max pooling.
VGG_KERNELS = dict(
    A=((3,), (3,), (3, 3), (3, 3), (3, 3)),
    B=((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    C=((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    D=((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    E=((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
)


def bvlc_alexnet() -> Config:
    """Return the config of Caffe's models/bvlc_alexnet (train_val.prototxt, solver.prototxt)."""
    return Config(
        batch_size=256,
        optimizer=OptimizerConfig(decay_multipliers=((".*/bias", 0.0),)),
        schedule=ScheduleConfig(drop_epochs=(21, 41, 61, 81), multipliers=((".*/bias", 1, 2.0),)),
        data=DataConfig(
            crop=227,
            resize="squash",
            channel_order="bgr",
            lighting="none",
            mean="given",
            # Mean of each channel of ilsvrc_2012_mean.npy of Caffe, which is in the order B, G, R.
            given_mean=(122.67891434, 116.66876762, 104.00698793),
        ),
        model=SequentialConfig(num_columns=2, ops=bvlc_ops()),
    )


def bvlc_ops() -> dict[str, Op]:
    """Return the ops of bvlc_alexnet."""

    def norm() -> LRN:
        return LRN(k=1.0, alpha_over_size=True, across_columns=True)

    def drop() -> Dropout:
        return Dropout(inverted=True)

    return dict(
        conv1=Conv(96, kernel=11, stride=4),
        relu1=ReLU(), norm1=norm(), pool1=MaxPool(),
        conv2=Conv(256, kernel=5, padding=(2, 2), groups=2, bias=0.1),
        relu2=ReLU(), norm2=norm(), pool2=MaxPool(),
        conv3=Conv(384, kernel=3, padding=(1, 1)),
        relu3=ReLU(),
        conv4=Conv(384, kernel=3, padding=(1, 1), groups=2, bias=0.1),
        relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1), groups=2, bias=0.1),
        relu5=ReLU(), pool5=MaxPool(),
        fc6=Dense(4096, std=0.005, bias=0.1), relu6=ReLU(), drop6=drop(),
        fc7=Dense(4096, std=0.005, bias=0.1), relu7=ReLU(), drop7=drop(),
        fc8=Dense(0),
    )  # fmt: skip


def caffe_vgg(letter: str) -> Config:
    """Return the config of VGG as its authors published it for Caffe, with the paper's recipe.

    Args:
        letter: model of table 1; D is VGG-16 and E is VGG-19.
    """
    return Config(
        batch_size=256,
        epochs=74,
        schedule=ScheduleConfig(rule="plateau"),
        data=DataConfig(
            resize="shorter_side",
            channel_order="bgr",
            # The authors state the mean with their weights, in the order B, G, R.
            mean="given",
            given_mean=(123.68, 116.779, 103.939),
        ),
        model=SequentialConfig(init="glorot", ops=vgg_ops(letter)),
    )


def vgg_ops(letter: str) -> dict[str, Op]:
    """Return the ops of a model of VGG's table 1.

    Dropout is inverted, since the authors' program is derived from Caffe (section 3.3). The
    standard deviations are those of section 3.1, for initial weights from normal distributions.
    """
    ops: dict[str, Op] = {}
    blocks = zip(VGG_CHANNELS, VGG_KERNELS[letter], strict=True)
    for block, (channels, sides) in enumerate(blocks, start=1):
        for number, side in enumerate(sides, start=1):
            name = f"{block}_{number}"
            padding = (side // 2, side // 2)
            ops[f"conv{name}"] = Conv(channels, kernel=side, padding=padding, std=0.1)
            ops[f"relu{name}"] = ReLU()
        ops[f"pool{block}"] = MaxPool(window=2, ceil_mode=False)
    return dict(
        **ops,
        fc6=Dense(4096, std=0.1), relu6=ReLU(), drop6=Dropout(inverted=True),
        fc7=Dense(4096, std=0.1), relu7=ReLU(), drop7=Dropout(inverted=True),
        fc8=Dense(0, std=0.1),
    )  # fmt: skip


def bvlc_googlenet() -> Config:
    """Return the config of Caffe's models/bvlc_googlenet, with the schedule of its solver."""
    return Config(
        batch_size=32,
        epochs=60,
        learning_rate=0.01,
        optimizer=OptimizerConfig(weight_decay=0.0002, decay_multipliers=((".*/bias", 0.0),)),
        schedule=ScheduleConfig(
            rule="period", period=8, factor=0.96, multipliers=((".*/bias", 1, 2.0),)
        ),
        data=DataConfig(
            resize="squash",
            channel_order="bgr",
            lighting="none",
            mean="given",
            given_mean=(123.0, 117.0, 104.0),
        ),
        model=GoogLeNetConfig(),
    )


def caffe_resnet(*stage_sizes: int) -> Config:
    """Return the config of a residual network as its authors published it for Caffe.

    Args:
        stage_sizes: number of bottleneck blocks of each of the four stages.
    """
    return Config(
        batch_size=256,
        epochs=120,
        learning_rate=0.1,
        optimizer=OptimizerConfig(weight_decay=0.0001),
        schedule=ScheduleConfig(rule="plateau"),
        # The authors subtract an image, ResNet_mean.binaryproto, from every crop. This is its mean
        # over all pixels.
        data=DataConfig(
            resize="shorter_side",
            channel_order="bgr",
            mean="given",
            given_mean=(123.151630838, 115.902882574, 103.062623801),
        ),
        model=ResNetConfig(stage_sizes=stage_sizes),
    )


def torchvision_alexnet() -> Config:
    """Return the config of torchvision's `alexnet` with the recipe of its reference training."""
    return _torchvision(SequentialConfig(init="scaled", ops=torchvision_alexnet_ops()))


def torchvision_vgg(letter: str) -> Config:
    """Return the config of torchvision's VGG with the recipe of its reference training.

    Args:
        letter: model of VGG's table 1; torchvision has all but C.
    """
    config = _torchvision(SequentialConfig(init="scaled", ops=vgg_ops(letter)))
    config.data.resize = "shorter_side"
    return config


def torchvision_resnet(block: str, *stage_sizes: int) -> Config:
    """Return the config of a residual network of torchvision's, with its reference training.

    Args:
        block: see `ResNetConfig`.
        stage_sizes: number of blocks of each of the four stages.
    """
    model = ResNetConfig(block=block, stage_sizes=stage_sizes, stride_in="3x3", pool_padding=1)
    config = _torchvision(model)
    config.batch_size, config.learning_rate = 256, 0.1
    config.data.resize = "shorter_side"
    return config


def cifar_resnet(model: ResNetConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> Config:
    """Return the config of a residual network for CIFAR-10 with the recipe of akamaster's program.

    Args:
        model: the model.
        mean, std: mean and standard deviation of each channel, 0…255.
    """
    return Config(
        epochs=200,
        learning_rate=0.1,
        optimizer=OptimizerConfig(weight_decay=0.0001),
        schedule=ScheduleConfig(drop_epochs=(101, 151)),
        data=DataConfig(
            name="cifar10",
            image_size=32,
            crop=32,
            padding=4,
            lighting="none",
            mean="given",
            given_mean=mean,
            std=std,
        ),
        model=model,
    )


def torchvision_googlenet() -> Config:
    """Return the config of torchvision's `googlenet` with its auxiliary classifiers.

    Its published weights are those of another program, and expect pixels in -1…1: torchvision's
    `transform_input`, which is on for them, changes its own normalization into this one.
    """
    model = GoogLeNetConfig(
        normalization="batch_norm",
        batch_norm=BatchNormConfig(epsilon=1e-3),
        large_kernel=3,
        pool4_window=2,
        dropout=0.2,
        aux_pooling="adaptive",
    )
    config = _torchvision(model)
    config.data.given_mean = (127.5, 127.5, 127.5)
    config.data.std = (127.5, 127.5, 127.5)
    config.data.resize = "shorter_side"
    return config


def _torchvision(model: ModelConfig) -> Config:
    """Return a config with the preprocessing and the recipe of torchvision."""
    return Config(
        optimizer=OptimizerConfig(weight_decay=0.0001),
        schedule=ScheduleConfig(drop_epochs=(31, 61)),
        data=DataConfig(
            lighting="none",
            mean="given",
            given_mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        model=model,
    )


def torchvision_alexnet_ops() -> dict[str, Op]:
    """Return the ops of torchvision's version of Krizhevsky 2014, "One weird trick"."""

    def pool() -> MaxPool:
        return MaxPool(ceil_mode=False)

    def drop() -> Dropout:
        return Dropout(inverted=True)

    return dict(
        conv1=Conv(64, kernel=11, stride=4, padding=(2, 2)), relu1=ReLU(), pool1=pool(),
        conv2=Conv(192, kernel=5, padding=(2, 2)), relu2=ReLU(), pool2=pool(),
        conv3=Conv(384, kernel=3, padding=(1, 1)), relu3=ReLU(),
        conv4=Conv(256, kernel=3, padding=(1, 1)), relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1)), relu5=ReLU(), pool5=pool(), drop5=drop(),
        fc6=Dense(4096), relu6=ReLU(), drop6=drop(),
        fc7=Dense(4096), relu7=ReLU(),
        fc8=Dense(0),
    )  # fmt: skip


# torchvision's chains by their names there, with batch normalization folded into convolutions.
TORCHVISION: Mapping[str, Callable[[], Config]] = {
    "alexnet": torchvision_alexnet,
    "vgg11": partial(torchvision_vgg, "A"),
    "vgg13": partial(torchvision_vgg, "B"),
    "vgg16": partial(torchvision_vgg, "D"),
    "vgg19": partial(torchvision_vgg, "E"),
}

# torchvision's residual networks by their kinds of blocks and the numbers of them.
TORCHVISION_RESNETS: Mapping[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}

# Models with branches in Caffe's format, by their names in messages.
CAFFE_BRANCHED: Mapping[str, Callable[[], Config]] = {
    "Caffe's GoogLeNet": bvlc_googlenet,
    "Caffe's ResNet-50": partial(caffe_resnet, 3, 4, 6, 3),
    "Caffe's ResNet-101": partial(caffe_resnet, 3, 4, 23, 3),
    "Caffe's ResNet-152": partial(caffe_resnet, 3, 8, 36, 3),
}
