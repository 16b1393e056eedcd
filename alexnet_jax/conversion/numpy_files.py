"""Read `.npy` and `.npz` files, also those with dictionaries of arrays, without running code.

The format is that of numpy/lib/format.py. numpy.load is not used: it evaluates headers, unpickles
with all of Python's functions, and allocates what a header states before it reads.
"""

import re
import struct
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.conversion import pickles
from alexnet_jax.errors import InputError, one_line

MAGIC = b"\x93NUMPY"
HEADER = re.compile(
    r"\{'descr': '([<>|=]?[a-zA-Z]\d*)', 'fortran_order': (True|False), "
    r"'shape': \(([\d, L]*)\),? *\}\s*"  # L: Python 2's long numbers
)
MAX_BYTES = 2**32  # of all arrays in an archive, unpacked; AlexNet has a quarter of 2**30
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError),
    *(EOFError, ValueError, LookupError, struct.error),
)


def read_numpy(path: Path) -> Any:
    """Return the content of an `.npy` file, or a dictionary of the contents of an `.npz` file.

    Returns:
        An array, or what an array of objects holds: a dictionary, or a list. Elements are not
        checked further, except that all arrays are of numbers.

    Raises:
        InputError: the file is damaged, or holds other objects.
    """
    try:
        if path.suffix != ".npz":
            return _parse(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if (size := sum(entry.file_size for entry in entries)) > MAX_BYTES:
                raise InputError(f"it unpacks to {size:,} bytes; expected at most {MAX_BYTES:,}")
            return {e.filename.removesuffix(".npy"): _parse(archive.read(e)) for e in entries}
    except InputError as error:
        raise InputError(f"{path} is not a file of NumPy arrays, or is damaged: {error}") from None
    except _BAD_ARCHIVE as error:
        raise InputError(f"{path} is not an .npz file, or is damaged: {one_line(error)}") from None


def read_mean_image(path: Path) -> np.ndarray:
    """Read a mean image as Caffe's users have it, such as ilsvrc_2012_mean.npy.

    Args:
        path: a file with an array (channels, height, width) or (height, width, channels), or
            with one more axis of length 1 before these. Channels are B, G, R or gray.

    Returns:
        (height, width, channels) RGB or gray, 0…255, float64.

    Raises:
        InputError: the file is damaged, or holds anything else.
    """
    mean = read_numpy(path)
    if not isinstance(mean, np.ndarray) or mean.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {type(mean).__name__}; expected an array, a mean image")
    shape = mean.shape
    mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    if mean.ndim == 3 and mean.shape[0] in (1, 3):
        mean = mean.transpose(1, 2, 0)
    if mean.ndim != 3 or mean.shape[2] not in (1, 3):
        raise InputError(
            f"{path} holds an array {shape}; expected a mean image (3, side, side) or (side, side, "
            "3), in the order B, G, R"
        )
    return np.ascontiguousarray(mean[..., ::-1], np.float64)


def _parse(content: bytes) -> Any:
    """Return the array or the objects in the content of an `.npy` file.

    Raises:
        InputError: the content is damaged.
    """
    if not content.startswith(MAGIC) or len(content) < 12:
        raise InputError("it does not begin as an .npy file")
    size_bytes = 2 if content[6] == 1 else 4
    start = 8 + size_bytes + int.from_bytes(content[8 : 8 + size_bytes], "little")
    header = HEADER.fullmatch(content[8 + size_bytes : start].decode("latin1"))
    if header is None or len(header[3]) > 200:
        raise InputError("its header does not describe an array of numbers or objects")
    shape = tuple(int(n) for n in re.findall(r"\d+", header[3]))
    if header[1].endswith("O"):
        try:
            return pickles.load_arrays(content[start:])
        except pickles.DAMAGED as error:
            raise InputError(one_line(error)) from None
    if not pickles.NUMBERS.fullmatch(header[1].lstrip("<>|=")):
        raise InputError(f"its numbers have the type {header[1]}")
    dtype = np.dtype(header[1])
    if len(content) - start != prod(shape) * dtype.itemsize:
        raise InputError(f"an array {shape} of {dtype} has {len(content) - start} bytes")
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape[::-1]).T if header[2] == "True" else array.reshape(shape)
