"""Read weights of torchvision's alexnet: a state dict as `.pth` or `.safetensors`.

Such a file has arrays and no geometry, so the geometry is that of a config
(`presets.torchvision_alexnet`). A `.pth` is a pickle; PyTorch itself reads it, restricted to
tensors (`weights_only`), in both of its containers. PyTorch is not required otherwise: without it
use safetensors.
"""

import copy
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from alexnet_jax.config import Config
from alexnet_jax.conversion import layout
from alexnet_jax.conversion.layout import ForeignNet, Weights
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, Dense

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

# torchvision/models/alexnet.py: where `features` and `classifier` have layers with weights.
NAMES = {
    **dict(conv1="features.0", conv2="features.3", conv3="features.6", conv4="features.8"),
    **dict(conv5="features.10", fc6="classifier.1", fc7="classifier.4", fc8="classifier.6"),
}


def read(path: Path, config: Config) -> ForeignNet:
    """Read a state dict, with the geometry of the config's model.

    Raises:
        InputError: not such a file, a damaged one, or names or sizes other than the model's.
    """
    arrays = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    model = layout.sequential_model(config)
    names = layout.layer_names(model)
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"the config has {unknown[0]}; expected torchvision's {', '.join(NAMES)}")
    wanted = [f"{NAMES[name]}.{part}" for name in names for part in ("weight", "bias")]
    for name in (*wanted, *arrays):
        if (name in arrays) != (name in wanted):
            have = "a tensor" if name in arrays else "no tensor"
            raise InputError(f"{path} has {have} {name}; expected {', '.join(wanted)}")
    net = ForeignNet()
    for name, op in copy.deepcopy(dict(model.ops)).items():
        if not isinstance(op, Conv | Dense):
            net.add(op, name)
            continue
        weight, bias = (arrays[f"{NAMES[name]}.{part}"] for part in ("weight", "bias"))
        op.features = op.features or sum(weight.shape[:1])  # the classes are the file's
        kernel = (op.kernel, op.kernel) if isinstance(op, Conv) else ()
        inputs = weight.shape[1:2] or ("any",)
        if weight.shape != (expected := (op.features, *inputs, *kernel)):
            raise InputError(f"{path} has {name} {weight.shape}; expected {expected}")
        net.add_layer(op, Weights(weight, bias), name)
    return net


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
