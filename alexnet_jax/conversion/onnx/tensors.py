"""Read the tensors of ONNX models, stored in the file, beside it, or computed from constants."""

from collections.abc import Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from alexnet_jax.errors import InputError, one_line

# Elements of a tensor that is stated by its shape alone. The largest layer of VGG has 1.03e8.
MAX_ELEMENTS = 2**27
ONE_FILE = "to have one file, export with torch.onnx.export(…, external_data=False)"

TensorsByName = Mapping[str, np.ndarray]


def read_tensor(tensor: TensorProto | None, folder: Path) -> np.ndarray:
    """Return the numbers of a tensor.

    Args:
        tensor: the tensor; None if an operator states none.
        folder: folder of the ONNX file, in which other files with numbers must be.

    Raises:
        InputError: the tensor is damaged, has no numbers, or is in a file outside the folder.
    """
    if tensor is None:
        raise InputError("a Constant has no tensor; expected numbers")
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _with_external_data(tensor, folder)
    try:
        array: np.ndarray = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise InputError(f"the tensor {tensor.name} is damaged: {one_line(error)}") from None
    if array.dtype.kind in "OSUc":
        raise InputError(f"the tensor {tensor.name} has the type {array.dtype}; expected numbers")
    return array


def _with_external_data(tensor: TensorProto, folder: Path) -> TensorProto:
    """Return a copy of a tensor with its numbers, which are stored in another file.

    Raises:
        InputError: the file is outside the folder, or does not have the numbers.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"the tensor {tensor.name} is stored in another file, {location[:80]!r}"
    relative = PurePosixPath(location)
    try:
        path = (folder / relative).resolve()
        inside = path.is_relative_to(folder.resolve())
        file_size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # no name of a file, or a loop of links
        inside, file_size = True, None
    if relative.is_absolute() or ".." in relative.parts or not inside:
        raise InputError(f"{what}; expected one in the folder of the model; {ONE_FILE}")
    if file_size is None:
        raise InputError(f"{what}, which is not there; put it beside the model, or, {ONE_FILE}")
    try:
        number = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError):
        raise InputError(f"{what}, and has no type of numbers") from None
    size = prod(tensor.dims) * number.itemsize
    start, length = entries.get("offset", "0"), entries.get("length", str(size))
    is_valid = start.isdecimal() and length.isdecimal() and max(map(len, (start, length))) < 20
    if not is_valid or int(length) != size or int(start) + size > file_size:
        raise InputError(
            f"{what}, at byte {start[:30]} and {length[:30]} bytes long; expected {size:,} of the "
            f"{file_size:,} bytes there. The files do not belong together, or are damaged"
        )
    stored = TensorProto()
    stored.CopyFrom(tensor)
    stored.data_location = TensorProto.DEFAULT
    with path.open("rb") as file:
        file.seek(int(start))
        stored.raw_data = file.read(size)
    return stored


def compute_constant(
    node: onnx.NodeProto, attributes: Mapping[str, Any], arrays: TensorsByName, folder: Path
) -> np.ndarray | None:
    """Return the output of an operator that depends on constants only.

    Args:
        node: the operator.
        attributes: its attributes.
        arrays: constants by name.
        folder: see `read_tensor`.

    Returns:
        The output; None if the operator depends on the images.

    Raises:
        InputError: the operator states no numbers, or too many.
    """
    inputs = [arrays[name] for name in node.input if name in arrays]
    if len(inputs) < len(node.input):
        return None
    match node.op_type, inputs:
        case "Constant", []:
            for name in ("value_float", "value_floats", "value_int", "value_ints"):
                if name in attributes:
                    kind = np.float32 if "float" in name else np.int64
                    return np.array(attributes[name], kind)
            return read_tensor(attributes.get("value"), folder)
        case "ConstantOfShape", [shape]:
            value = np.zeros(1, np.float32)
            if "value" in attributes:
                value = read_tensor(attributes["value"], folder)
            sizes = shape.reshape(-1).tolist()
            if value.size != 1 or shape.dtype.kind != "i" or min(sizes, default=0) < 0:
                raise InputError(f"a ConstantOfShape has the shape {sizes}; expected sizes")
            if prod(sizes) > MAX_ELEMENTS:
                raise InputError(
                    f"a ConstantOfShape has {sizes} elements; expected at most {MAX_ELEMENTS:,}"
                )
            return np.broadcast_to(value.reshape(()), sizes)
        case "Identity", [array]:
            return array
        case "Reshape", [array, shape]:
            sizes = shape.reshape(-1).tolist()
            try:
                return array.reshape(sizes)
            except (ValueError, TypeError) as error:
                raise InputError(f"a Reshape of {array.shape}: {one_line(error)}") from None
        case "Transpose", [array]:
            axes = attributes.get("perm", [*range(array.ndim)][::-1])
            if sorted(axes) != [*range(array.ndim)]:
                raise InputError(f"a Transpose of {array.shape} has the axes {axes}")
            return array.transpose(axes)
    return None
