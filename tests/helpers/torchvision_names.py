"""torchvision's names of the layers of GoogLeNet and of residual networks.

In this program a layer's name is the path of its module, such as conv2_1/bn1. The arrays of a layer
have these names here and there; `num_batches_tracked` of PyTorch has no counterpart:

    kernel, scale   weight
    bias            bias
    mean, var       running_mean, running_var
"""

from collections.abc import Mapping

import jax
import numpy as np

from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.googlenet import AUXILIARY, INCEPTION
from alexnet_jax.models.ops import ModelConfig
from alexnet_jax.pytree import KeyPath, PyTree, Variables, path_name

ARRAYS = dict(kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var")
_BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}


def torchvision_layers(model: ModelConfig) -> dict[str, str]:
    """Return a dictionary from the names of a model's layers to torchvision's names.

    Raises:
        InputError: the model is neither a residual network nor GoogLeNet.
    """
    if isinstance(model, ResNetConfig):
        return _resnet_names(model)
    if isinstance(model, GoogLeNetConfig):
        return _googlenet_names()
    raise InputError(
        f"the model is a {type(model).__name__}; expected a residual network or GoogLeNet"
    )


def _resnet_names(config: ResNetConfig) -> dict[str, str]:
    """Return the dictionary of `torchvision_layers` for a residual network.

    Layers that the network does not have, such as shortcuts, are included.
    """
    names = {name: name for name in ("conv1", "bn1", "fc")}
    for stage, size in enumerate(config.stage_sizes, 1):
        for index in range(size):
            ours, theirs = f"conv{stage + 1}_{index + 1}", f"layer{stage}.{index}"
            for number in (1, 2, 3):
                names[f"{ours}/conv{number}"] = f"{theirs}.conv{number}"
                names[f"{ours}/bn{number}"] = f"{theirs}.bn{number}"
            names[f"{ours}/shortcut_conv"] = f"{theirs}.downsample.0"
            names[f"{ours}/shortcut_bn"] = f"{theirs}.downsample.1"
    return names


def _googlenet_names() -> dict[str, str]:
    """Return the dictionary of `torchvision_layers` for GoogLeNet."""
    convs = dict(conv1="conv1", conv2_reduce="conv2", conv2="conv3")
    for module in INCEPTION:
        for ours, theirs in _BRANCHES.items():
            convs[f"inception_{module}/{ours}"] = f"inception{module}.{theirs}"
    names = {"fc": "fc"}
    for aux in AUXILIARY.values():
        convs[f"{aux}/conv"] = f"{aux}.conv"
        names |= {f"{aux}/{layer}": f"{aux}.{layer}" for layer in ("fc1", "fc2")}
    for ours, theirs in convs.items():
        names[ours], names[f"{ours}_bn"] = f"{theirs}.conv", f"{theirs}.bn"
    return names


def variables_from_torch(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, str], abstract: Variables
) -> dict[str, PyTree]:
    """Return the variables of a model from arrays in PyTorch's layout.

    A fully-connected layer after a convolution, whose inputs PyTorch has in the order (channels,
    height, width), must have square inputs of the channels of the convolution.

    Args:
        arrays: arrays of a state dict.
        names: dictionary from the names of the model's layers to PyTorch's names.
        abstract: shapes and types of the variables.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape.
    """

    def leaf(path: KeyPath, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        layer, _, kind = path_name(path[1:]).rpartition("/")
        array = np.asarray(arrays[f"{names[layer]}.{ARRAYS[kind]}"])
        if kind == "kernel" and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif kind == "kernel":
            array = _dense_kernel(layer, array, abstract["params"])
        if array.shape != expected.shape:
            raise ValueError(
                f"{names[layer]} has the shape {array.shape}; expected {expected.shape}"
            )
        return array.astype(expected.dtype)

    variables: dict[str, PyTree] = jax.tree_util.tree_map_with_path(leaf, dict(abstract))
    return variables


def _dense_kernel(layer: str, weight: np.ndarray, params: PyTree) -> np.ndarray:
    """Return a kernel (inputs, outputs), its inputs in the order (height, width, channels).

    Only the first one of an auxiliary classifier has inputs with pixels.
    """
    aux, _, name = layer.rpartition("/")
    if name == "fc1":
        channels = params[aux]["conv"]["kernel"].shape[-1]
        side = round((weight.shape[1] / channels) ** 0.5)
        weight = weight.reshape(-1, channels, side, side).transpose(0, 2, 3, 1)
        weight = weight.reshape(len(weight), -1)
    return weight.T
