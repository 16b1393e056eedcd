"""The same small model in the file of every format that convert reads."""

from pathlib import Path

from alexnet_jax import convert
from helpers import foreign_files, torchvision_files
from helpers.onnx_files import make_zoo_model

TINY = dict(conv1=4, conv2=4, conv3=4, conv4=4, conv5=4, fc6=4, fc7=8, fc8=3)


def caffemodel(sizes: dict[str, int]) -> bytes:
    """Return a .caffemodel of the older generation."""
    arrays = foreign_files.weights(sizes)
    return foreign_files.caffemodel(sizes, arrays, generation="layers", shaped=False)


def make_caffe(folder: Path) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(caffemodel(TINY))
    return path


def make_onnx(folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(make_zoo_model(TINY).SerializeToString())
    return path


def make_torch(folder: Path) -> Path:
    torchvision_files.write_weights(folder / "net.pth")
    return folder / "net.pth"


def make_safetensors(folder: Path) -> Path:
    torchvision_files.write_weights(folder / "net.safetensors")
    return folder / "net.safetensors"


def make_ours(folder: Path) -> Path:
    convert.write_model(folder / "ours.safetensors", convert.read_model(make_caffe(folder)))
    return folder / "ours.safetensors"
