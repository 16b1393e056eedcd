"""Decide from what a file contains which program's preprocessing its weights need.

The configs to choose from are those of `presets`. If the file does not determine it, --config
is required.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import ForeignModel
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import Conv, Dense, Dropout, MaxPool, Op, parameter_ops, spatial_sizes


@dataclass(frozen=True)
class OnnxTraits:
    """What an ONNX file states of where its weights come from.

    Attributes:
        producer: name of the program that wrote the file; "" if it is not stated.
        has_lrn: whether the model has response normalization.
        groups: largest number of groups of a convolution.
        kernels: side of the kernels of every layer with weights, 0 for fully-connected layers.
    """

    producer: str
    has_lrn: bool
    groups: int
    kernels: tuple[int, ...]

    def fit(self, config: Config) -> bool:
        """Return whether the layers with weights are those of a config."""
        ops = (op for _, op in parameter_ops(sequential_model(config).ops))
        return self.kernels == tuple(op.kernel if isinstance(op, Conv) else 0 for op in ops)


def choose_by_traits(path: Path, traits: OnnxTraits) -> tuple[Config, str]:
    """Return the config for an ONNX file and the name of the model that it is for.

    LRN and two groups are Caffe's AlexNet, unless a program other than Caffe's converter exported
    it, which may have trained it otherwise. VGG's layers from that converter are the authors'
    weights for Caffe. A model of PyTorch's is torchvision's if `check_chosen` finds torchvision's
    layers.

    Raises:
        InputError: the preprocessing cannot be known from the file.
    """
    by_caffe = "caffe" in traits.producer.lower()
    if traits.has_lrn and traits.groups == 2 and (by_caffe or not traits.producer):
        return presets.bvlc_alexnet(), "Caffe's AlexNet"
    candidates: dict[str, Config] = {}
    if by_caffe:
        candidates = _caffes_vgg()
    elif traits.producer == "pytorch":
        candidates = {f"torchvision's {name}": make() for name, make in presets.TORCHVISION.items()}
    if not traits.has_lrn and traits.groups == 1:
        for name, config in candidates.items():
            if traits.fit(config):
                return config, name
    raise _unknown_preprocessing(path, traits)


def check_chosen(path: Path, traits: OnnxTraits, config: Config, ops: Mapping[str, Op]) -> None:
    """Raise InputError if `choose_by_traits` took a model for one with other layers.

    Args:
        path: the file.
        traits: what the file states.
        config: the chosen config.
        ops: the ops of the file.
    """
    if not traits.has_lrn and not _same_geometry(ops, sequential_model(config).ops):
        raise _unknown_preprocessing(path, traits)


def choose_for_caffe(path: Path, foreign: ForeignModel | BranchedModel) -> Config:
    """Return the config for a `.caffemodel`: for chains of ops VGG's, or else AlexNet's.

    The program prints which, unless the ops are AlexNet's.

    Raises:
        InputError: see `choose_for_branches`.
    """
    if isinstance(foreign, BranchedModel):
        return choose_for_branches(path, foreign.model, "Caffe", "its layers")
    ops = foreign.ops
    for name, config in _caffes_vgg().items():
        if _same_geometry(ops, sequential_model(config).ops):
            print_choice(path, name, "its layers")
            return config
    config = presets.bvlc_alexnet()
    if not _same_geometry(ops, sequential_model(config).ops):
        print_choice(path, "Caffe's AlexNet", "its format, though its layers are others")
    return config


def choose_for_branches(path: Path, model: ModelConfig, writer: str, kind: str) -> Config:
    """Return the config for GoogLeNet or a residual network in a Caffe or ONNX file.

    Weights in files of Caffe, or of Caffe's converter, are taken for those of BVLC's GoogLeNet and
    of the residual networks of the paper's authors if they have the same layers. Those in files of
    PyTorch are taken for torchvision's residual networks; how torchvision's googlenet normalizes
    images depends on an option that the file does not state.

    Args:
        path: the file.
        model: config of the model in it.
        writer: name of the program that wrote the file; "" if it is not stated.
        kind: by what the choice is made, for the message.

    Raises:
        InputError: the preprocessing cannot be known from the file.
    """
    candidates: dict[str, Config] = {}
    if "caffe" in writer.lower():
        candidates = {name: make() for name, make in presets.CAFFE_BRANCHED.items()}
    elif writer == "pytorch":
        candidates = {
            f"torchvision's {name}": presets.torchvision_resnet(block, *sizes)
            for (block, sizes), name in presets.TORCHVISION_RESNETS.items()
        }
    for name, config in candidates.items():
        if _layers_of(model) == _layers_of(config.model):
            print_choice(path, name, kind)
            return config
    raise InputError(
        f"{path} does not state the preprocessing of its images, and is neither Caffe's GoogLeNet, "
        "nor the ResNet-50, 101 or 152 of the paper's authors for Caffe, nor torchvision's resnet "
        f"(written by {writer[:60] or 'an unnamed program'!r}); give it with --config=FILE, such "
        "as configs/googlenet.py or configs/resnet.py, and --config.data.mean=given with "
        "--config.data.given_mean"
    )


def _layers_of(model: ModelConfig) -> tuple[object, ...]:
    """Return what distinguishes the layers of branched models, without numbers of features.

    The rounding of pooling is left out for GoogLeNet: the weights are the same.
    """
    if isinstance(model, GoogLeNetConfig):
        return (model.stem, model.normalization, model.large_kernel, model.pool4_window)
    assert isinstance(model, ResNetConfig)
    stride_in = model.stride_in if model.block == "bottleneck" else ""
    kinds = (model.block, model.shortcut, stride_in)
    return (model.stem, model.pool_padding, model.stage_sizes, *kinds)


def torchvision_name(config: Config) -> str:
    """Return the name that torchvision has for a model with the ops of a config.

    Numbers of channels, units and classes may differ from torchvision's.

    Raises:
        InputError: torchvision has no such model.
    """
    model = sequential_model(config)
    for name, make in presets.TORCHVISION.items():
        preset = make()
        ops = sequential_model(preset).ops
        if not _same_geometry(model.ops, ops):
            continue
        crop = config.data.crop
        ours, theirs = ([*spatial_sizes(o, crop).values()] for o in (model.ops, ops))
        sides = [*spatial_sizes(ops, preset.data.crop).values()]
        if ours != theirs or ours[-1] != sides[-1]:
            break
        for op_name, op in model.ops.items():
            if isinstance(op, Dropout) and not op.inverted:
                raise InputError(
                    f"{op_name} multiplies activations at test time, which torchvision's {name} "
                    "does not; expected dropout with inverted=True"
                )
        return name
    raise InputError(
        "the model has other layers or sizes than torchvision's models, "
        f"{', '.join(presets.TORCHVISION)}; expected one of these, or --output=FILE.onnx or "
        "FILE.safetensors without --names"
    )


def print_choice(path: Path, program: str, reason: str) -> None:
    """Print whose preprocessing a file is read with, and by what the file is recognized."""
    print(
        f"{path}: preprocessing as for {program}, by {reason}; --config=FILE states another.",
        file=sys.stderr,
    )


def _caffes_vgg() -> dict[str, Config]:
    """Return the configs of VGG's models for Caffe by their names in messages."""
    return {f"Caffe's VGG, model {x}": presets.caffe_vgg(x) for x in presets.VGG_KERNELS}


def _same_geometry(ops: Mapping[str, Op], others: Mapping[str, Op]) -> bool:
    """Return whether two models have the same ops but for dropout and numbers of features."""
    return _geometry(ops) == _geometry(others)


def _geometry(ops: Mapping[str, Op]) -> list[object]:
    """Return the types, windows and strides of ops, without numbers of features and dropout.

    The rounding of pooling is left out: sizes show where it matters.
    """
    found: list[object] = []
    for op in ops.values():
        if isinstance(op, Conv):
            found.append((op.kernel, op.stride, op.padding, op.groups))
        elif isinstance(op, MaxPool):
            found.append((op.window, op.stride))
        elif isinstance(op, Dense):
            found.append((Dense, op.groups))
        elif not isinstance(op, Dropout):
            found.append(type(op))
    return found


def _unknown_preprocessing(path: Path, traits: OnnxTraits) -> InputError:
    """Return the error for a file whose preprocessing is not known."""
    return InputError(
        f"{path} does not state the preprocessing of its images, and is neither Caffe's AlexNet or "
        f"VGG nor torchvision's (written by {traits.producer[:60] or 'an unnamed program'!r}, "
        f"{'with' if traits.has_lrn else 'without'} LRN, {traits.groups} groups of channels); give "
        "it with --config=FILE, such as configs/bvlc_alexnet.py (BGR, mean subtracted) or "
        "configs/one_weird_trick.py (RGB in standard deviations)"
    )
