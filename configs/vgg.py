"""The models and the recipe of VGG (Simonyan and Zisserman 2014, arXiv:1409.1556).

    python -m alexnet_jax.main --config=configs/vgg.py            # model D (VGG-16) on ImageNet
    python -m alexnet_jax.main --config=configs/vgg.py:sample     # embedded images, minutes

The authors trained for two to three weeks on four GTX Titan Black (section 3.3). The words of the
variant, separated by commas, are one of the network and one of the data, then changes. Network,
with the layers of table 1 and the paper's errors (top-1 and top-5 on validation of ILSVRC-2012,
one scale, S = 256, table 3):

    A       11 layers           29.6 % and 10.4 %
    A_LRN   A, with response normalization  29.7 % and 10.5 %
    B       13 layers           28.7 % and  9.9 %
    C       16 layers, three of them 1×1    28.1 % and  9.4 %
    D       16 layers, the default          27.0 % and  8.8 %
    E       19 layers           27.3 % and  9.0 %

Data:

    (none)         imagenet2012 of TensorFlow Datasets, downloaded by hand; 74 epochs.
    imagenette     Ten easy classes of ImageNet, with the same model.
    sample         12,000 Fashion-MNIST images in the package, with a model for small images.
    fashion_mnist  All 70,000 of them from TensorFlow Datasets, with the model of the sample.
    cifar10        cifar10 of TensorFlow Datasets, with the model of the sample for color images.

Changes:

    normal_init    Draw initial weights from N(0, 0.1²), as section 3.1 has it.
    from_A         Take the first four convolutions of A and its fully-connected layers from the
                   run of A on the same data (section 3.1).
    conv5x5        Replace each pair of 3×3 convolutions of B by a 5×5 one (section 4.1; top-1 error
                   7 % higher).
    s384           Scale images to S = 384, and start from the run of the same model at S = 256
                   (section 3.1): D 26.8 % and 8.7 %, E 26.9 % and 8.7 %.
    jitter         Draw S from 256 … 512 for every image, and start from the run at S = 384;
                   evaluate at 384 (section 3.1): D 25.6 % and 8.1 %, E 25.5 % and 8.0 %; with
                   --views=dense_grid --scales=256,384,512 24.4 % and 7.2 %, 24.4 % and 7.1 %.
    caffe          Preprocess images as the weights published for Caffe need: BGR, given mean.
    torchvision    Preprocess images as torchvision's weights need: RGB in standard deviations.
    no_dropout, no_lighting, no_crops  See configs/variants.py.

By default initial weights are those of Glorot and Bengio, with which the authors found pretraining
to be unnecessary (section 3.1). Errors on ImageNet were not measured here.
"""

from alexnet_jax import command
from alexnet_jax.config import Config, ScheduleConfig, sequential_model
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.presets import VGG_CHANNELS, vgg_ops
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Op
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import variants


def get_config(variant: str = "") -> Config:
    """Return the config of model D on ImageNet, or a variant of it.

    Raises:
        InputError: see `variants.apply_variant`.
    """
    config = paper()
    variants.apply_variant(config, variant, DATA, CHANGES, NETWORKS)
    set_start(config, variant.split(","))
    return config


def paper() -> Config:
    """Return the config of section 3 for model D at S = 256."""
    return Config(
        batch_size=256,
        epochs=74,
        schedule=ScheduleConfig(rule="plateau"),
        data=DataConfig(mean="channel", resize="shorter_side"),
        model=SequentialConfig(init="glorot", ops=vgg_ops("D")),
    )


def network(letter: str) -> variants.Change:
    """Return the change to a model of table 1."""

    def change(config: Config) -> None:
        sequential_model(config).ops = vgg_ops(letter)

    return change


def a_lrn(config: Config) -> None:
    """Use model A with response normalization after its first convolution (table 1)."""
    ops: dict[str, Op] = {}
    for name, op in vgg_ops("A").items():
        ops[name] = op
        if name == "relu1_1":
            ops["norm1_1"] = LRN()
    sequential_model(config).ops = ops


def make_small(config: Config) -> None:
    """Change the model into one for images of 28 or 32 pixels.

    It has a quarter of the channels and a sixteenth of the units. Without the last two poolings
    activations are 24, 12, 6 and 3 pixels wide.
    """
    config.batch_size = 128
    config.epochs = 16
    config.checkpoint_every = 200
    config.learning_rate = 0.01
    config.schedule.rule = "epochs"
    config.schedule.drop_epochs = (12, 15)
    config.data.image_size = 28
    config.data.crop = 24
    config.data.resize = "crop"
    config.data.lighting = "none"
    model = sequential_model(config)
    model.channels = 1
    del model.ops["pool4"], model.ops["pool5"]
    for op in model.ops.values():
        if isinstance(op, Conv):
            op.features //= 4
        elif isinstance(op, Dense):
            op.features //= 16


def normal_init(config: Config) -> None:
    """Draw initial weights from N(0, 10⁻²): "zero mean and 10⁻² variance" (section 3.1)."""
    sequential_model(config).init = "normal"


def from_a(config: Config) -> None:
    """Take layers from the run of model A on the same data (section 3.1); see `set_start`.

    Which layers are "the first four convolutional layers" of a deeper model is not stated; here
    they are those of A by name, which have the same shapes in all models.
    """
    config.init_layers = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


def s384(config: Config) -> None:
    """Train at S = 384 from the run at S = 256, with a tenth of its rate (section 3.1).

    The model of the sample is trained at the size of its images only.

    Raises:
        InputError: the data are small images.
    """
    if config.data.image_size != 256:
        raise InputError("s384 scales images to 384 pixels, and those of these data are small")
    config.data.image_size = 384
    config.learning_rate /= 10


def jitter(config: Config) -> None:
    """Draw the scale S of every training image from 256 … 512 (section 3.1).

    The authors fine-tuned all layers of the model trained at S = 384. Small images are trained
    from the beginning, at scales between the size of the crop and that of the image.
    """
    data = config.data
    if data.image_size < 256:
        data.scale_jitter = (data.crop, data.image_size)
        return
    data.image_size, data.scale_jitter = 512, (256, 512)
    config.learning_rate = 0.001


def conv5x5(config: Config) -> None:
    """Replace pairs of 3×3 convolutions by one 5×5 convolution (section 4.1).

    Raises:
        InputError: the model is not B, whose blocks are such pairs.
    """
    ops = sequential_model(config).ops
    pairs = [name for name, op in ops.items() if isinstance(op, Conv) and name[-1] == "2"]
    if len(pairs) != len(VGG_CHANNELS) or any(name.endswith("_3") for name in ops):
        raise InputError("conv5x5 replaces the pairs of convolutions of model B; name B before it")
    for name in pairs:
        first = ops[name.replace("_2", "_1")]
        assert isinstance(first, Conv)
        first.kernel, first.padding = 5, (2, 2)
        del ops[name], ops[name.replace("conv", "relu")]


def preprocess_as(preset: Config) -> variants.Change:
    """Return the change to the preprocessing of a config for published weights.

    The change raises InputError for gray images.
    """

    def change(config: Config) -> None:
        if config.model.channels != 3:
            raise InputError(
                "caffe and torchvision are the preprocessing of color images, and those of these "
                "data are gray; leave the word out"
            )
        for name in ("channel_order", "mean", "given_mean", "std"):
            setattr(config.data, name, getattr(preset.data, name))

    return change


def set_start(config: Config, words: list[str]) -> None:
    """Start from the default workdir of the run before this one, if the words name a chain.

    With jitter it is the run that has s384 in its place, with s384 the run without this word, and
    with from_A alone the run of model A on the same data. The other words and their order, which
    the workdir's name follows, stay as they are.
    """
    if config.data.image_size > 256:
        if "jitter" in words:
            earlier = ["s384" if word == "jitter" else word for word in words if word != "s384"]
        else:
            earlier = [word for word in words if word != "s384"]
        config.init_layers = ()  # all, since from_A applies to the first run of the chain
    elif "from_A" in words:
        earlier = ["A" if word in NETWORKS else word for word in words if word in FIRST_WORDS]
        earlier += [] if "A" in earlier else ["A"]
    else:
        return
    config.init_from = command.workdir_of(f"vgg.py:{','.join(earlier)}")


DATA = variants.data_words(make_small)
NETWORKS = dict(A=network("A"), A_LRN=a_lrn, **{name: network(name) for name in "BCDE"})
FIRST_WORDS = {*DATA, *NETWORKS}
CHANGES = dict(
    normal_init=normal_init,
    from_A=from_a,
    s384=s384,
    jitter=jitter,
    conv5x5=conv5x5,
    caffe=preprocess_as(presets.caffe_vgg("D")),
    torchvision=preprocess_as(presets.torchvision_vgg("D")),
    **{word: variants.ABLATIONS[word] for word in ("no_dropout", "no_lighting", "no_crops")},
)
