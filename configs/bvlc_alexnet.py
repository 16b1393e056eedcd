"""Caffe's replica of the network, `models/bvlc_alexnet` of BVLC's Caffe (2014).

    python -m alexnet_jax.convert --input=bvlc_alexnet.caffemodel --workdir=runs/bvlc
    python -m alexnet_jax.evaluate --workdir=runs/bvlc

Its weights come as `bvlc_alexnet.caffemodel` or as `bvlcalexnet` of the ONNX model zoo. Caffe's
readme reports 57.1 % top-1 and 80.2 % top-5 accuracy on validation, centre view: errors of 42.9 %
and 19.8 %. They are not in this repository, and the conversion was run on files of the same
layout with random weights only.

What differs from the paper is the field that differs here from `configs/alexnet.py`: crops of 227
without padding, LRN over all channels with k = 1 and alpha / n, inverted dropout, biases of 0.1,
squashed images in BGR, no color noise, and biases at twice the rate and without decay
(train_val.prototxt). The rate is 0.01, divided by ten every 100,000 of 450,000 batches of 256
(solver.prototxt): in epochs of 1,281,167 images, at the starts of the 21st, 41st, 61st and 81st,
rounded to whole ones, until the 90th ends; Caffe's weights are those after 360,000 batches. It
trained with a mean image, which `--mean=imagenet_mean.binaryproto` takes over; without that the
mean of its channels is taken.
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
