"""torchvision's `alexnet`: the single-column network of Krizhevsky 2014, "One weird trick for
parallelizing convolutional neural networks" (arXiv:1404.5997), as torchvision has it.

    python -m alexnet_jax.convert --input=alexnet-owt-7be5be79.pth --workdir=runs/torchvision
    python -m alexnet_jax.evaluate --workdir=runs/torchvision

This is another network than the paper's, and never to be compared as "AlexNet": one column of
64, 192, 384, 256 and 256 channels, no response normalization, 61,100,840 parameters. torchvision
reports 56.522 % top-1 and 79.066 % top-5 accuracy on ImageNet's validation images, centre view:
errors of 43.5 % and 20.9 %. Its weights are not in this repository, and the conversion was run on
files of the same layout with random weights only.

The recipe is that of torchvision's reference training: rate 0.01, ÷ 10 every 30 of 90 epochs,
decay of 0.0001. Two things differ: it crops and scales at random where crops here have one scale,
and it draws initial values uniformly.
"""

from alexnet_jax.config import Config
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError


def get_config(variant: str = "") -> Config:
    """Return the config of torchvision's alexnet; it has no variants.

    Raises:
        InputError: a variant is given.
    """
    if variant:
        raise InputError(f"unknown variant {variant!r}; known: none")
    return presets.torchvision_alexnet()
