"""Configs for weights of other programs, with their models, preprocessing and recipes.

Caffe and ONNX files contain the model but not the preprocessing of images; a state dict of PyTorch
contains arrays only. configs/bvlc_alexnet.py and configs/one_weird_trick.py offer these configs
for training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax.config import Config, DataConfig, OptimizerConfig, ScheduleConfig
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, Op, ReLU, SequentialConfig


def bvlc_alexnet() -> Config:
    """Return the config of Caffe's models/bvlc_alexnet (train_val.prototxt, solver.prototxt)."""
    return Config(
        batch_size=256,
        optimizer=OptimizerConfig(decay_multipliers=((".*/bias", 0.0),)),
        schedule=ScheduleConfig(drop_epochs=(21, 41, 61, 81), multipliers=((".*/bias", 1, 2.0),)),
        data=DataConfig(
            crop=227,
            resize="squash",
            channel_order="bgr",
            lighting="none",
            mean="given",
            # Mean of each channel of ilsvrc_2012_mean.npy of Caffe, which is in the order B, G, R.
            given_mean=(122.67891434, 116.66876762, 104.00698793),
        ),
        model=SequentialConfig(num_columns=2, ops=bvlc_ops()),
    )


def bvlc_ops() -> dict[str, Op]:
    """Return the ops of bvlc_alexnet."""

    def norm() -> LRN:
        return LRN(k=1.0, alpha_over_size=True, across_columns=True)

    def drop() -> Dropout:
        return Dropout(inverted=True)

    return dict(
        conv1=Conv(96, kernel=11, stride=4),
        relu1=ReLU(), norm1=norm(), pool1=MaxPool(),
        conv2=Conv(256, kernel=5, padding=(2, 2), groups=2, bias=0.1),
        relu2=ReLU(), norm2=norm(), pool2=MaxPool(),
        conv3=Conv(384, kernel=3, padding=(1, 1)),
        relu3=ReLU(),
        conv4=Conv(384, kernel=3, padding=(1, 1), groups=2, bias=0.1),
        relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1), groups=2, bias=0.1),
        relu5=ReLU(), pool5=MaxPool(),
        fc6=Dense(4096, std=0.005, bias=0.1), relu6=ReLU(), drop6=drop(),
        fc7=Dense(4096, std=0.005, bias=0.1), relu7=ReLU(), drop7=drop(),
        fc8=Dense(0),
    )  # fmt: skip


def torchvision_alexnet() -> Config:
    """Return the config of torchvision's `alexnet` with the recipe of its reference training."""
    return Config(
        optimizer=OptimizerConfig(weight_decay=0.0001),
        schedule=ScheduleConfig(drop_epochs=(31, 61)),
        # torchvision's normalization of x / 255, with mean and std in units of 0…255.
        data=DataConfig(
            lighting="none",
            mean="given",
            given_mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
            std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        ),
        model=SequentialConfig(init="scaled", ops=torchvision_ops()),
    )


def torchvision_ops() -> dict[str, Op]:
    """Return the ops of torchvision's version of Krizhevsky 2014, "One weird trick"."""

    def pool() -> MaxPool:
        return MaxPool(ceil_mode=False)

    def drop() -> Dropout:
        return Dropout(inverted=True)

    return dict(
        conv1=Conv(64, kernel=11, stride=4, padding=(2, 2)), relu1=ReLU(), pool1=pool(),
        conv2=Conv(192, kernel=5, padding=(2, 2)), relu2=ReLU(), pool2=pool(),
        conv3=Conv(384, kernel=3, padding=(1, 1)), relu3=ReLU(),
        conv4=Conv(256, kernel=3, padding=(1, 1)), relu4=ReLU(),
        conv5=Conv(256, kernel=3, padding=(1, 1)), relu5=ReLU(), pool5=pool(), drop5=drop(),
        fc6=Dense(4096), relu6=ReLU(), drop6=drop(),
        fc7=Dense(4096), relu7=ReLU(),
        fc8=Dense(0),
    )  # fmt: skip


@dataclass(frozen=True)
class OnnxTraits:
    """What an ONNX file states of where its weights come from.

    Attributes:
        producer: name of the program that wrote the file; "" if it is not stated.
        has_lrn: whether the model has response normalization.
        groups: largest number of groups of a convolution.
    """

    producer: str
    has_lrn: bool
    groups: int


def choose_by_traits(path: Path, traits: OnnxTraits) -> tuple[Config, str]:
    """Return the config for an ONNX file and the name of the model that it is for.

    LRN and two groups are Caffe's AlexNet, unless a program other than Caffe's converter exported
    it, which may have trained it otherwise. A model without both is torchvision's, if PyTorch
    exported it and `check_chosen` finds torchvision's layers.

    Raises:
        InputError: the preprocessing cannot be known from the file.
    """
    of_caffe = not traits.producer or "caffe" in traits.producer.lower()
    if traits.has_lrn and traits.groups == 2 and of_caffe:
        return bvlc_alexnet(), "Caffe's AlexNet"
    if not traits.has_lrn and traits.groups == 1 and traits.producer == "pytorch":
        return torchvision_alexnet(), "torchvision's alexnet"
    raise _unknown_preprocessing(path, traits)


def check_chosen(path: Path, traits: OnnxTraits, ops: Mapping[str, Op]) -> None:
    """Raise InputError if `choose_by_traits` took a model with other layers for torchvision's.

    Args:
        path: the file.
        traits: what the file states.
        ops: the ops of the file.
    """
    if not traits.has_lrn and _geometry(ops) != _geometry(torchvision_ops()):
        raise _unknown_preprocessing(path, traits)


def _geometry(ops: Mapping[str, Op]) -> list[object]:
    """Return the types, windows and strides of ops, without numbers of features and dropout."""
    found: list[object] = []
    for op in ops.values():
        if isinstance(op, Conv):
            found.append((op.kernel, op.stride, op.padding))
        elif not isinstance(op, Dropout):
            found.append(op if isinstance(op, MaxPool) else type(op))
    return found


def _unknown_preprocessing(path: Path, traits: OnnxTraits) -> InputError:
    """Return the error for a file whose preprocessing is not known."""
    return InputError(
        f"{path} does not state the preprocessing of its images, and is neither Caffe's AlexNet "
        f"nor torchvision's (written by {traits.producer[:60] or 'an unnamed program'!r}, "
        f"{'with' if traits.has_lrn else 'without'} LRN, {traits.groups} groups of channels); give "
        "it with --config=FILE, such as configs/bvlc_alexnet.py (BGR, mean subtracted) or "
        "configs/one_weird_trick.py (RGB in standard deviations)"
    )
