"""Read pickles of NumPy arrays without running code, and list the classes that pickles name.

A pickle is a program that may call any function by its name. Here names are looked up in a table
of stand-ins, which only record what they are given; any other name is refused. NumPy's own classes
are not used, since they trust the state that a pickle sets.
"""

import _compat_pickle
import contextlib
import io
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

# Exceptions that unpicklers, PyTorch's among them, raise for damaged content.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)
NUMBERS = re.compile(r"f[248]|[iu][1248]")


class _Dtype:
    """Stand-in for numpy.dtype, whose byte order is set after its creation."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def is_object(self) -> bool:
        """Return whether the elements are Python objects."""
        return self.code in ("O", "O4", "O8")

    def to_numpy(self) -> np.dtype[Any]:
        """Return the type of numbers."""
        if self.order not in "<>=|" or not NUMBERS.fullmatch(self.code):
            raise pickle.UnpicklingError(f"an array has the type {self.code!r}; expected numbers")
        return np.dtype(self.order + self.code)


class _Array:
    """Stand-in for numpy.ndarray, whose shape and content are set after its creation.

    Attributes:
        value: the array; of objects, the list of them, or the only one; None before it is set.
    """

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, is_fortran, content = state
        if dtype.is_object():
            objects = [*map(plain, content)]
            if len(objects) != prod(shape):
                raise pickle.UnpicklingError(f"an array {shape} has {len(objects)} objects")
            self.value = objects if shape else objects[0]
            return
        if isinstance(content, str):  # Python 2
            content = content.encode("latin1")
        numbers = dtype.to_numpy()
        if min(shape, default=1) < 0 or len(content) != prod(shape) * numbers.itemsize:
            raise pickle.UnpicklingError(f"an array {shape} has {len(content)} bytes")
        array = np.frombuffer(content, numbers)
        self.value = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: Any) -> Any:
    """Return the stand-in for an array; NumPy's _frombuffer, of pickle protocol 5."""
    array = _Array()
    array.__setstate__((shape, dtype, order == "F", bytes(content)))
    return array


def _encode(text: str, codec: str) -> bytes:
    """Return bytes that Python 3 has pickled as text (protocols below 3)."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {codec!r}; expected 'latin1'")
    return text.encode(codec)


STAND_INS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}


# Python's own class: the C one allocates memory for the largest number of a memo that it reads.
class _Unpickler(pickle._Unpickler):
    """Unpickler that finds only the names in STAND_INS."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        if (stand_in := STAND_INS.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}; expected dictionaries and lists of NumPy arrays, since "
                "code in a file is not run"
            )
        return stand_in


def load_arrays(content: bytes) -> Any:
    """Return the dictionary, list or array in a pickle, made by Python 2 or 3.

    Raises:
        DAMAGED: the content is damaged, or is not of dictionaries, lists and arrays.
    """
    return plain(_Unpickler(io.BytesIO(content), encoding="latin1").load())


def plain(value: Any) -> Any:
    """Return an unpickled value with an array in place of its stand-in."""
    return value.value if isinstance(value, _Array) else value


def named_classes(content: bytes) -> set[str]:
    """Return the full names of classes and functions in pickles that follow each other.

    Modules of Python 2, which protocols below 3 name, are replaced by those of Python 3.

    Nothing is called. The list ends where the content is damaged, or no pickle any more.
    """
    names: set[str] = set()
    file = io.BytesIO(content)
    # pickletools warns of escapes in damaged names.
    with contextlib.suppress(*DAMAGED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while file.tell() < len(content):
            names.update(_names(file))
    return names


def _names(file: io.BytesIO) -> Iterator[str]:
    """Yield the full names in the next pickle of a file."""
    pushed: list[Any] = []  # operands in order, of which STACK_GLOBAL takes the last two
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(map(str, pushed[-2:]))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif "PUT" in opcode.name:
            memo[argument] = pushed[-1] if pushed else None
        elif "GET" in opcode.name:
            pushed.append(memo.get(argument))
        elif isinstance(argument, str):
            pushed.append(argument)
