"""Caffe's replica of the net, `models/bvlc_alexnet` of BVLC's Caffe (2014).

    python -m alexnet_jax.convert --input=bvlc_alexnet.caffemodel --workdir=runs/bvlc
    python -m alexnet_jax.evaluate --workdir=runs/bvlc

Its weights come as `bvlc_alexnet.caffemodel` or as `bvlcalexnet` of the ONNX model zoo. Caffe's
readme reports 57.1 % top-1 and 80.2 % top-5 accuracy on validation, centre view: errors of 42.9 %
and 19.8 %. They are not in this repository, and the conversion was run on files of the same
layout with random weights only.

What differs from the paper is the field that differs here from `configs/alexnet.py`: crops of 227
without padding, LRN over all maps with k = 1 and alpha / n, inverted dropout, biases of 0.1,
squashed images in BGR, no colour noise, and biases at twice the rate and without decay
(train_val.prototxt). The rate is 0.01, divided by ten every 100,000 of 450,000 batches of 256
(solver.prototxt): in epochs of 1,281,167 images, at the starts of the 21st, 41st, 61st and 81st,
rounded to whole ones, until the 90th ends; Caffe's weights are those after 360,000 batches. It
trained with a mean image, which `--mean=imagenet_mean.binaryproto` takes over; without that the
mean of its channels is taken.
"""

from ml_collections import ConfigDict

from configs.alexnet import paper

BIASES = ("conv2", "conv4", "conv5", "fc6", "fc7")


def get_config(variant: str = "") -> ConfigDict:
    """The config of bvlc_alexnet; it has no variants."""
    if variant:
        raise ValueError(f"unknown variant {variant!r}; known: none")
    config = paper()
    config.batch_size = 256
    config.decay_biases = False
    config.schedule.drop_epochs = (21, 41, 61, 81)
    config.schedule.multipliers = (("bias", 1, 2.0),)
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
