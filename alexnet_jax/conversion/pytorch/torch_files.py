"""Read the tensors of PyTorch files, which are pickles, without running code in them; write them.

PyTorch must be installed. It reads files with `weights_only=True`. Checkpoints also contain objects
of other classes, such as a program's flags; those are replaced by stand-ins that record nothing.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.conversion import pickles
from alexnet_jax.conversion.weights_by_name import shown
from alexnet_jax.errors import InputError

SUFFIXES = (".pth", ".pt", ".th", ".ckpt", ".bin", ".tar")  # .tar as in .pth.tar
# Keys under which training programs save the state dict, in the order in which they are taken.
WRAPPING_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
MAX_WRAPPERS = 4
# Classes and functions that tensors are made of.
OF_TENSORS = re.compile(r"torch\.(\w+|_\w+\.\w+|storage\.\w+|nn\.parameter\.\w+)|collections\.\w+")
NOT_STORED = "expected plain tensors, each with all of its numbers in the file"


class _Ignored:
    """Stand-in for an object of a class that is not PyTorch's; it keeps nothing of it."""

    def __new__(cls, *_: object, **__: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of the state dict in a PyTorch file by name, without its wrappers.

    Raises:
        InputError: PyTorch is not installed, or the file is damaged or no state dict.
    """
    content = _load(path)
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        inner = [key for key in WRAPPING_KEYS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    if isinstance(content, Mapping):
        has = f"the keys {shown(content)}"
    else:
        has = f"an object of type {type(content).__name__}"
    tensors = _tensors(content)
    if not tensors:
        raise InputError(
            f"{path} holds {has}; expected a state dict of tensors by name, alone or under "
            f"{', '.join(WRAPPING_KEYS)}"
        )
    return tensors


def _tensors(content: object) -> dict[str, Any]:
    """Return a mapping of names to tensors as it is; an empty one if it is anything else."""
    import torch

    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return {}
    return dict(content) if all(map(torch.is_tensor, content.values())) else {}


def to_numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
    """Return the numbers of a floating-point tensor in float32, or float64 as they are.

    Raises:
        InputError: the tensor has other numbers, or fewer in the file than its shape states.
    """
    import torch

    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not is_plain or tensor.is_quantized:
        raise InputError(f"{path} has tensors that are not plain, such as {name}; {NOT_STORED}")
    if not tensor.is_floating_point():
        raise InputError(
            f"{path} has {name} of {str(tensor.dtype).removeprefix('torch.')}; expected "
            "floating-point numbers, not quantized"
        )
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise InputError(
            f"{path} has {name} {tuple(tensor.shape)}, of which {stored} numbers are in the file; "
            f"{NOT_STORED}"
        )
    tensor = tensor.detach()
    array: np.ndarray = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    return array


def to_file_content(path: Path, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a PyTorch file with a state dict of arrays by name.

    Args:
        path: the file, for messages.
        arrays: the arrays.

    Raises:
        InputError: PyTorch is not installed.
    """
    torch = _import_torch(path)
    content = io.BytesIO()
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, content)
    return content.getvalue()


def _load(path: Path) -> Any:
    """Return the content of a PyTorch file, with stand-ins for objects of other classes.

    Raises:
        InputError: PyTorch is not installed, or the file is damaged or no PyTorch file.
    """
    torch = _import_torch(path)
    try:
        classes = pickles.named_classes(_pickled(path))
        _check_classes(path, classes)
        stand_ins: list[Any] = [(_Ignored, n) for n in classes if not OF_TENSORS.fullmatch(n)]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # of pickle protocols other than PyTorch's own
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*pickles.DAMAGED, zipfile.BadZipFile):
        raise InputError(
            f"{path} is not a PyTorch state dict, or is damaged; download or copy it again, or "
            "save model.state_dict() anew"
        ) from None


def _import_torch(path: Path) -> Any:
    """Return the module torch, which a PyTorch file needs.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch file, and PyTorch is not installed; pip install torch, or give "
            "the weights as .safetensors"
        ) from None
    return torch


def _pickled(path: Path) -> bytes:
    """Return the pickle in a PyTorch file: an archive, or, before PyTorch 1.6, the file itself.

    Raises:
        InputError: the archive is compressed, which PyTorch's are not; its size would be unknown.
        BadZipFile: the archive is damaged. PyTorch itself does not compare checksums of tensors.
    """
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is compressed; expected an archive that PyTorch saved")
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {name} is another")
        return b"".join(archive.read(e) for e in entries if e.filename.endswith("data.pkl"))


def _check_classes(path: Path, classes: Iterable[str]) -> None:
    """Raise InputError for a pickled model, whose weights are inside objects of its classes."""
    modules = sorted(name for name in classes if name.startswith("torch.nn.modules."))
    if modules:
        raise InputError(
            f"{path} is a whole pickled model ({shown(modules)}), whose classes would have to be "
            "run; save its weights with torch.save(model.state_dict(), 'weights.pth')"
        )
