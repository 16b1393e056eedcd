"""Our own weights as safetensors: one array per parameter, `conv1.kernel`, …, and the mean image.

The metadata hold all that a workdir needs beside them, the config and the class names, and the
axes of every array in words. The round trip is exact.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from alexnet_jax import network, train
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net

FORMAT = "alexnet_jax"
MEAN = "mean_image"


def is_ours(path: Path) -> bool:
    """Whether a safetensors file says that this program wrote it.

    Raises:
        InputError: no safetensors file, or a damaged one.
    """
    return _open(path)[0].get("format") == FORMAT


def write(path: Path, net: Net) -> None:
    """Write a net."""
    arrays = {
        f"{layer}.{part}": np.asarray(array)
        for layer, parts in net.params.items()
        for part, array in parts.items()
    }
    metadata = {
        "format": FORMAT,
        "config": net.config.to_json(),
        "class_names": json.dumps(net.class_names),
        "axes": json.dumps({name: _axes(array.ndim) for name, array in arrays.items()}),
    }
    arrays[MEAN] = np.asarray(net.mean_image)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata
    )


def read(path: Path, like: ConfigDict) -> Net:
    """Read a net that `write` wrote.

    Args:
        like: any config, whose fields the file's config must have.

    Raises:
        InputError: a damaged file, or parameters that its config has not.
    """
    metadata, arrays = _open(path)
    try:
        config = ConfigDict(json.loads(metadata["config"]))
        class_names = tuple(json.loads(metadata["class_names"]))
        axes = dict(json.loads(metadata["axes"]))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} has no config, class names or axes in it: {error}") from None
    expected = _check(path, config, like)
    mean = arrays.pop(MEAN, np.zeros(()))
    if mean.ndim != 3 or mean.shape[0] != mean.shape[1] or mean.dtype != np.float32:
        raise InputError(f"{path} has {MEAN} {mean.shape}; expected (side, side, channels) float32")
    for name in {**expected, **arrays}:
        found = arrays[name].shape if name in arrays else "nothing"
        if found != expected.get(name):
            raise InputError(f"{path} has {found} for {name}; expected {expected.get(name)}")
        if arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
            raise InputError(f"{path} has {name} that is not finite float32; it is damaged")
    stated = {name: _axes(len(shape)) for name, shape in expected.items()}
    for name in {**stated, **axes}:
        if axes.get(name) != stated.get(name):
            raise InputError(f"{path} states the axes {axes.get(name)} for {name}")
    if len(class_names) != config.model.classes:
        raise InputError(f"{path} names {len(class_names)} of {config.model.classes} classes")
    params: dict[str, dict[str, Any]] = {}
    for name in expected:
        layer, part = name.split(".")
        params.setdefault(layer, {})[part] = arrays[name]
    return Net(config, 0, params, mean, class_names)


def _check(path: Path, config: ConfigDict, like: ConfigDict) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that a config asks for, once it can be trained with."""
    if wrong := _fields(config) ^ _fields(like):
        raise InputError(f"{path} was made with other config fields: {', '.join(sorted(wrong))}")
    config.parallel = like.parallel  # the devices are those of this machine
    try:
        train.check(config)
        params = network.abstract_params(config)
    except (
        InputError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} has a config that cannot be used: {reason}") from None
    return {
        f"{n}.{part}": leaf.shape for n, layer in params.items() for part, leaf in layer.items()
    }


def _axes(dimensions: int) -> str:
    return {
        5: "column, height, width, maps in, maps out",
        3: "column, units in, units out",
        2: "column, maps or units out",
        1: "class",
    }[dimensions]


def _open(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in [*file.keys()]}
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no safetensors file, or a damaged one: {error}") from None


def _fields(config: ConfigDict, path: str = "") -> set[str]:
    """Paths of a config's fields, the names of layers left out."""
    found = set()
    for name, value in config.items():
        if isinstance(value, ConfigDict) and name != "layers":
            found |= _fields(value, f"{path}{name}.")
        else:
            found.add(path + name)
    return found
