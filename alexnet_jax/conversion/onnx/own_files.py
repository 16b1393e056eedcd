"""Read ONNX files that `writer` has written, without loss.

The graph is not read: its metadata contain the config, the class names and the whole mean image, of
which the graph has only the center, and its tensors are named after the layers.
"""

import base64
import binascii
import math
from pathlib import Path

import numpy as np
import onnx

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import branched
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.layout import ForeignModel, Weights, convertible_layers, from_foreign
from alexnet_jax.conversion.metadata import MEAN, PROGRAM, check_mean, mean_channels, read_metadata
from alexnet_jax.conversion.onnx.reader import parse_onnx
from alexnet_jax.conversion.onnx.tensors import TensorsByName, read_tensor
from alexnet_jax.conversion.onnx.writer import tensor_names
from alexnet_jax.errors import InputError
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel


def is_own_format(path: Path) -> bool:
    """Return whether an ONNX file states that this program wrote it.

    Raises:
        InputError: the file is damaged or no ONNX file.
    """
    return parse_onnx(path).producer_name == PROGRAM


def read_own_onnx(path: Path) -> TrainedModel:
    """Read a file with the content that `writer.to_onnx` returns.

    Raises:
        InputError: the file is damaged, was changed by another program, or has no config.
    """
    content: onnx.ModelProto = parse_onnx(path)
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    if "config" not in metadata:
        raise InputError(
            f"{path} was written without its config, by an earlier version of this program; write "
            "the model again, as .safetensors or .onnx"
        )
    config, class_names = read_metadata(path, metadata)
    mean = _mean_image(path, config, metadata.get(MEAN, ""))
    arrays = {tensor.name: read_tensor(tensor, path.parent) for tensor in content.graph.initializer}
    is_chain = isinstance(config.model, SequentialConfig)
    variables = (_read_chain if is_chain else _read_branched)(path, config, arrays)
    return TrainedModel(config, 0, variables, mean, class_names)


def _read_chain(path: Path, config: Config, arrays: TensorsByName) -> Variables:
    """Return the variables of a sequential model from the tensors of a file."""
    foreign = ForeignModel(ops=dict(sequential_model(config).ops))
    for name, op in convertible_layers(sequential_model(config)).items():
        parts = (_joined(path, arrays, tensor_names(name, op, part)) for part in (0, 1))
        foreign.weights[name] = Weights(*parts)
    try:
        return {"params": from_foreign(config, foreign)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_branched(path: Path, config: Config, arrays: TensorsByName) -> Variables:
    """Return the variables of GoogLeNet or a residual network from the tensors of a file."""
    names = {name: name for name in branched.foreign_shapes(config)}
    _check_present(path, arrays, [*names])
    try:
        return branched.from_foreign(config, BranchedModel(config.model, arrays, names))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _joined(path: Path, arrays: TensorsByName, names: list[str]) -> np.ndarray:
    """Return the weights of all columns of a layer, joined along their outputs."""
    _check_present(path, arrays, names)
    parts = [arrays[name] for name in names]
    if len({(part.ndim, part.shape[1:]) for part in parts}) > 1 or not parts[0].ndim:
        raise InputError(f"{path} has {names} of the shapes {[p.shape for p in parts]}")
    return np.concatenate(parts)


def _check_present(path: Path, arrays: TensorsByName, names: list[str]) -> None:
    """Raise InputError unless a file has all tensors of these names."""
    if missing := [name for name in names if name not in arrays]:
        raise InputError(
            f"{path} has no tensor {missing[0]}; another program has changed the file since this "
            "one wrote it. Write it again"
        )


def _mean_image(path: Path, config: Config, text: str) -> np.ndarray:
    """Return the mean image (side, side, channels) float32 from its Base64 text."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    for channels in mean_channels(config):
        side = math.isqrt(len(content) // 4 // channels)
        if len(content) == 4 * side**2 * channels:
            mean = np.frombuffer(content, "<f4").reshape(side, side, channels).astype(np.float32)
            check_mean(path, config, mean)
            return mean
    raise InputError(f"{path} has {len(content)} bytes of {MEAN}; expected those of a square")
