"""Caffe's replica of the net, `models/bvlc_alexnet` of BVLC's Caffe (2014).

    python -m alexnet_jax.convert --input=bvlc_alexnet.caffemodel --workdir=runs/bvlc
    python -m alexnet_jax.evaluate --workdir=runs/bvlc

Its weights come as `bvlc_alexnet.caffemodel` or as `bvlcalexnet` of the ONNX model zoo. Caffe's
readme reports 57.1 % top-1 and 80.2 % top-5 accuracy on validation, centre view: errors of 42.9 %
and 19.8 %. They are not in this repository, and the conversion was run on files of the same
layout with random weights only.

What differs from the paper is the field that differs here from `configs/alexnet.py`: crops of 227
without padding, LRN over all maps with k = 1 and alpha / n, inverted dropout, biases of 0.1,
squashed images in BGR, no colour noise. Caffe's solver also trains biases at twice the rate and
without decay; this config, which is for training on from such weights, does not.
"""

from ml_collections import ConfigDict

from configs.alexnet import paper

BIASES = ("conv2", "conv4", "conv5", "fc6", "fc7")


def get_config(variant: str = "") -> ConfigDict:
    """The config of bvlc_alexnet; it has no variants."""
    if variant:
        raise ValueError(f"unknown variant {variant!r}; known: none")
    config = paper()
    config.data.crop = 227
    config.data.resize = "squash"
    config.data.channel_order = "bgr"
    config.data.lighting = "none"
    config.data.mean = "given"
    # Of ilsvrc_2012_mean.npy, which comes with Caffe; it lists them as B, G, R.
    config.data.given_mean = (122.67891434, 116.66876762, 104.00698793)
    config.model.inverted_dropout = True
    config.model.lrn.k = 1.0
    config.model.lrn.alpha_over_size = True
    config.model.lrn.across_columns = True
    config.model.layers.conv1.padding = (0, 0)
    for name in BIASES:
        config.model.layers[name].bias = 0.1
    for name in ("fc6", "fc7"):
        config.model.layers[name].std = 0.005
    return config
