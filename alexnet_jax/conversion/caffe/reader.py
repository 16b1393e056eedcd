"""Read Caffe models: `.caffemodel` files, with the definition inside them or in a prototxt file.

Both formats of layers are supported: `layer`, and the older `layers` (see `schema`).
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.caffe import graph
from alexnet_jax.conversion.caffe.layers import (
    DATA_LAYERS,
    SOFTMAX_LAYERS,
    WITH_BLOBS,
    WITH_WEIGHTS,
    Blobs,
    kind_of,
    layers_of,
    read_blob,
    read_convolution,
    read_data,
    read_inner_product,
    read_op,
    set_crop,
    square_size,
)
from alexnet_jax.conversion.caffe.schema import parse_binary, parse_text
from alexnet_jax.conversion.layout import ForeignModel
from alexnet_jax.errors import InputError
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import MaxPool, Op

ORDERED = (*WITH_WEIGHTS, "ReLU", "TanH", "LRN", "Pooling")  # kinds whose order has an effect


def read_caffemodel(
    path: Path, prototxt: Path | None, base: ModelConfig | None
) -> ForeignModel | BranchedModel:
    """Read a `.caffemodel` file.

    Args:
        path: the file.
        prototxt: definition of the model to use in place of that in the file; layers are matched
            by name.
        base: config of a model with branches, for what the file does not state.

    Raises:
        InputError: the file is damaged or no `.caffemodel`, or the config cannot represent the
            model.
    """
    content = parse_binary(path, "NetParameter")
    layers = layers_of(content, path)
    if not layers:
        raise InputError(f"{path} has no layers; expected a .caffemodel")
    with_blobs = [layer for layer in layers if layer.blobs]
    blobs: dict[str, Iterable[Any]] = {layer.name: layer.blobs for layer in with_blobs}
    if len(blobs) < len(with_blobs):
        raise InputError(
            f"{path} has two layers with weights and the same name; expected different names"
        )
    source = path
    if prototxt is not None:
        content, source = parse_text(prototxt), prototxt
        defined = layers_of(content, prototxt)
        has_branches = graph.has_branches(defined)
        (_check_same_kinds if has_branches else _check_same_order)(path, layers, prototxt, defined)
        _match_last_layer(path, blobs, prototxt, defined)
    try:
        used = layers_of(content, source)
        if graph.has_branches(used):
            return graph.read_branched(content, used, blobs, base)
        return _read_model(content, used, blobs)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_same_order(
    path: Path, layers: Sequence[Any], prototxt: Path, defined: Sequence[Any]
) -> None:
    """Raise InputError if a definition applies other kinds of layers, or in another order.

    Dropout, whose order with ReLU has no effect, and layers for training are not compared; nor is
    anything if the file contains only layers with weights.
    """
    stated, given = ([*filter(ORDERED.__contains__, map(kind_of, ls))] for ls in (layers, defined))
    if stated == given or {*stated} <= {*WITH_WEIGHTS}:
        return
    raise InputError(
        f"{prototxt} has the layers {', '.join(given)}, but {path} was trained as "
        f"{', '.join(stated)}; expected the same order. Give the definition that belongs to the "
        "weights, or none: the file contains its own"
    )


def _check_same_kinds(
    path: Path, layers: Sequence[Any], prototxt: Path, defined: Sequence[Any]
) -> None:
    """Raise InputError if a layer of a definition is of another kind in the file.

    This is for models with branches, whose order of layers is known. Data layers and softmaxes
    are not compared, nor are layers that only one of the two has, such as auxiliary classifiers.
    """
    kinds = {layer.name: kind_of(layer) for layer in layers}
    for layer in defined:
        given, stated = kind_of(layer), kinds.get(layer.name, kind_of(layer))
        if given != stated and {given, stated}.isdisjoint((*DATA_LAYERS, *SOFTMAX_LAYERS)):
            raise InputError(
                f"{prototxt} has {layer.name}, a {given}, but in {path} it is a {stated}; "
                "expected the definition that belongs to the weights"
            )


def _match_last_layer(
    path: Path, blobs: dict[str, Iterable[Any]], prototxt: Path, defined: Sequence[Any]
) -> None:
    """Name the last layer's blobs as the definition does, if this is the only other name.

    To fine-tune a model, users of Caffe rename its last layer.
    """
    names = [layer.name for layer in defined if kind_of(layer) in WITH_BLOBS]
    others = [name for name in blobs if name not in names]
    if names and names[-1] not in blobs and others == [[*blobs][-1]]:
        blobs[names[-1]] = blobs.pop(others[0])
        print(
            f"{path}: the last layer, {others[0]!r}, is taken as {names[-1]!r} of {prototxt}.",
            file=sys.stderr,
        )


def read_mean_image(path: Path) -> np.ndarray:
    """Read a mean image, a `.binaryproto` file; return (height, width, channels) RGB, 0…255.

    Raises:
        InputError: the file is damaged or no mean image.
    """
    try:
        mean = read_blob(parse_binary(path, "BlobProto"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] not in (1, 3):
        raise InputError(f"{path} holds {mean.shape}; expected a mean image (1, 3, side, side)")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))


def _read_model(content: Any, layers: Sequence[Any], blobs: Blobs) -> ForeignModel:
    """Return the ops of a definition with their weights.

    Args:
        content: the definition, a NetParameter.
        layers: its layers.
        blobs: the blobs of the layers.

    Raises:
        InputError: the layers are not a chain that ends with a softmax.
    """
    model = ForeignModel()
    for dims in ([*content.input_dim], *(shape.dim for shape in content.input_shape)):
        set_crop(model, dims)
    names: set[str] = set()
    outputs: set[str] = set()  # names of the outputs of the last layer
    ended = False
    for layer in layers:
        kind = kind_of(layer)
        if kind in DATA_LAYERS:
            read_data(model, layer)
            continue
        if kind == "Accuracy":
            continue
        if not layer.bottom or (outputs and layer.bottom[0] not in outputs):
            raise InputError(
                f"layer {layer.name} takes {[*layer.bottom]}; expected {sorted(outputs)}, a chain "
                "of layers"
            )
        if kind in SOFTMAX_LAYERS:
            ended = True
            continue
        if kind in WITH_WEIGHTS and layer.name in names:
            raise InputError(f"two layers are named {layer.name}; expected different names")
        names.add(layer.name)
        if kind == "Convolution":
            model.add_layer(*read_convolution(layer, blobs.get(layer.name, ())), layer.name)
        elif kind == "InnerProduct":
            model.add_layer(*read_inner_product(layer, blobs.get(layer.name, ())), layer.name)
        elif kind != "Split":  # Caffe inserts it where two layers have the same input
            model.add(_op(layer, kind), layer.name)
        outputs = {*layer.top}
    if not ended:
        raise InputError(
            "the model does not end with a softmax; the file is cut off, or the model is no "
            "classifier"
        )
    return model


def _op(layer: Any, kind: str) -> Op:
    """Return the op of a layer without weights."""
    return _pooling(layer) if kind == "Pooling" else read_op(layer, kind)


def _pooling(layer: Any) -> MaxPool:
    """Return the op of a Pooling layer."""
    param = layer.pooling_param
    if param.pool != 0 or param.global_pooling or square_size(layer, param, "pad", 0):
        raise InputError(
            f"layer {layer.name} pools in an unsupported way; expected MAX without padding"
        )
    window, stride = square_size(layer, param, "kernel", 0), square_size(layer, param, "stride", 1)
    return MaxPool(window, stride, ceil_mode=param.round_mode == 0)
