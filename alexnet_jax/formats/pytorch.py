"""Weights of torchvision's alexnet: a state dict as `.pth` or `.safetensors`.

Such a file has arrays and no geometry, so this is the config's (configs/one_weird_trick.py). A
`.pth` is a pickle; PyTorch itself reads it, restricted to tensors (`weights_only`), in both of its
containers. PyTorch is none of this program's requirements: without it use safetensors.
"""

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from alexnet_jax.errors import InputError
from alexnet_jax.formats.layout import Layer, Stack
from alexnet_jax.models.alexnet import Conv, ModelConfig

# What PyTorch's restricted unpickler raises for damaged content.
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)

# torchvision/models/alexnet.py: places in `features` and `classifier` of what has weights.
NAMES = {
    **dict(conv1="features.0", conv2="features.3", conv3="features.6", conv4="features.8"),
    **dict(conv5="features.10", fc6="classifier.1", fc7="classifier.4", fc8="classifier.6"),
}


def read(path: Path, config: ConfigDict) -> Stack:
    """The net of a state dict, with the geometry of the config.

    Raises:
        InputError: not such a file, a damaged one, or names or sizes that the config has not.
    """
    arrays = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    model = ModelConfig.from_dict(config.model)
    names = [layer.name for layer in model.layers]
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"the config has {unknown[0]}; expected torchvision's {', '.join(NAMES)}")
    wanted = [f"{NAMES[name]}.{part}" for name in names for part in ("weight", "bias")]
    for name in (*wanted, *arrays):
        if (name in arrays) != (name in wanted):
            have = "a tensor" if name in arrays else "no tensor"
            raise InputError(f"{path} has {have} {name}; expected {', '.join(wanted)}")
    stack = Stack([])
    for layer in model.layers:
        weight, bias = (arrays[f"{NAMES[layer.name]}.{part}"] for part in ("weight", "bias"))
        dimensions = 4 if isinstance(layer, Conv) else 2
        features = layer.features or sum(weight.shape[:1])  # the classes are the file's
        kernel = (layer.kernel, layer.kernel) if isinstance(layer, Conv) else ()
        if weight.shape != (expected := (features, *weight.shape[1:2], *kernel)) or (
            weight.ndim != dimensions
        ):
            raise InputError(f"{path} has {layer.name} {weight.shape}; expected {expected}")
        converted = Layer(layer.name, weight, bias, after=list(layer.after))
        if isinstance(layer, Conv):
            converted.stride, converted.padding = layer.stride, layer.padding
        stack.layers.append(converted)
    return stack


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no safetensors file, or a damaged one: {error}") from None


def _pickled(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a file of PyTorch's, which is not installed; pip install torch, or give "
            "the weights as .safetensors"
        ) from None
    try:
        with warnings.catch_warnings():  # of protocols other than PyTorch's usual one
            warnings.simplefilter("ignore")
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = _first_line(error)
        raise InputError(f"{path} is no state dict of PyTorch's, or is damaged: {reason}") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # of PyTorch's ImageNet example
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(map(torch.is_tensor, state.values())):
        raise InputError(f"{path} holds {type(state).__name__}; expected a state dict of tensors")
    try:
        arrays = {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    except _DAMAGED as error:
        raise InputError(f"{path} has tensors that are not plain: {_first_line(error)}") from None
    # "module" is what DataParallel puts into the names.
    return {name.replace("module.", ""): array for name, array in arrays.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
