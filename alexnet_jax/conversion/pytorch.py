"""Read weights of torchvision's alexnet, a state dict in a `.pth` or `.safetensors` file.

Such a file contains arrays only, so the ops are those of a config (`presets.torchvision_alexnet`).
A `.pth` file is a pickle, which PyTorch reads with `weights_only=True`, so that no code in it is
executed. PyTorch is needed for such files only; `.safetensors` files can be read without it.
"""

import copy
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion.layout import ForeignModel, Weights, layer_names
from alexnet_jax.conversion.safetensors import read_arrays
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, Dense

# Exceptions that PyTorch's restricted unpickler raises for damaged content.
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

# torchvision/models/alexnet.py: names of the layers with weights.
TORCHVISION_NAMES = {
    **dict(conv1="features.0", conv2="features.3", conv3="features.6", conv4="features.8"),
    **dict(conv5="features.10", fc6="classifier.1", fc7="classifier.4", fc8="classifier.6"),
}


def read_state_dict(path: Path, config: Config) -> ForeignModel:
    """Read a state dict of a model with the ops of a config.

    Raises:
        InputError: the file is damaged or no state dict, or its names or shapes are not those of
            the model.
    """
    arrays = read_arrays(path)[1] if path.suffix == ".safetensors" else _read_pickle(path)
    model = sequential_model(config)
    names = layer_names(model)
    if unknown := [name for name in names if name not in TORCHVISION_NAMES]:
        raise InputError(
            f"the config has {unknown[0]}; expected torchvision's {', '.join(TORCHVISION_NAMES)}"
        )
    wanted = [f"{TORCHVISION_NAMES[name]}.{part}" for name in names for part in ("weight", "bias")]
    for name in (*wanted, *arrays):
        if (name in arrays) != (name in wanted):
            have = "a tensor" if name in arrays else "no tensor"
            raise InputError(f"{path} has {have} {name}; expected {', '.join(wanted)}")
    foreign = ForeignModel()
    for name, op in copy.deepcopy(dict(model.ops)).items():
        if not isinstance(op, Conv | Dense):
            foreign.add(op, name)
            continue
        weight, bias = (arrays[f"{TORCHVISION_NAMES[name]}.{part}"] for part in ("weight", "bias"))
        op.features = op.features or sum(weight.shape[:1])  # the file has the number of classes
        kernel = (op.kernel, op.kernel) if isinstance(op, Conv) else ()
        inputs = weight.shape[1:2] or ("any",)
        if weight.shape != (expected := (op.features, *inputs, *kernel)):
            raise InputError(f"{path} has {name} {weight.shape}; expected {expected}")
        foreign.add_layer(op, Weights(weight, bias), name)
    return foreign


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.pth` file by name.

    Raises:
        InputError: PyTorch is not installed, or the file is damaged or no state dict.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch file, and PyTorch is not installed; pip install torch, or give "
            "the weights as .safetensors"
        ) from None
    try:
        with warnings.catch_warnings():  # PyTorch warns of pickle protocols other than its own
            warnings.simplefilter("ignore")
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = _first_sentence(error)
        raise InputError(f"{path} is not a PyTorch state dict, or is damaged: {reason}") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # checkpoints of PyTorch's ImageNet example contain one
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(map(torch.is_tensor, state.values())):
        raise InputError(f"{path} holds {type(state).__name__}; expected a state dict of tensors")
    try:
        arrays = {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    except _DAMAGED as error:
        raise InputError(
            f"{path} has tensors that are not plain: {_first_sentence(error)}"
        ) from None
    # DataParallel adds "module." to the names.
    return {name.replace("module.", ""): array for name, array in arrays.items()}


def _first_sentence(error: BaseException) -> str:
    """Return the first sentence of an exception's message, or its type.

    PyTorch goes on with advice on loading such a file without protection.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
