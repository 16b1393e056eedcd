"""Read Caffe's weights as caffe-tensorflow converts them, such as bvlc_alexnet.npy.

Such a file is a dictionary of a pair of arrays for each layer. Kernels have the shape (height,
width, input channels of a group, output channels), and fully-connected layers (inputs, outputs).
The inputs of the first fully-connected layer are in the order of TensorFlow's flattening: height,
width, channels (kaffe/transformers.py in ethereon/caffe-tensorflow).
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import pickles
from alexnet_jax.conversion.layout import ForeignModel, Weights, convertible_layers
from alexnet_jax.conversion.numpy_files import read_numpy
from alexnet_jax.conversion.weights_by_name import make_foreign_model, shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, spatial_sizes

# Ends of the names of weights and of biases, where a file has an array for each.
ENDS = (("_W", "_b"), ("/weights", "/biases"), ("/W", "/b"), ("_weights", "_biases"))


def read_layers(path: Path, config: Config) -> ForeignModel:
    """Read an `.npy` or `.npz` file of a model with the ops of a config.

    Raises:
        InputError: the file is damaged, or its layers are not those of the config.
    """
    content = read_numpy(path)
    if isinstance(content, Mapping) and [*content] == ["arr_0"]:  # numpy.savez(path, dictionary)
        content = content["arr_0"]
    if not isinstance(content, Mapping):
        what = f"an array {content.shape}" if isinstance(content, np.ndarray) else "no dictionary"
        raise InputError(f"{path} holds {what}; expected a dictionary of the layers' weights")
    pairs = _pairs(content)
    layers = convertible_layers(sequential_model(config))
    names = _match_names(path, content, pairs, [*layers])
    sizes = [*spatial_sizes(sequential_model(config).ops, config.data.crop).values()]
    weights: dict[str, Weights] = {}
    is_flat = False
    for name, op in layers.items():
        weight, bias = pairs[names[name]]
        is_conv = isinstance(op, Conv)
        if weight.ndim != (4 if is_conv else 2):
            raise InputError(
                f"{path} has {names[name]} {weight.shape}; expected (height, width, inputs, "
                "outputs) of a convolution, and (inputs, outputs) of a fully-connected layer"
            )
        weight = weight.transpose(3, 2, 0, 1) if is_conv else weight.T
        if not is_conv and not is_flat:
            weight, is_flat = _channels_first(path, name, weight, sizes[-1] if sizes else 1), True
        weights[name] = Weights(weight, bias.reshape(-1))
    return make_foreign_model(path, config, weights)


def _pairs(content: Mapping[Any, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the weights and biases of every layer of a dictionary by name.

    A layer is a pair of arrays, a dictionary of two, or two arrays whose names end as in ENDS.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key, value in content.items():
        name, pair = str(key), value
        if isinstance(value, Mapping):
            pair = [value.get("weights"), value.get("biases")]
        elif isinstance(value, np.ndarray):
            for weight_end, bias_end in ENDS:
                if name.endswith(weight_end):
                    name = name.removesuffix(weight_end)
                    pair = [value, content.get(name + bias_end)]
                    break
        pair = [*map(pickles.plain, pair)] if isinstance(pair, list | tuple) else []
        if len(pair) == 2 and all(isinstance(array, np.ndarray) for array in pair):
            found[name] = (pair[0], pair[1])
    return found


def _match_names(
    path: Path, keys: Collection[Any], found: Collection[str], layers: Sequence[str]
) -> dict[str, str]:
    """Return the name in the file of every layer of the config.

    The last layer may have another name, since Caffe's users rename it to fine-tune it.

    Raises:
        InputError: the file has other layers.
    """
    names = {name: name for name in layers}
    others = [name for name in found if name not in names]
    if layers[-1] not in found and len(others) == 1:
        names[layers[-1]] = others.pop()
        print(f"{path}: {names[layers[-1]]!r} is taken as {layers[-1]}, the last.", file=sys.stderr)
    if others or any(name not in found for name in names.values()):
        raise InputError(
            f"{path} has {shown(keys)}; expected a pair of arrays, or a dictionary of weights and "
            f"biases, for each of {', '.join(layers)}"
        )
    return names


def _channels_first(path: Path, name: str, weight: np.ndarray, side: int) -> np.ndarray:
    """Return weights (outputs, inputs) with inputs in the order channels, height, width.

    Args:
        path: the file, for messages.
        name: name of the layer, for messages.
        weight: weights with inputs in the order height, width, channels.
        side: height and width in pixels of the layer's input.

    Raises:
        InputError: the inputs are not such a number of pixels.
    """
    outputs, inputs = weight.shape
    if inputs % side**2:
        raise InputError(f"{path} has {name} of {inputs} inputs; expected a multiple of {side**2}")
    pixels = weight.reshape(outputs, side, side, inputs // side**2)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).reshape(outputs, inputs))
