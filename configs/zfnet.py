"""ZFNet, the model and the recipe of Zeiler and Fergus 2013 (arXiv:1311.2901).

    python -m alexnet_jax.main --config=configs/zfnet.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/zfnet.py:sample     # embedded images, minutes

The authors trained for 70 epochs, about twelve days, on one GTX 580 (section 3). The words of the
variant, separated by commas, are one of the network and one of the data, then changes. Network,
with the paper's errors (top-1 and top-5 on validation of ILSVRC-2012, one model, tables 2 and 3):

    (none)         Figure 3. 38.4 % and 16.5 %.
    b              512, 1024 and 512 channels in conv3, conv4 and conv5. 37.5 % and 16.0 %.
    krizhevsky     The model of configs/alexnet.py with this recipe, from which table 3 removes
                   layers. 40.5 % and 18.1 %.

Data:

    (none)         imagenet2012 of TensorFlow Datasets, downloaded by hand; 70 epochs.
    imagenette     Ten easy classes of ImageNet, with the same model.
    sample         12,000 Fashion-MNIST images in the package, with a model for small images.
    fashion_mnist  All 70,000 of them from TensorFlow Datasets, with the model of the sample.
    cifar10        cifar10 of TensorFlow Datasets, with the model of the sample for color images.

Changes are the ablations of configs/variants.py and two of the number of units. Those of table 3:

    fc2048         2048 units in fc6 and fc7. 40.2 % and 17.6 %; krizhevsky 41.7 % and 18.8 %.
    fc8192         8192 units. 38.8 % and 17.0 %; krizhevsky 40.0 % and 18.1 %; b 38.3 % and 16.9 %.
    krizhevsky,no_conv3,no_conv4                  45.4 % and 22.1 %.
    krizhevsky,no_fc7                             40.0 % and 18.4 %.
    krizhevsky,no_fc6,no_fc7                      44.8 % and 22.4 %.
    krizhevsky,no_conv3,no_conv4,no_fc6,no_fc7    71.3 % and 50.1 %.

Errors on ImageNet were not measured here.
"""

from alexnet_jax.config import (
    Config,
    OptimizerConfig,
    ScheduleConfig,
    sequential_model,
)
from alexnet_jax.data_config import DataConfig
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, parameter_ops
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import alexnet, variants


def get_config(variant: str = "") -> Config:
    """Return the config of figure 3 on ImageNet, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = paper()
    variants.apply_variant(config, variant, DATA, CHANGES, NETWORKS)
    return config


def paper() -> Config:
    """Return the config of figure 3 and section 3.

    The paper mentions neither weight decay nor color noise. "Annealed by hand when the validation
    error plateaus" is the rule "plateau" here.
    """
    return Config(
        epochs=70,
        optimizer=OptimizerConfig(weight_decay=0.0, max_filter_rms=0.1),
        schedule=ScheduleConfig(rule="plateau"),
        data=DataConfig(crop_positions="five", lighting="none"),
        model=SequentialConfig(ops=paper_ops()),
    )


def paper_ops() -> dict[str, Op]:
    """Return the ops of figure 3, in which normalization comes after pooling.

    Sizes are 110, 55, 26, 13 and 6, as in the figure, if pooling and conv1 round up and conv2 has
    no padding. The paper leaves the constants of the normalization to AlexNet's, and the standard
    deviation to be read from "initialized to 10⁻²".
    """
    return dict(
        conv1=Conv(96, kernel=7, stride=2, padding=(0, 1)),
        relu1=ReLU(), pool1=MaxPool(), norm1=LRN(),
        conv2=Conv(256, kernel=5, stride=2),
        relu2=ReLU(), pool2=MaxPool(), norm2=LRN(),
        conv3=Conv(384, kernel=3, padding=(1, 1)),
        relu3=ReLU(),
        conv4=Conv(384, kernel=3, padding=(1, 1)),
        relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1)),
        relu5=ReLU(), pool5=MaxPool(),
        fc6=Dense(4096), relu6=ReLU(), drop6=Dropout(),
        fc7=Dense(4096), relu7=ReLU(), drop7=Dropout(),
        fc8=Dense(0),
    )  # fmt: skip


def b(config: Config) -> None:
    """Use the wider convolutions of the paper's model (b)."""
    ops = sequential_model(config).ops
    for name, features in (("conv3", 512), ("conv4", 1024), ("conv5", 512)):
        conv = ops[name]
        assert isinstance(conv, Conv)
        conv.features = features


def krizhevsky(config: Config) -> None:
    """Use AlexNet's model, with its two columns, and this paper's biases of 0 (section 3)."""
    model = sequential_model(config)
    model.num_columns, model.ops = 2, alexnet.paper_ops()
    for _, op in parameter_ops(model.ops):
        op.bias = 0.0


def dense_units(units: int) -> variants.Change:
    """Return the change of the number of units in fc6 and fc7 (table 3), by its share of 4096."""

    def change(config: Config) -> None:
        for _, op in parameter_ops(sequential_model(config).ops):
            if isinstance(op, Dense):
                op.features = op.features * units // 4096

    return change


def make_small(config: Config) -> None:
    """Change the model into one for images of 28 or 32 pixels.

    It has a quarter of the channels and an eighth of the units, and no strides in convolutions.
    """
    alexnet.use_small_images(config)
    for name, op in parameter_ops(sequential_model(config).ops):
        op.features //= 4 if isinstance(op, Conv) else 8
        if isinstance(op, Conv):
            op.kernel = 5 if name in ("conv1", "conv2") else 3
            op.stride, op.padding = 1, (op.kernel // 2, op.kernel // 2)


DATA = variants.data_words(make_small)
NETWORKS = dict(b=b, krizhevsky=krizhevsky)
CHANGES = dict(variants.ABLATIONS, fc2048=dense_units(2048), fc8192=dense_units(8192))
