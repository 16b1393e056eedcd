"""The model and the recipe of the paper (Krizhevsky, Sutskever, Hinton, NIPS 2012).

    python -m alexnet_jax.main --config=configs/alexnet.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/alexnet.py:sample     # embedded images, minutes

The variant, after the colon, is a word for the data, a word for an ablation, or several words
separated by commas (sample,one_column). Data:

    (none)         imagenet2012 of TensorFlow Datasets, downloaded by hand; 90 epochs.
                   The paper's errors: 40.7 % top-1 and 18.2 % top-5 on validation, ten views.
    imagenette     Ten easy classes of ImageNet, with the same model.
    sample         12,000 Fashion-MNIST images in the package, with a model for small images.
    fashion_mnist  All 70,000 of them from TensorFlow Datasets, with the model of the sample.
    cifar10        cifar10 of TensorFlow Datasets, with the model of the sample for color images,
                   and the learning rate that was best on held-out training images.

The ablations are those of configs/variants.py, the same for every config: no_lrn, lrn_conv5,
no_overlap, one_column, no_communication, conv6, no_conv2 … no_conv5, tanh, no_dropout,
no_lighting, no_crops; and, before these, four_layers, the model of figure 1.

Other data: --config.data.name=folder --config.data.dir=DIR (a folder of class folders),
--config.data.name=idx (IDX files), or the name of any classification set in TensorFlow Datasets.
"""

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, WithinChannelLRN
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import variants


def get_config(variant: str = "") -> Config:
    """Return the paper's config, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = paper()
    variants.apply_variant(config, variant, DATA, variants.ABLATIONS)
    return config


def paper() -> Config:
    """Return the config of sections 3 to 5; the defaults of all fields are the paper's values."""
    return Config(model=SequentialConfig(num_columns=2, ops=paper_ops()))


def paper_ops() -> dict[str, Op]:
    """Return the ops of section 3.5, with the standard deviations and biases of section 5."""
    return dict(
        conv1=Conv(96, kernel=11, stride=4, padding=(0, 3)),
        relu1=ReLU(), norm1=LRN(), pool1=MaxPool(),
        conv2=Conv(256, kernel=5, padding=(2, 2), groups=2, bias=1.0),
        relu2=ReLU(), norm2=LRN(), pool2=MaxPool(),
        conv3=Conv(384, kernel=3, padding=(1, 1)),
        relu3=ReLU(),
        conv4=Conv(384, kernel=3, padding=(1, 1), groups=2, bias=1.0),
        relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1), groups=2, bias=1.0),
        relu5=ReLU(), pool5=MaxPool(),
        fc6=Dense(4096, bias=1.0), relu6=ReLU(), drop6=Dropout(),
        fc7=Dense(4096, bias=1.0), relu7=ReLU(), drop7=Dropout(),
        fc8=Dense(0),  # 0: one unit per class
    )  # fmt: skip


def use_small_images(config: Config) -> None:
    """Change the recipe and the constants of a model into those for images of 28 or 32 pixels."""
    config.epochs = 16
    config.checkpoint_every = 200
    config.learning_rate = 0.03
    config.schedule.rule = "epochs"
    config.schedule.drop_epochs = (12, 15)
    config.data.image_size = 28
    config.data.crop = 26
    config.data.scale = 1 / 64  # with init "scaled", activations of every layer are near 1
    config.data.lighting = "none"
    model = sequential_model(config)
    model.channels = 1
    model.init = "scaled"
    for op in model.ops.values():
        if isinstance(op, LRN):
            op.alpha = 0.4  # the paper's 1e-4 × 64²: the same effect as on inputs of 0…255
        elif isinstance(op, WithinChannelLRN):
            op.alpha = 4.0


def make_small(config: Config) -> None:
    """Change a config of the paper's model into one for images of 28 or 32 pixels."""
    use_small_images(config)
    for name, features, kernel in (
        *(("conv1", 32, 5), ("conv2", 64, 5), ("conv3", 96, 3), ("conv4", 96, 3), ("conv5", 64, 3)),
        *(("fc6", 512, 0), ("fc7", 512, 0)),
    ):
        layer = sequential_model(config).ops[name]
        assert isinstance(layer, Conv | Dense)
        layer.features, layer.bias = features, 0.0
        if isinstance(layer, Conv):
            layer.kernel, layer.stride, layer.padding = kernel, 1, (kernel // 2, kernel // 2)


_WORDS = variants.data_words(make_small)


def cifar10(config: Config) -> None:
    """Use CIFAR-10, and the learning rate with the lowest error on held-out training images.

    Rates of 0.01, 0.03, 0.06 and 0.1 were tried (experiments/README.md, "Ablations on CIFAR-10").
    """
    _WORDS["cifar10"](config)
    config.learning_rate = 0.06


DATA = {**_WORDS, "cifar10": cifar10}
