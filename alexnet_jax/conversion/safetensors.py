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

from alexnet_jax.config import (
    Config,
    ParallelConfig,
    config_from_json,
    config_to_text,
    with_changes,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel

FORMAT = "alexnet_jax"
FORMAT_VERSION = "2"  # version of the metadata; version 1 did not record a number
MEAN = "mean_image"


def is_own_format(path: Path) -> bool:
    """Return whether the metadata of a safetensors file state that this program wrote it.

    Raises:
        InputError: the file is damaged or no safetensors file.
    """
    return read_arrays(path)[0].get("format") == FORMAT


def write_safetensors(path: Path, model: TrainedModel) -> None:
    """Write a model as a safetensors file."""
    arrays = {name: np.asarray(leaf) for name, leaf in _by_name(model.variables).items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config_to_text(model.config),
        "class_names": json.dumps(model.class_names),
        "axes": json.dumps(_axes(registry.abstract_boxed_variables(model.config))),
    }
    arrays[MEAN] = np.asarray(model.mean_image)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata
    )


def read_safetensors(path: Path) -> TrainedModel:
    """Read a model that `write_safetensors` has written.

    Raises:
        InputError: the file is damaged, has another format version, or has arrays that do not
            belong to its config.
    """
    metadata, arrays = read_arrays(path)
    version = metadata.get("format_version", "1")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} was made by another version of this program (format {version}; this one reads "
            f"{FORMAT_VERSION}); write it again with this version"
        )
    config = _read_config(path, metadata)
    class_names = _read_json(path, metadata, "class_names")
    classes = config.model.num_classes
    if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
        raise InputError(f"{path} has class_names that are not a list of names; it is damaged")
    if not classes or len(class_names) != classes:
        raise InputError(f"{path} names {len(class_names)} of {classes} classes")
    mean = arrays.pop(MEAN, np.zeros(()))
    if mean.ndim != 3 or mean.shape[0] != mean.shape[1] or mean.dtype != np.float32:
        raise InputError(f"{path} has {MEAN} {mean.shape}; expected (side, side, channels) float32")
    boxed = registry.abstract_boxed_variables(config)
    _check_arrays(path, arrays, {n: box.value.shape for n, box in _by_name(boxed).items()})
    stated, axes = _read_json(path, metadata, "axes"), _axes(boxed)
    if stated != axes:
        raise InputError(f"{path} states the axes {stated}; expected {axes}")
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[_name(path)], dict(boxed), is_leaf=_is_box
    )
    return TrainedModel(config, 0, variables, mean, tuple(class_names))


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


def _read_config(path: Path, metadata: dict[str, str]) -> Config:
    """Return the config in the metadata, for one device."""
    content = _read_json(path, metadata, "config")
    try:
        return with_changes(config_from_json(content), {"parallel": ParallelConfig()})
    except InputError as error:
        raise InputError(f"{path} has a config that cannot be used: {error}") from None


def _read_json(path: Path, metadata: dict[str, str], name: str) -> object:
    """Return the JSON value of an entry of the metadata."""
    if name not in metadata:
        raise InputError(f"{path} has no {name} in its metadata; it is damaged")
    try:
        content: object = json.loads(metadata[name])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has {name} that is not JSON: {error}") from None
    return content


def _by_name(variables: Variables) -> dict[str, Any]:
    """Return the leaves of variables by their names in the file."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables), is_leaf=_is_box)
    return {_name(path): leaf for path, leaf in leaves}


def _is_box(leaf: object) -> bool:
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
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in [*file.keys()]}
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a safetensors file, or is damaged: {error}") from None
