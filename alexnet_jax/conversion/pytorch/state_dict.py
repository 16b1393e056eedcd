"""Read and write state dicts of PyTorch programs: arrays by the names of a model's modules.

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
from alexnet_jax.conversion import branched, origins, presets
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import ForeignModel, Weights, to_foreign
from alexnet_jax.conversion.pytorch import (
    cifar_resnets,
    resnet_names,
    torch_files,
    torchvision_branched,
)
from alexnet_jax.conversion.pytorch.resnet_names import PROGRAMS, TORCHVISION, ResNetNames
from alexnet_jax.conversion.pytorch.torchvision_chains import (
    FIRST_TENSOR,
    LAYER_PARTS,
    NORM_PARTS,
    Modules,
    choose_modules,
    make_modules,
)
from alexnet_jax.conversion.safetensors import read_arrays
from alexnet_jax.conversion.weights_by_name import make_foreign_model, shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.trained import TrainedModel

# Parts of names that wrappers of modules add anywhere: DataParallel and torch.compile.
WRAPPERS = ("module", "_orig_mod")
# Attributes for the model in classes around it (Lightning), in the order in which they are taken.
USUAL_PREFIXES = ("", "model.", "net.", "network.", "backbone.")
# Tensors by which models are recognized, and the classes of their configs.
FIRST_TENSORS: dict[str, type[ModelConfig]] = {
    FIRST_TENSOR: SequentialConfig,
    resnet_names.TORCHVISION.first_tensor: ResNetConfig,
    resnet_names.DXY.first_tensor: ResNetConfig,
    torchvision_branched.GOOGLENET_TENSOR: GoogLeNetConfig,
}
NORM_EPSILON = 1e-5  # default of torch.nn.BatchNorm2d; a state dict does not state it


ReadArray = Callable[[str], np.ndarray]  # name of a tensor, without a prefix → its numbers


def read_state_dict(
    path: Path, config: Config | None
) -> tuple[Config, ForeignModel | BranchedModel]:
    """Read a state dict of one of `PROGRAMS`, a PyTorch or `.safetensors` file.

    Args:
        path: the file.
        config: model, preprocessing and recipe. None decides by the names of the tensors which
            program's model they belong to.

    Returns:
        The given or chosen config, and the model.

    Raises:
        InputError: the file is damaged or no state dict, or its names or shapes are not those of
            the model.
    """
    is_safetensors = path.suffix == ".safetensors"
    tensors = read_arrays(path)[1] if is_safetensors else torch_files.read_tensors(path)
    to_numpy = _checked if is_safetensors else torch_files.to_numpy
    first = _first_tensor(path, tensors, config)
    keys = match_names(path, tensors, first)

    def read(name: str) -> np.ndarray:
        return to_numpy(path, keys[name], tensors[keys[name]])

    if first == FIRST_TENSOR:
        modules = choose_modules(keys, config)
        _check_names(path, tensors, keys, modules.tensors())
        return _read_chain(path, config, modules, read)
    program = resnet_names.choose_names(first, keys)
    config = _config_with_classes(path, program, keys, read, config)
    shapes = branched.foreign_shapes(validated(config))
    names = torchvision_branched.tensor_names(config.model, shapes, program)
    _check_names(path, tensors, keys, names.values())
    arrays = {variable: read(name) for variable, name in names.items()}
    if cifar_resnets.has_zeros_around(config.model, program):
        for variable, name in names.items():
            branched.check_shape(f"{path}: {name}", arrays[variable], shapes[variable])
        arrays = cifar_resnets.reorder_channels(config.model, arrays, zeros_around=False)
        print(
            f"{path}: shortcuts of {program.program}'s models add zeros before and after the other "
            "channels; channels are reordered so that zeros come last, as here.",
            file=sys.stderr,
        )
    return config, BranchedModel(config.model, arrays, names)


def _first_tensor(path: Path, keys: Collection[str], config: Config | None) -> str:
    """Return the name of the tensor by which to recognize the model in a file.

    Args:
        path: the file, for messages.
        keys: the names in the file.
        config: config whose family of models to read; None for any.

    Raises:
        InputError: the file has several models.
    """
    names = [f".{_without_wrappers(key)}" for key in keys]
    known = [f for f, kind in FIRST_TENSORS.items() if not config or kind is type(config.model)]
    found = [first for first in known if any(name.endswith(f".{first}") for name in names)]
    if len(found) > 1:
        raise InputError(
            f"{path} has tensors of several models, {' and '.join(found)}; expected one model, or "
            "--config=FILE with the one to read"
        )
    return [*found, *known][0]


def _config_with_classes(
    path: Path, program: ResNetNames, keys: Collection[str], read: ReadArray, config: Config | None
) -> Config:
    """Return the config of a residual network or GoogLeNet, with the number of classes in a file.

    Args:
        path: the file, for messages.
        program: names of a residual network; torchvision's for GoogLeNet.
        keys: names of the tensors, without prefixes.
        read: function that reads a tensor.
        config: the config that is given; None chooses one by the tensors.

    Raises:
        InputError: the program has no such model, or the file has no classes.
    """

    def shape_of(name: str) -> tuple[int, ...]:
        return read(name).shape if name in keys else ()

    if config is not None:
        classes = torchvision_branched.count_classes(path, program.classifier, shape_of)
        return fields.replace(config, {"model.num_classes": classes})
    if program is TORCHVISION:
        name, config = torchvision_branched.choose_config(path, keys, shape_of)
        model = f"torchvision's {name}"
    else:
        config = cifar_resnets.choose_config(path, program, keys, shape_of)
        model = f"{program.program}'s residual networks for CIFAR-10"
    origins.print_choice(path, model, "the names of its tensors")
    return config


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


def to_state_dict(path: Path, model: TrainedModel, program: str) -> bytes:
    """Return the content of a file of the parameters by the names of a program.

    Args:
        path: the file, whose suffix is `.safetensors` or one of PyTorch.
        model: the model.
        program: the program, of `PROGRAMS`.

    Raises:
        InputError: the program has no such model, or PyTorch is needed and not installed.
    """
    if isinstance(model.config.model, SequentialConfig) and program == TORCHVISION.program:
        arrays = _chain_tensors(model)
    else:
        arrays = _branched_tensors(model, PROGRAMS[program])
    if path.suffix == ".safetensors":
        content: bytes = safetensors.numpy.save(arrays, {"format": "pt"})
        return content
    return torch_files.to_file_content(path, arrays)


def _chain_tensors(model: TrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors of alexnet or vgg by torchvision's names; see `to_state_dict`."""
    modules = make_modules(origins.torchvision_name(model.config))
    foreign = to_foreign(model.config, model.variables)
    arrays: dict[str, np.ndarray] = {}
    for module, weights in zip(modules.layers.values(), foreign.weights.values(), strict=True):
        for part, array in zip(LAYER_PARTS, (weights.weight, weights.bias), strict=True):
            arrays[f"{module}.{part}"] = array
    return arrays


def _branched_tensors(model: TrainedModel, program: ResNetNames) -> dict[str, np.ndarray]:
    """Return the tensors of googlenet or a residual network by a program's names.

    The counters of batch normalization are the number of steps; see `to_state_dict`.
    """
    config = model.config.model
    if program is TORCHVISION:
        torchvision_branched.check_writable(config)
    else:
        cifar_resnets.check_writable(config, program)
    arrays = branched.to_foreign(model.variables)
    if cifar_resnets.has_zeros_around(config, program):
        arrays = cifar_resnets.reorder_channels(config, arrays, zeros_around=True)
    tensors: dict[str, np.ndarray] = {}
    for path, name in torchvision_branched.tensor_names(config, arrays, program).items():
        tensors[name] = arrays[path]
        module, _, part = name.rpartition(".")
        if part == "running_var":
            tensors[f"{module}.{torchvision_branched.COUNTER}"] = np.array(model.step, np.int64)
    return tensors
