"""The same small model in the file of every format that convert reads, and residual networks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from alexnet_jax import convert
from alexnet_jax.config import validated, with_changes
from alexnet_jax.trained import TrainedModel
from configs import resnet
from helpers import caffe_branched, caffe_tensorflow_files, foreign_files, torchvision_files
from helpers.onnx_files import make_zoo_model
from helpers.torch_branched import random_variables

TINY = dict(conv1=4, conv2=4, conv3=4, conv4=4, conv5=4, fc6=4, fc7=8, fc8=3)


def caffemodel(sizes: dict[str, int]) -> bytes:
    """Return a .caffemodel of the older generation."""
    arrays = foreign_files.weights(sizes)
    return foreign_files.caffemodel(sizes, arrays, generation="layers", shaped=False)


def make_caffe(folder: Path) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(caffemodel(TINY))
    return path


def make_caffe_resnet(folder: Path, crop: int = 32) -> Path:
    net = caffe_branched.make_cifar_resnet(1, 4)
    layer = caffe_branched.Layer("data", "Data", [], ["data", "label"], dict(crop_size=crop))
    path = folder / "net.caffemodel"
    path.write_bytes(caffe_branched.to_caffemodel([layer, *net.layers]))
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


def make_own_onnx(folder: Path) -> Path:
    convert.write_model(folder / "own.onnx", convert.read_model(make_caffe(folder)))
    return folder / "own.onnx"


def make_external(folder: Path) -> Path:
    path = folder / "net.onnx"
    model = make_zoo_model(TINY)
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path


def make_legacy_torch(folder: Path) -> Path:
    state = torchvision_files.TorchvisionAlexNet().state_dict()
    torch.save({"model": state}, folder / "net.pth", _use_new_zipfile_serialization=False)
    return folder / "net.pth"


def make_npy(folder: Path) -> Path:
    layers = caffe_tensorflow_files.layers(foreign_files.weights(TINY))
    caffe_tensorflow_files.write_python3(folder / "net.npy", layers)
    return folder / "net.npy"


def make_python2_npy(folder: Path) -> Path:
    layers = caffe_tensorflow_files.layers(foreign_files.weights(TINY))
    caffe_tensorflow_files.write_python2(folder / "net.npy", layers)
    return folder / "net.npy"


def make_npz(folder: Path) -> Path:
    layers = caffe_tensorflow_files.layers(foreign_files.weights(TINY))
    caffe_tensorflow_files.write_npz(folder / "net.npz", layers)
    return folder / "net.npz"


def write_small_resnet(path: Path, **names: str) -> Path:
    """Write a narrow residual network for CIFAR-10 of 8 layers."""
    config = resnet.get_config("cifar20")
    model = resnet.resnet(config)
    model.num_classes, model.width, model.stage_sizes = 3, 2, (1, 1, 1)
    mean = np.zeros((32, 32, 3), np.float32)
    variables = random_variables(validated(config))
    convert.write_model(path, TrainedModel(config, 0, variables, mean, tuple("abc")), **names)
    return path


def make_torch_resnet(folder: Path) -> Path:
    return write_small_resnet(folder / "net.pth", names="akamaster")


def make_safetensors_resnet(folder: Path) -> Path:
    return write_small_resnet(folder / "net.safetensors", names="d-x-y")


def make_own_onnx_resnet(folder: Path) -> Path:
    return write_small_resnet(folder / "own.onnx")


Maker = Callable[[Path], Path]
MAKERS: list[Maker] = [
    *(make_caffe, make_caffe_resnet, make_onnx, make_external, make_own_onnx, make_torch),
    *(make_legacy_torch, make_safetensors, make_ours, make_npy, make_python2_npy, make_npz),
    *(make_torch_resnet, make_safetensors_resnet, make_own_onnx_resnet),
]


def read(path: Path, make: Maker) -> TrainedModel:
    """Read a file of the tiny model, or one that was made of it, with its maker's config."""
    if make in (make_torch, make_legacy_torch, make_safetensors):
        return convert.read_model(path, torchvision_files.small_config())
    if make in (make_npy, make_python2_npy, make_npz):
        return convert.read_model(path, caffe_tensorflow_files.config(TINY))
    if make is make_caffe_resnet:
        config = with_changes(resnet.get_config("cifar20"), {"data.mean": "none"})
        return convert.read_model(path, config)
    return convert.read_model(path)
