"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842).

    python -m alexnet_jax.main --config=configs/googlenet.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/googlenet.py:sample     # minutes on two cores

The variant, after the colon, is a word for the data, a word for a change, or both. Data:

    (none)         imagenet2012 of TensorFlow Datasets, downloaded by hand; 60 epochs.
                   The paper's top-5 errors on validation: 10.07 % with one crop, 9.15 % with ten,
                   7.89 % with 144 (evaluate --views=144); seven models 6.67 % (table 3). Of BVLC's
                   replica, one crop: 31.3 % top-1 and 11.1 % top-5.
    imagenette     Ten easy classes of ImageNet, with the same model.
    sample         12,000 Fashion-MNIST images in the package, with a quarter of the filters and a
                   3×3 convolution of stride 1 in place of the first layers; six epochs, with a
                   top-1 error of 24.2 % (two cores of an AMD EPYC, 2026-11-26).
    fashion_mnist  All 70,000 of them from TensorFlow Datasets, with the model of the sample.
    cifar10        cifar10 of TensorFlow Datasets, with the model of the sample for color images.

Changes:

    torchvision    The model of torchvision: batch normalization, 3×3 kernels in place of 5×5, a max
                   pooling of 2×2 before module 5a, a dropout of 0.2, and other average pooling
                   before the auxiliary classifiers. Its published weights have errors of 30.22 %
                   and 10.47 % with one crop.

The paper gives a momentum of 0.9, a rate that drops by 4 % every 8 epochs, averaged parameters, and
crops of 8 to 100 % of the image's area with an aspect ratio between 3/4 and 4/3 (section 6). Its
photometric distortions and random interpolation are left out. The rest is that of BVLC's replica
(models/bvlc_googlenet of Caffe): rate, batch size, weight decay, initial weights and the position
of response normalization. The decay of the average, 0.9999, is of neither. The authors trained on
CPUs with DistBelief, and estimate a week on few high-end GPUs. Only the sample's error was measured
with this program.
"""

from alexnet_jax.config import Config, OptimizerConfig, ScheduleConfig
from alexnet_jax.data_config import DataConfig
from alexnet_jax.models.branched_config import BatchNormConfig, GoogLeNetConfig
from configs import variants
from configs.variants import Change


def get_config(variant: str = "") -> Config:
    """Return the config of GoogLeNet on ImageNet, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = imagenet_recipe()
    variants.apply_variant(config, variant, DATA, CHANGES)
    return config


def imagenet_recipe() -> Config:
    """Return the config of section 6, completed by that of BVLC's replica."""
    return Config(
        batch_size=32,
        epochs=60,
        learning_rate=0.01,
        optimizer=OptimizerConfig(
            weight_decay=0.0002, decay_multipliers=((".*/bias", 0.0),), ema_decay=0.9999
        ),
        schedule=ScheduleConfig(
            rule="period", period=8, factor=0.96, multipliers=((".*/bias", 1, 2.0),)
        ),
        data=DataConfig(
            mean="channel", resize="shorter_side", crop_area=(0.08, 1.0), lighting="none"
        ),
        model=GoogLeNetConfig(),
    )


def googlenet(config: Config) -> GoogLeNetConfig:
    """Return the model of a config, which is GoogLeNet."""
    assert isinstance(config.model, GoogLeNetConfig)
    return config.model


def make_small(config: Config) -> None:
    """Change a config into one for the embedded images, gray, of 28 pixels."""
    config.batch_size = 64
    config.epochs, config.checkpoint_every = 6, 200
    config.learning_rate = 0.05
    config.schedule.rule, config.schedule.drop_epochs, config.schedule.factor = "epochs", (5,), 0.1
    config.optimizer.ema_decay = 0.99
    config.data.image_size, config.data.crop, config.data.resize = 28, 26, "crop"
    config.data.scale, config.data.crop_area = 1 / 64, (0.5, 1.0)
    model = googlenet(config)
    model.channels, model.stem, model.width = 1, "small", 0.25


def torchvision(config: Config) -> None:
    """Use torchvision's model, which differs from the paper's in five ways."""
    model = googlenet(config)
    model.normalization = "batch_norm"
    model.batch_norm = BatchNormConfig(epsilon=1e-3)
    model.large_kernel = 3
    model.pool4_window = 2
    model.dropout = 0.2
    model.aux_pooling = "adaptive"


DATA = variants.data_words(make_small)
CHANGES: dict[str, Change] = dict(torchvision=torchvision)
