"""Caffe's replica of AlexNet, `models/bvlc_alexnet` of BVLC's Caffe (2014).

    python -m alexnet_jax.convert --input=bvlc_alexnet.caffemodel --workdir=runs/bvlc
    python -m alexnet_jax.evaluate --workdir=runs/bvlc

The weights are available as `bvlc_alexnet.caffemodel` and as `bvlcalexnet` of the ONNX model zoo.
Caffe's readme reports 57.1 % top-1 and 80.2 % top-5 accuracy on validation, center view: errors
of 42.9 % and 19.8 %. The weights are not in this repository, and the conversion has been tested
only on files of the same layout with random weights.

The config differs from `configs/alexnet.py` as Caffe's replica differs from the paper: crops of
227 pixels without padding, LRN across columns with k = 1 and alpha / n, inverted dropout, biases
of 0.1, squashed images in BGR, no color noise, and biases with twice the learning rate and without
decay (train_val.prototxt). The learning rate is 0.01, divided by ten every 100,000 of 450,000
batches of 256 (solver.prototxt). In epochs of 1,281,167 images, rounded, these drops are at the
starts of epochs 21, 41, 61 and 81 of 90. Caffe's published weights are those after 360,000
batches. Caffe subtracted a mean image, which `convert --mean=imagenet_mean.binaryproto` reads;
without it the mean of each channel is used.
"""

from alexnet_jax.config import Config
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError


def get_config(variant: str = "") -> Config:
    """Return the config of bvlc_alexnet; it has no variants.

    Raises:
        InputError: a variant is given.
    """
    if variant:
        raise InputError(f"unknown variant {variant!r}; known: none")
    return presets.bvlc_alexnet()
