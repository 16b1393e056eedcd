"""torchvision's `alexnet`: the single-column net of Krizhevsky 2014, "One weird trick for
parallelizing convolutional neural networks" (arXiv:1404.5997), as torchvision has it.

    python -m alexnet_jax.convert --input=alexnet-owt-7be5be79.pth --workdir=runs/torchvision
    python -m alexnet_jax.evaluate --workdir=runs/torchvision

This is another net than the paper's, and never to be compared as "AlexNet": one column of
64, 192, 384, 256 and 256 maps, no response normalisation, 61,100,840 parameters. torchvision
reports 56.522 % top-1 and 79.066 % top-5 accuracy on ImageNet's validation images, centre view:
errors of 43.5 % and 20.9 %. Its weights are not in this repository, and the conversion was run on
files of the same layout with random weights only.

The recipe is that of torchvision's reference training: rate 0.01, ÷ 10 every 30 of 90 epochs,
decay of 0.0001. Two things differ: it crops and scales at random where crops here have one scale,
and it draws initial values uniformly.
"""

from ml_collections import ConfigDict

from configs.alexnet import conv, dense, paper

POOL = ("relu", "pool_floor")


def get_config(variant: str = "") -> ConfigDict:
    """The config of torchvision's alexnet; it has no variants."""
    if variant:
        raise ValueError(f"unknown variant {variant!r}; known: none")
    config = paper()
    config.weight_decay = 0.0001
    config.schedule.drop_epochs = (31, 61)
    config.data.lighting = "none"
    # torchvision's normalisation, in units of 0…255: x / 255, then minus mean, divided by std.
    config.data.mean = "given"
    config.data.given_mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    config.data.std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
    config.model.columns = 1
    config.model.init = "scaled"
    config.model.inverted_dropout = True
    config.model.layers = ConfigDict(
        dict(
            conv1=conv(64, 11, stride=4, padding=(2, 2), after=POOL),
            conv2=conv(192, 5, padding=(2, 2), after=POOL),
            conv3=conv(384, 3),
            conv4=conv(256, 3),
            conv5=conv(256, 3, after=(*POOL, "dropout")),
            fc6=dense(4096, bias=0.0),
            fc7=dense(4096, bias=0.0, after=("relu",)),
            fc8=dense(0, bias=0.0, after=()),
        )
    )
    return config
