"""Read and write state dicts of torchvision's models: arrays by the names of the model's modules.

Training programs put more before those names, such as "module." or "model.", which is removed.
Batch normalization of a chain, which has no op for it, is folded into the convolution before it.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from alexnet_jax import fields
from alexnet_jax.config import Config, validated
from alexnet_jax.conversion import branched, origins, presets, pytorch, torchvision_branched
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import ForeignModel, Weights, to_foreign
from alexnet_jax.conversion.safetensors import read_arrays
from alexnet_jax.conversion.torchvision_chains import (
    FIRST_TENSOR,
    LAYER_PARTS,
    NORM_PARTS,
    Modules,
    choose_modules,
    make_modules,
)
from alexnet_jax.conversion.weights_by_name import make_foreign_model, shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.ops import ModelConfig, SequentialConfig
from alexnet_jax.trained import TrainedModel

# Parts of names that wrappers of modules add anywhere: DataParallel and torch.compile.
WRAPPERS = ("module", "_orig_mod")
# Attributes for the model in classes around it (Lightning), in the order in which they are taken.
USUAL_PREFIXES = ("", "model.", "net.", "network.", "backbone.")
# A tensor by which a model is recognized, by the class of its config.
FIRST_TENSORS: dict[type[ModelConfig], str] = {
    SequentialConfig: FIRST_TENSOR,
    ResNetConfig: torchvision_branched.RESNET_TENSOR,
    GoogLeNetConfig: torchvision_branched.GOOGLENET_TENSOR,
}
NORM_EPSILON = 1e-5  # default of torch.nn.BatchNorm2d; a state dict does not state it


ReadArray = Callable[[str], np.ndarray]  # name of a tensor, without a prefix → its numbers


def read_state_dict(
    path: Path, config: Config | None
) -> tuple[Config, ForeignModel | BranchedModel]:
    """Read a state dict of a torchvision model, a PyTorch or `.safetensors` file.

    Args:
        path: the file.
        config: model, preprocessing and recipe. None decides by the names of the tensors which of
            torchvision's models they belong to.

    Returns:
        The given or chosen config, and the model.

    Raises:
        InputError: the file is damaged or no state dict, or its names or shapes are not those of
            the model.
    """
    is_safetensors = path.suffix == ".safetensors"
    tensors = read_arrays(path)[1] if is_safetensors else pytorch.read_tensors(path)
    to_numpy = _checked if is_safetensors else pytorch.to_numpy
    family = type(config.model) if config else _family_of(path, tensors)
    keys = match_names(path, tensors, FIRST_TENSORS[family])

    def read(name: str) -> np.ndarray:
        return to_numpy(path, keys[name], tensors[keys[name]])

    if family is SequentialConfig:
        modules = choose_modules(keys, config)
        _check_names(path, tensors, keys, modules.tensors())
        return _read_chain(path, config, modules, read)
    if config is None:
        name, config = torchvision_branched.choose_config(
            path, keys, lambda name: read(name).shape if name in keys else ()
        )
        origins.print_choice(path, f"torchvision's {name}", "the names of its tensors")
    elif "fc.weight" in keys:  # the file has the number of classes
        config = fields.replace(config, {"model.num_classes": len(read("fc.weight"))})
    shapes = branched.foreign_shapes(validated(config))
    names = torchvision_branched.tensor_names(config.model, shapes)
    _check_names(path, tensors, keys, names.values())
    arrays = {variable: read(name) for variable, name in names.items()}
    return config, BranchedModel(config.model, arrays, names)


def _family_of(path: Path, keys: Collection[str]) -> type[ModelConfig]:
    """Return the class of the config of the model in a file; chains if there is none.

    Raises:
        InputError: the file has models of several families.
    """
    found = {
        family: name
        for family, name in FIRST_TENSORS.items()
        if any(f".{key}".endswith(f".{name}") for key in map(_without_wrappers, keys))
    }
    if len(found) > 1:
        raise InputError(
            f"{path} has tensors of several models, {' and '.join(found.values())}; expected one "
            "model, or --config=FILE with the one to read"
        )
    return next(iter(found), SequentialConfig)


def _read_chain(
    path: Path, config: Config | None, modules: Modules, read: ReadArray
) -> tuple[Config, ForeignModel]:
    """Return the config and the model for the tensors of alexnet or vgg.

    Args:
        path: the file, for messages.
        config: see `read_state_dict`.
        modules: the modules of the model.
        read: function that reads a tensor.

    Raises:
        InputError: a shape or number is not possible.
    """
    arrays = {name: read(name) for name in modules.tensors()}
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


def _without_wrappers(key: str) -> str:
    """Return a name without the parts that wrappers of modules add."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def match_names(path: Path, keys: Collection[str], first: str) -> dict[str, str]:
    """Return the keys of a model in a file by the names that torchvision has for them.

    Keys without the prefix of the model's are left out: they belong to other modules. So are the
    counters of batch normalizations.

    Args:
        path: the file, for messages.
        keys: the names in the file.
        first: name of a tensor of the model.

    Raises:
        InputError: a name or the model is ambiguous.
    """
    by_name: dict[str, str] = {}
    for key in keys:
        name = _without_wrappers(key)
        if by_name.setdefault(name, key) != key:
            raise InputError(f"{path} has both {by_name[name]} and {key}; expected one of them")
    found = [name for name in by_name if f".{name}".endswith(f".{first}")]
    prefixes = [name.removesuffix(first) for name in found]
    usual = [prefix for prefix in USUAL_PREFIXES if prefix in prefixes]
    if not usual and len(prefixes) > 1:
        raise InputError(
            f"{path} has several models, with {first} after {', '.join(prefixes)}; expected one"
        )
    prefix = [*usual, *prefixes, ""][0]
    return {
        name.removeprefix(prefix): key
        for name, key in by_name.items()
        if name.startswith(prefix) and not name.endswith(f".{torchvision_branched.COUNTER}")
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
    is_chain = isinstance(model.config.model, SequentialConfig)
    arrays = (_chain_tensors if is_chain else _branched_tensors)(model)
    if path.suffix == ".safetensors":
        content: bytes = safetensors.numpy.save(arrays, {"format": "pt"})
        return content
    return pytorch.to_file_content(path, arrays)


def _chain_tensors(model: TrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors of alexnet or vgg by torchvision's names; see `to_state_dict`."""
    modules = make_modules(origins.torchvision_name(model.config))
    foreign = to_foreign(model.config, model.variables)
    arrays: dict[str, np.ndarray] = {}
    for module, weights in zip(modules.layers.values(), foreign.weights.values(), strict=True):
        for part, array in zip(LAYER_PARTS, (weights.weight, weights.bias), strict=True):
            arrays[f"{module}.{part}"] = array
    return arrays


def _branched_tensors(model: TrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors of googlenet or a residual network by torchvision's names.

    The counters of batch normalization are the number of steps; see `to_state_dict`.
    """
    torchvision_branched.check_is_torchvisions(model.config.model)
    arrays = branched.to_foreign(model.variables)
    tensors: dict[str, np.ndarray] = {}
    for path, name in torchvision_branched.tensor_names(model.config.model, arrays).items():
        tensors[name] = arrays[path]
        module, _, part = name.rpartition(".")
        if part == "running_var":
            tensors[f"{module}.{torchvision_branched.COUNTER}"] = np.array(model.step, np.int64)
    return tensors
