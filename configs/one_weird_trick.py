"""torchvision's `alexnet`: its version of the single-column model of Krizhevsky 2014, "One weird
trick for parallelizing convolutional neural networks" (arXiv:1404.5997).

    python -m alexnet_jax.convert --input=alexnet-owt-7be5be79.pth --workdir=runs/torchvision
    python -m alexnet_jax.evaluate --workdir=runs/torchvision

This is not the model of the AlexNet paper, and its errors must not be compared with AlexNet's: it
has one column of 64, 192, 384, 256 and 256 channels, no response normalization and 61,100,840
parameters. torchvision reports 56.522 % top-1 and 79.066 % top-5 accuracy on ImageNet's validation
images, center view: errors of 43.5 % and 20.9 %. The weights are not in this repository, and the
conversion has been tested only on files of the same layout with random weights.

The recipe is that of torchvision's reference training: learning rate 0.01, divided by 10 every 30
of 90 epochs, and weight decay 0.0001. Unlike here, torchvision also draws the scale of crops at
random, and draws initial values from uniform distributions.
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
