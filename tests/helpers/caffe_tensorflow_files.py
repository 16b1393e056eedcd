"""Files as caffe-tensorflow writes them: a pickled dictionary of the layers' weights."""

import io
import pickle
import struct
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any, ClassVar

import numpy as np

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.models.ops import Conv, Dense
from configs import bvlc_alexnet
from helpers.foreign_files import Weights

SIDE = 6  # of the activations that fc6 flattens


def config(sizes: dict[str, int]) -> Config:
    """Return the config of bvlc_alexnet with few channels."""
    changed = bvlc_alexnet.get_config()
    for name, features in [*sizes.items()][:-1]:
        op = sequential_model(changed).ops[name]
        assert isinstance(op, Conv | Dense)
        op.features = features
    return changed


def layers(weights: Weights) -> dict[str, list[np.ndarray]]:
    """Return {name: [weights, biases]} in TensorFlow's layout.

    kaffe/transformers.py: kernels (height, width, inputs, outputs); fully-connected layers (inputs,
    outputs), of which the first has inputs in the order height, width, channels.
    """
    found = {}
    for name, (weight, bias) in weights.items():
        if weight.ndim == 4:
            turned = weight.transpose(2, 3, 1, 0)
        elif name == "fc6":
            pixels = weight.reshape(len(weight), -1, SIDE, SIDE).transpose(2, 3, 1, 0)
            turned = pixels.reshape(-1, len(weight))
        else:
            turned = weight.T
        found[name] = [np.ascontiguousarray(turned), bias]
    return found


def write_python3(path: Path, content: Any) -> None:
    """Write what numpy.save writes for a dictionary."""
    np.save(path, content, allow_pickle=True)


def write_python2(path: Path, content: dict[str, list[np.ndarray]]) -> None:
    """Write what numpy.save of Python 2 writes: bytes where Python 3 has text and bytes."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(len(header) + 11) % 16) + b"\n"
    whole = np.empty((), object)
    whole[()] = content
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2, fix_imports=False).dump(whole)
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    path.write_bytes(start + file.getvalue())


class _Python2Pickler(pickle._Pickler):
    """Pickles text and bytes alike as Python 2's byte strings, and NumPy by its older names."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        """Write a byte string."""
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write the name of a class or function."""
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{obj.__name__}\n".encode())  # type: ignore[attr-defined]

    dispatch[BuiltinFunctionType] = dispatch[type] = dispatch[type(np.dtype)] = save_global


def write_npz(path: Path, content: dict[str, list[np.ndarray]]) -> None:
    """Write an array for the weights and one for the biases of each layer."""
    arrays: dict[str, Any] = {}
    for name, (weight, bias) in content.items():
        arrays |= {f"{name}_W": weight, f"{name}_b": bias}
    np.savez(path, **arrays)
