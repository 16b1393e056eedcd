"""Recognize files without readable weights by their content, to name them and the remedy."""

import re
import zipfile
from pathlib import Path

HEAD_BYTES = 512
TENSORFLOW = (
    "a TensorFlow checkpoint; expected the weights as .onnx (from tf2onnx), or as .npy or .npz "
    "with the arrays of each layer"
)
# What a file is, and the remedy, by its first bytes.
BY_START = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the weights themselves; run git lfs pull in the repository"
    ),
    b"\x89HDF\r\n": (
        "an HDF5 file, as Keras and Caffe's hdf5 snapshots; expected Caffe's .caffemodel (snapshot_"
        "format: BINARYPROTO), .onnx (from tf2onnx), or .npz with the arrays of each layer"
    ),
    b"\x1f\x8b": "compressed with gzip; unpack it (gunzip, or tar -xzf) and give the file inside",
    b"BZh": "compressed with bzip2; unpack it and give the file inside",
    b"\xfd7zXZ\0": "compressed with xz; unpack it and give the file inside",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and give the file of weights inside",
    b"Rar!": "a RAR archive; unpack it and give the file of weights inside",
    b"model_checkpoint_path:": TENSORFLOW,
}
# The same by the suffix of a file that belongs to weights and has none.
WITHOUT_WEIGHTS = {
    ".prototxt": (
        "a definition of Caffe's, which has no weights; give it as --prototxt, and the .caffemodel "
        "as --input"
    ),
    ".solverstate": (
        "Caffe's solver state, which has no weights; give the .caffemodel of the same iteration"
    ),
}
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of TensorFlow's tables (tsl/lib/io/format.h)


def describe(path: Path) -> str:
    """Return what a file is and the remedy, if it has no weights that can be read; "" otherwise.

    A file that cannot be opened is not described either.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(max(0, file.seek(0, 2) - len(TABLE_END)))
            tail = file.read()
    except OSError:
        return ""
    if not head:
        return "empty; download or copy it again"
    for start, what in BY_START.items():
        if head.startswith(start):
            return what
    if WEB_PAGE.match(head):
        return "a web page, not the weights; download the file that the page links to"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it (tar -xf) and give the file of weights inside"
    if tail == TABLE_END or re.search(r"\.data-\d+-of-\d+$", path.name):
        return TENSORFLOW
    # The first field of Caffe's SolverState is a number, that of its NetParameter a name.
    if path.suffix == ".caffemodel" and head[0] == 8:
        return WITHOUT_WEIGHTS[".solverstate"]
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    return ""


def _describe_zip(path: Path) -> str:
    """Return what a zip archive is, unless PyTorch or NumPy saved arrays in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""  # damaged, which the reader for its suffix reports
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript program, not a state dict; save its weights with "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if any(name.endswith("archive_format") for name in names):
        return (
            "a program of torch.export, not a state dict; save its weights with "
            "torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
        )
    if any(name.endswith(("data.pkl", ".npy")) for name in names):
        return ""
    if any(name.endswith(".weights.h5") for name in names):
        return (
            "a Keras model; expected the weights as .onnx (from tf2onnx), or as .npz with the "
            "arrays of each layer"
        )
    some = ", ".join(names[:3]) or "nothing"
    return f"a zip archive of {some}; unpack it and give the file of weights inside"
