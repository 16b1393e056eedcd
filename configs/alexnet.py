"""The network and the recipe of the paper (Krizhevsky, Sutskever, Hinton, NIPS 2012).

    python -m alexnet_jax.main --config=configs/alexnet.py            # ImageNet, ILSVRC-2012
    python -m alexnet_jax.main --config=configs/alexnet.py:sample     # embedded images, minutes

VARIANT, after the colon, is the data's word, an ablation's, or several separated by commas
(sample,one_column). Data:

    (none)         TensorFlow Datasets' imagenet2012, prepared by hand; 90 epochs.
                   The paper's errors: 40.7 % top-1 and 18.2 % top-5 on validation, ten views.
    imagenette     ten easy classes of ImageNet, the same net.
    sample         12,000 Fashion-MNIST images inside the package, a net of their size.
    fashion_mnist  all 70,000 of them from TensorFlow Datasets, the sample's net.
    cifar10        TensorFlow Datasets' cifar10, the sample's net on colour.

The ablations are those of configs/variants.py, the same for every config: no_lrn, lrn_conv5,
no_overlap, one_column, no_communication, conv6, no_conv2 … no_conv5, tanh, no_dropout,
no_lighting, no_crops; and, before these, four_layers, the net of figure 1.

Other data: --config.data.name=folder --config.data.dir=DIR (a folder of class folders),
--config.data.name=idx (IDX files), or the name of any TensorFlow Datasets classification set.
"""

from ml_collections import ConfigDict

from configs import variants

LRN_POOL = ("relu", "lrn", "pool")


def get_config(variant: str = "") -> ConfigDict:
    """The paper's config, or that of a variant."""
    config = paper()
    variants.apply(config, variant, DATA, variants.ABLATIONS)
    return config


def paper() -> ConfigDict:
    """Sections 3 to 5 of the paper; a field's section stands beside it."""
    config = ConfigDict()
    config.seed = 0
    config.init_from = ""  # the workdir of a run whose parameters to start from
    config.init_layers = ()  # which of its layers; () = all whose shapes fit
    config.batch_size = 128  # 5
    config.epochs = 90  # 5: "roughly 90 cycles through the training set"
    config.max_steps = 0  # stop earlier; 0 = do not
    config.learning_rate = 0.01  # 5
    config.momentum = 0.9  # 5
    config.weight_decay = 0.0005  # 5
    config.decay_biases = True  # 5 does not spare them
    config.schedule = ConfigDict(
        dict(
            rule="epochs",  # or "plateau": when the validation error stops improving
            factor=0.1,  # 5: "divide the learning rate by 10"
            drop_epochs=(25, 51, 79),  # rule "epochs": the 2012 program's, rounded; 5: three times
            patience=3,  # rule "plateau": validations without a better error
            drops=3,  # rule "plateau": drops at the most
            # (name, epoch, factor): the rate of a layer, of all kernels or biases, or of
            # "fc8/kernel", is multiplied from that epoch on, counted from 1.
            # (("fc8", 1, 10.0),) lets a new fc8 learn faster.
            multipliers=(),  # 5: "an equal learning rate for all layers"
        )
    )
    config.compute_dtype = "float32"  # or "bfloat16"; parameters stay float32
    config.evaluate_every = 1  # epochs between errors on the validation split
    config.checkpoint_every = 1000  # steps
    config.keep_checkpoints = 3
    config.log_every = 50  # steps
    config.parallel = ConfigDict(
        dict(
            columns=1,  # devices that share the columns; 2 in the paper
            data=1,  # such groups of devices, which share the batch
            scheme="columns",  # 3.5; "one_weird_trick" (Krizhevsky 2014): see the README
        )
    )
    config.data = ConfigDict(
        dict(
            name="imagenet2012",
            dir="",  # of the source: TensorFlow Datasets' data_dir, a folder, IDX files
            pack_dir="",  # where the prepared pack lies; "" = a cache folder
            image_size=256,  # 2: the shorter side, then the central square
            resize="crop",  # 2; "squash" scales each side to image_size, as for Caffe's weights
            jpeg_quality=95,
            jpeg_subsampling="4:4:4",
            max_bad_share=0.001,  # unreadable images, as a share of the split, before stopping
            validation_share=0.1,  # of the training images, where a source has no validation split
            test_share=0.1,  # of a folder without splits
            split_seed=0,
            crop=224,  # 4.1
            random_crop=True,
            flip=True,
            crop_chunk=1,  # images that follow one another and share a crop and a flip
            lighting="paper",  # 4.1; "source2012" scales by the standard deviations; "none"
            lighting_std=0.1,  # 4.1
            lighting_divisor=1.0,  # of the pixels, as long as there is lighting
            lighting_end=0,  # epoch, counted from 1, at whose start it ends; 0 = it does not
            mean="image",  # 2: per pixel, under the crop; "center", "channel", "given" or "none"
            given_mean=(),  # mean "given": one number a channel (R, G, B), whatever the images
            scale=1.0,  # inputs are multiplied by this after the mean is subtracted
            std=(1.0,),  # and divided by this: one number, or one a channel (R, G, B)
            channel_order="rgb",  # of the inputs; "bgr" for Caffe's weights
        )
    )
    config.model = ConfigDict(
        dict(
            columns=2,
            channels=3,
            classes=0,  # 0 = as the data has
            dropout=0.5,  # 4.2
            inverted_dropout=False,  # 4.2: at test "multiply their outputs by 0.5"
            init="normal",  # 5: N(0, std²); "scaled": N(0, 2 / inputs), for narrow nets
            lrn=dict(  # 3.3
                size=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_size=False, across_columns=False
            ),
            # Of the step "map_norm", which the 2012 program has in layer 2 and the paper nowhere.
            map_norm=dict(size=5, k=1.0, alpha=1e-3, beta=0.75, alpha_over_size=True),
            pool=dict(window=3, stride=2),  # 3.4
            layers=dict(  # 3.5; features are those of all columns together
                conv1=conv(96, 11, stride=4, padding=(0, 3), after=LRN_POOL),
                conv2=conv(256, 5, padding=(2, 2), bias=1.0, after=LRN_POOL),
                conv3=conv(384, 3, sees="both"),
                conv4=conv(384, 3, bias=1.0),
                conv5=conv(256, 3, bias=1.0, after=("relu", "pool")),
                fc6=dense(4096),
                fc7=dense(4096),
                fc8=dense(0, bias=0.0, after=()),  # 0 = classes
            ),
        )
    )
    return config


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
    sees: str = "own",
    std: float = 0.01,
    bias: float = 0.0,
    after: tuple[str, ...] = ("relu",),
) -> dict:
    """A convolution, with what follows it in order; section 5 gives std and bias."""
    return dict(
        features=features,
        kernel=kernel,
        stride=stride,
        padding=padding,
        sees=sees,
        std=std,
        bias=bias,
        after=after,
    )


def dense(
    features: int,
    *,
    std: float = 0.01,
    bias: float = 1.0,
    after: tuple[str, ...] = ("relu", "dropout"),
) -> dict:
    """A fully-connected layer, with what follows it in order."""
    return dict(features=features, sees="both", std=std, bias=bias, after=after)


def make_small(config: ConfigDict) -> None:
    """Turn the paper's config into one for images of 28 or 32 pixels."""
    config.epochs = 16
    config.checkpoint_every = 200
    config.learning_rate = 0.03
    config.schedule.drop_epochs = (12, 15)
    config.data.image_size = 28
    config.data.crop = 26
    config.data.scale = 1 / 64  # with scaled kernels every layer's signal is near 1
    config.model.lrn.alpha = 0.4  # the paper's 1e-4 × 64²: as strong as on inputs of 0…255
    config.model.map_norm.alpha = 4.0
    config.data.lighting = "none"
    config.model.channels = 1
    config.model.init = "scaled"
    for name, features, kernel in (
        *(("conv1", 32, 5), ("conv2", 64, 5), ("conv3", 96, 3), ("conv4", 96, 3), ("conv5", 64, 3)),
        *(("fc6", 512, 0), ("fc7", 512, 0)),
    ):
        layer = config.model.layers[name]
        layer.update(features=features, bias=0.0)
        if kernel:
            layer.update(kernel=kernel, stride=1, padding=(kernel // 2, kernel // 2))


def imagenette(config: ConfigDict) -> None:
    """Ten classes of ImageNet."""
    config.data.name = "imagenette"


def sample(config: ConfigDict) -> None:
    """The embedded images."""
    make_small(config)
    config.data.name = "sample"


def fashion_mnist(config: ConfigDict) -> None:
    """The data set that the embedded images are taken from."""
    make_small(config)
    config.data.name = "fashion_mnist"


def cifar10(config: ConfigDict) -> None:
    """Small images in colour."""
    make_small(config)
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.model.channels = 3
    config.data.lighting = "paper"


DATA = dict(imagenette=imagenette, sample=sample, fashion_mnist=fashion_mnist, cifar10=cifar10)
