"""Read and write state dicts of torchvision's models: arrays by the names of the model's modules.

Training programs put more before those names, such as "module." or "model.", which is removed.
Batch normalization, for which the config has no op, is folded into the convolution before it.
"""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from alexnet_jax.config import Config
from alexnet_jax.conversion import origins, presets, pytorch
from alexnet_jax.conversion.layout import ForeignModel, Weights, to_foreign
from alexnet_jax.conversion.safetensors import read_arrays
from alexnet_jax.conversion.torchvision_chains import (
    FIRST_TENSOR,
    LAYER_PARTS,
    NORM_PARTS,
    choose_modules,
    make_modules,
)
from alexnet_jax.conversion.weights_by_name import make_foreign_model, shown
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel

# Parts of names that wrappers of modules add anywhere: DataParallel and torch.compile.
WRAPPERS = ("module", "_orig_mod")
# Attributes for the model in classes around it (Lightning), in the order in which they are taken.
USUAL_PREFIXES = ("", "model.", "net.", "network.", "backbone.")
NORM_COUNTER = ".num_batches_tracked"  # of a batch normalization, for training only
NORM_EPSILON = 1e-5  # default of torch.nn.BatchNorm2d; a state dict does not state it


def read_state_dict(path: Path, config: Config | None) -> tuple[Config, ForeignModel]:
    """Read a state dict of a torchvision model, a PyTorch or `.safetensors` file.

    Args:
        path: the file.
        config: ops, preprocessing and recipe. None decides by the names of the tensors which of
            `presets.TORCHVISION` to use.

    Returns:
        The given or chosen config, and the model.

    Raises:
        InputError: the file is damaged or no state dict, or its names or shapes are not those of
            the model.
    """
    is_safetensors = path.suffix == ".safetensors"
    tensors = read_arrays(path)[1] if is_safetensors else pytorch.read_tensors(path)
    to_numpy = _checked if is_safetensors else pytorch.to_numpy
    keys = match_names(path, tensors)
    modules = choose_modules(keys, config)
    _check_names(path, tensors, keys, modules.tensors())
    arrays = {name: to_numpy(path, key, tensors[key]) for name, key in keys.items()}
    if config is None:
        config = presets.TORCHVISION[modules.name.removesuffix("_bn")]()
        origins.print_choice(path, f"torchvision's {modules.name}", "the names of its tensors")
    weights = {}
    for layer, module in modules.layers.items():
        weights[layer] = Weights(*(arrays[f"{module}.{part}"] for part in LAYER_PARTS))
        if norm := modules.norms.get(layer):
            parts = {part: arrays[f"{norm}.{part}"] for part in NORM_PARTS}
            weights[layer] = fold_batch_norm(path, norm, weights[layer], parts)
    if modules.norms:
        print(
            f"{path}: batch normalization (epsilon {NORM_EPSILON}) is folded into the weights of "
            f"the {len(modules.norms)} convolutions before it; the model trains on without it.",
            file=sys.stderr,
        )
    return config, make_foreign_model(path, config, weights)


def _checked(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array of a safetensors file; raise InputError for integers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{path} has {name} of {array.dtype}; expected floating-point numbers, not quantized"
        )
    return array


def match_names(path: Path, keys: Collection[str]) -> dict[str, str]:
    """Return the keys of a model in a file by the names that torchvision has for them.

    Keys without the prefix of the model's are left out: they belong to other modules. So are the
    counters of batch normalizations.

    Args:
        path: the file, for messages.
        keys: the names in the file.

    Raises:
        InputError: a name or the model is ambiguous.
    """
    by_name: dict[str, str] = {}
    for key in keys:
        name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        if by_name.setdefault(name, key) != key:
            raise InputError(f"{path} has both {by_name[name]} and {key}; expected one of them")
    found = [n for n in by_name if n == FIRST_TENSOR or n.endswith(f".{FIRST_TENSOR}")]
    prefixes = [name.removesuffix(FIRST_TENSOR) for name in found]
    usual = [prefix for prefix in USUAL_PREFIXES if prefix in prefixes]
    if not usual and len(prefixes) > 1:
        raise InputError(
            f"{path} has several models, with {FIRST_TENSOR} after {', '.join(prefixes)}; expected "
            "one"
        )
    prefix = [*usual, *prefixes, ""][0]
    return {
        name.removeprefix(prefix): key
        for name, key in by_name.items()
        if name.startswith(prefix) and not name.endswith(NORM_COUNTER)
    }


def _check_names(
    path: Path, keys: Collection[str], found: Mapping[str, str], wanted: Collection[str]
) -> None:
    """Raise InputError unless a model has the wanted tensors and no others.

    Args:
        path: the file.
        keys: all names in the file.
        found: the model's keys, from `match_names`.
        wanted: names of the tensors.
    """
    for name in (*wanted, *found):
        if (name in found) != (name in wanted):
            have = f"a tensor {found[name]}" if name in found else f"no tensor {name}"
            raise InputError(
                f"{path} has {have}; it has {shown(keys)}; expected torchvision's {shown(wanted)}"
            )


def fold_batch_norm(
    path: Path, name: str, weights: Weights, norm: Mapping[str, np.ndarray]
) -> Weights:
    """Return the weights of a convolution that includes the batch normalization after it.

    With its weight γ, bias β, mean μ and variance σ², the normalization of W ∗ x + b is
    (W ∗ x + b - μ) · γ / √(σ² + ε) + β, as at test time. It is computed in float64, so that every
    number is rounded to float32 once.

    Args:
        path: the file, for messages.
        name: name of the normalization, for messages.
        weights: weights of the convolution.
        norm: arrays (output channels,) by the names in `NORM_PARTS`.

    Raises:
        InputError: the arrays do not fit the convolution, or the variance is negative.
    """
    for part, array in norm.items():
        if array.shape != weights.bias.shape:
            raise InputError(
                f"{path} has {name}.{part} {array.shape}; expected {weights.bias.shape}, as the "
                "convolution before it has biases"
            )
    kernels, bias = weights.weight.astype(np.float64), weights.bias.astype(np.float64)
    scale, shift, mean, variance = (norm[part].astype(np.float64) for part in NORM_PARTS)
    if not (variance >= 0).all():
        raise InputError(f"{path} has {name}.running_var that is negative or NaN; it is damaged")
    factor = scale / np.sqrt(variance + NORM_EPSILON)
    return Weights((kernels.T * factor).T, (bias - mean) * factor + shift)


def to_state_dict(path: Path, model: TrainedModel) -> bytes:
    """Return the content of a file of the parameters by torchvision's names.

    Args:
        path: the file, whose suffix is `.safetensors` or one of PyTorch.
        model: the model.

    Raises:
        InputError: torchvision has no such model, or PyTorch is needed and not installed.
    """
    modules = make_modules(origins.torchvision_name(model.config))
    foreign = to_foreign(model.config, model.variables)
    arrays: dict[str, np.ndarray] = {}
    for module, weights in zip(modules.layers.values(), foreign.weights.values(), strict=True):
        for part, array in zip(LAYER_PARTS, (weights.weight, weights.bias), strict=True):
            arrays[f"{module}.{part}"] = array
    if path.suffix == ".safetensors":
        content: bytes = safetensors.numpy.save(arrays, {"format": "pt"})
        return content
    return pytorch.to_file_content(path, arrays)
