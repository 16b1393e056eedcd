"""Write models as safetensors files and read them back without loss.

Every parameter is an array named by its path, such as `conv1.kernel`; names of other variables
begin with their collection. The mean image is the array `mean_image`. The metadata contain the
config, the class names and the names of the axes of every array.
"""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import safetensors
import safetensors.numpy

from alexnet_jax.conversion.metadata import (
    MEAN,
    PROGRAM,
    check_mean,
    make_metadata,
    parse_entry,
    read_metadata,
)
from alexnet_jax.errors import InputError, one_line
from alexnet_jax.models import registry
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel

# Types of arrays. Integers are found, too, such as counts beside the weights.
READABLE = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def is_own_format(path: Path) -> bool:
    """Return whether the metadata of a safetensors file state that this program wrote it.

    Raises:
        InputError: the file is damaged or no safetensors file.
    """
    return read_arrays(path)[0].get("format") == PROGRAM


def to_safetensors(model: TrainedModel) -> bytes:
    """Return the content of a safetensors file of a model."""
    arrays = {name: np.asarray(leaf) for name, leaf in _by_name(model.variables).items()}
    axes = json.dumps(_axes(registry.abstract_boxed_variables(model.config)))
    metadata = {**make_metadata(model), "axes": axes}
    arrays[MEAN] = np.asarray(model.mean_image)
    content: bytes = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata
    )
    return content


def read_safetensors(path: Path) -> TrainedModel:
    """Read a file with the content that `to_safetensors` returns.

    Raises:
        InputError: the file is damaged, has another format version, or has arrays that do not
            belong to its config.
    """
    metadata, arrays = read_arrays(path)
    config, class_names = read_metadata(path, metadata)
    mean = arrays.pop(MEAN, np.zeros(()))
    check_mean(path, config, mean)
    boxed = registry.abstract_boxed_variables(config)
    _check_arrays(path, arrays, {n: box.value.shape for n, box in _by_name(boxed).items()})
    stated, axes = parse_entry(path, metadata, "axes"), _axes(boxed)
    if not isinstance(stated, dict):
        raise InputError(f"{path} has axes that are not names by array; it is damaged")
    for name in {**axes, **stated}:
        if stated.get(name) != axes.get(name):
            raise InputError(
                f"{path} states the axes {stated.get(name)} for {name}; expected {axes.get(name)}"
            )
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[_name(path)], dict(boxed), is_leaf=_is_box
    )
    return TrainedModel(config, 0, variables, mean, class_names)


def _check_arrays(
    path: Path, arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> None:
    """Raise InputError unless the arrays have the expected names and shapes, and finite float32."""
    for name in {**expected, **arrays}:
        found = arrays[name].shape if name in arrays else "nothing"
        if found != expected.get(name):
            raise InputError(f"{path} has {found} for {name}; expected {expected.get(name)}")
        if arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
            raise InputError(f"{path} has {name} that is not finite float32; it is damaged")


def _by_name(variables: Variables) -> dict[str, Any]:
    """Return the leaves of variables by their names in the file."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables), is_leaf=_is_box)
    return {_name(path): leaf for path, leaf in leaves}


def _is_box(leaf: object) -> bool:
    """Return whether a leaf is an array boxed with its logical axes."""
    return isinstance(leaf, nn.LogicallyPartitioned)


def _name(path: tuple[Any, ...]) -> str:
    """Return the name in the file of the variable at a path; the first key is the collection."""
    collection, *names = (key.key for key in path)
    return ".".join(names if collection == "params" else [collection, *names])


def _axes(boxed: Variables) -> dict[str, str]:
    """Return the names of the axes of every array, separated by commas."""
    return {name: ", ".join(box.names) for name, box in _by_name(boxed).items()}


def read_arrays(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata and the arrays of any safetensors file.

    Raises:
        InputError: the file is damaged or no safetensors file.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with safetensors.safe_open(path, "numpy") as file:
            for name in [*file.keys()]:
                if (kind := file.get_slice(name).get_dtype()) not in READABLE:
                    raise InputError(f"{path} has {name} of type {kind}; expected float32")
                arrays[name] = file.get_tensor(name)
            return file.metadata() or {}, arrays
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a safetensors file, or is damaged: {one_line(error)}"
        ) from None
