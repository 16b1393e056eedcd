"""Residual networks for CIFAR-10 in state dicts of PyTorch programs other than torchvision.

A shortcut without parameters (option A of He et al. 2015, section 4.1) adds channels of zeros where
a block has more channels than the one before it. Here the zeros come after the other channels, as
in fb.resnet.torch and in D-X-Y's program; in akamaster's half of them come before and half after.
That is the same model with its channels in another order, so they are reordered.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeGuard

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.pytorch.resnet_names import AKAMASTER, DXY, ResNetNames
from alexnet_jax.conversion.pytorch.torchvision_branched import ShapeOf, conv_shape, count_classes
from alexnet_jax.conversion.weights_by_name import shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.models.model_config import ModelConfig

# Mean and standard deviation with which the programs normalize images, 0…255.
PREPROCESSING = {
    # ImageNet's, in trainer.py.
    AKAMASTER: (presets.IMAGENET_MEAN, presets.IMAGENET_STD),
    # CIFAR-10's, in main.py, as in datasets/cifar10.lua of fb.resnet.torch.
    DXY: ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
}


def choose_config(
    path: Path, names: ResNetNames, tensors: Collection[str], shape_of: ShapeOf
) -> Config:
    """Return the config of a program's residual network for CIFAR-10.

    Numbers of channels, filters, blocks and classes are read from the file, and so is whether
    shortcuts are projections.

    Args:
        path: the file, for messages.
        names: the names of the program.
        tensors: names of the tensors, without prefixes.
        shape_of: function from a name to the shape of its tensor.

    Raises:
        InputError: the program has no such model.
    """
    block = re.escape(names.block).replace(r"\{\}", r"(\d+)") + re.escape(f".{names.convs[0]}")
    stages = Counter(m[1] for name in tensors if (m := re.fullmatch(rf"{block}\.weight", name)))
    if sorted(stages) != ["1", "2", "3"]:
        raise InputError(
            f"{path} is a residual network with {names.program}'s names and the stages "
            f"{shown(sorted(stages))}; expected 1 to 3, or the model and the preprocessing in "
            "--config=FILE"
        )
    shortcut = f"{names.block.format(2, 0)}.{names.shortcut[0]}.weight"
    width, channels = conv_shape(path, f"{names.stem[0]}.weight", 3, shape_of)
    model = ResNetConfig(
        channels=channels,
        num_classes=count_classes(path, names.classifier, shape_of),
        stem="small",
        width=width,
        stage_sizes=tuple(stages[stage] for stage in sorted(stages)),
        block="basic",
        shortcut="B" if shortcut in tensors else "A",
    )
    return presets.cifar_resnet(model, *PREPROCESSING[names])


def check_writable(model: ModelConfig, names: ResNetNames) -> None:
    """Raise InputError unless a program's modules compute a model with its tensors.

    Numbers of channels, filters, blocks and classes may differ from those of its models.
    """
    if not isinstance(model, ResNetConfig):
        raise InputError(
            f"--names={names.program} is for residual networks; the model is a "
            f"{type(model).__name__}"
        )
    shortcuts = ("A", "B") if names is AKAMASTER else ("A",)
    for field, value, expected in (
        ("stem", model.stem, ("small",)),
        ("block", model.block, ("basic",)),
        ("shortcut", model.shortcut, shortcuts),
        ("the number of stages", len(model.stage_sizes), (3,)),
        ("batch_norm.epsilon", model.batch_norm.epsilon, (1e-5,)),
    ):
        if value not in expected:
            raise InputError(
                f"the model has {field}={value}, which {names.program}'s models have not; expected "
                f"{' or '.join(map(str, expected))}, or --output=FILE.safetensors without --names"
            )
    if model.width % 2:
        raise InputError(
            f"the model has width={model.width}; expected an even number, as {names.program}'s "
            "models need"
        )


def has_zeros_around(model: ModelConfig, names: ResNetNames) -> TypeGuard[ResNetConfig]:
    """Return whether a program's shortcuts add half of their zeros before the other channels."""
    return names is AKAMASTER and isinstance(model, ResNetConfig) and model.shortcut == "A"


def reorder_channels(
    model: ResNetConfig, arrays: Mapping[str, np.ndarray], *, zeros_around: bool
) -> dict[str, np.ndarray]:
    """Return the arrays of a model with basic blocks and shortcut A in another order of channels.

    Channels of what blocks add up are reordered: outputs of their second convolutions, and inputs
    of what follows.

    Args:
        model: config of the model.
        arrays: arrays by path, see `branched.BranchedModel`.
        zeros_around: whether the shortcuts of the new order add half of their zeros before the
            other channels, and those of the old one all after; False for the opposite.
    """
    reordered, order = dict(arrays), np.arange(model.width)
    for stage, size in enumerate(model.stage_sizes, 2):
        inputs = order
        if stage > 2:  # half as many new channels as others, before and after them
            width = len(order)
            old, before = np.arange(2 * width), width // 2
            order = np.concatenate([before + order, old[:before], old[before + width :]])
        outputs = np.argsort(order) if zeros_around else order
        for index in range(1, size + 1):
            block = f"conv{stage}_{index}"
            taken = np.argsort(inputs) if zeros_around else inputs
            kernel = f"params/{block}/conv1/kernel"
            reordered[kernel] = arrays[kernel][:, taken]
            for path in (f"params/{block}/conv2/kernel", *_norm_paths(f"{block}/bn2")):
                reordered[path] = arrays[path][outputs]
            inputs = order
    outputs = np.argsort(order) if zeros_around else order
    reordered["params/fc/kernel"] = arrays["params/fc/kernel"][:, outputs]
    return reordered


def _norm_paths(layer: str) -> list[str]:
    """Return the paths of the arrays of a batch normalization."""
    parts = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
    return [f"{collection}/{layer}/{x}" for collection, names in parts.items() for x in names]
