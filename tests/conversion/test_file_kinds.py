"""Files that are not weights, or not in a form that can be read, and what is said of them."""

import gzip
import io
import re
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import foreign_files
from helpers.torchvision_files import TorchvisionAlexNet
from helpers.weight_files import TINY, make_caffe

from alexnet_jax import convert
from alexnet_jax.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 233\n"
SOLVER = 'net: "train_val.prototxt"\nbase_lr: 0.01\nlr_policy: "step"\n'


def refusal(path: Path, prototxt: Path | None = None) -> str:
    """Return the message for a file, of one line without escape codes."""
    with pytest.raises(InputError) as raised:
        convert.read_model(path, prototxt=prototxt)
    message = str(raised.value)
    assert message.isprintable()
    return message


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("net.pth", LFS, "a Git LFS pointer, not the weights themselves; run git lfs pull"),
        ("net.onnx", LFS, "a Git LFS pointer"),
        ("net.caffemodel", b"\n<!DOCTYPE html><html>", "a web page, not the weights; download"),
        ("net.safetensors", b"<html>", "a web page"),
        ("net.npy", b"", "empty; download or copy it again"),
        ("net.h5", b"\x89HDF\r\n\x1a\n", r"an HDF5 file, as Keras .*\.onnx \(from tf2onnx\)"),
        ("net.pth.tar", tar(), "a tar archive; unpack it"),
        ("net.tgz", gzip.compress(b"x", mtime=0), "compressed with gzip; unpack it"),
        ("net.ckpt", b"x" * 40 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a TensorFlow checkpoint"),
        ("net.ckpt.data-00000-of-00001", b"x", "a TensorFlow checkpoint"),
        ("net.keras", archive(config_json=b"{}", model_weights_h5=b"x"), "a Keras model"),
        ("net.zip", archive(a_pth=b"x", b_txt=b"y"), "a zip archive of a.pth, b.txt; unpack it"),
        ("net.solverstate", b"\x08\x01", "solver state, which has no weights; give the .caffe"),
        ("net.caffemodel", b"\x08\x01\x12\x01a", "solver state, which has no weights"),
        ("net.prototxt", b"layer { }", r"give it as --prototxt, and the \.caffemodel as --input"),
        ("net.pt", b"hello", "is not a PyTorch state dict, or is damaged"),
    ],
)
def test_kinds(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    """Catches a parser's complaint about a file that is something else, without a remedy."""
    (tmp_path / file).write_bytes(content)
    assert re.search(message, refusal(tmp_path / file))


def test_programs_of_pytorch(tmp_path: Path) -> None:
    """Catches PyTorch's advice to load a file without protection, and silence about state_dict."""
    model = TorchvisionAlexNet().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a format that is deprecated, and is what people have
        torch.jit.trace(model, torch.zeros(1, 3, 224, 224)).save(tmp_path / "script.pt")
    torch.save(model, tmp_path / "whole.pth")
    torch.save({"model": model}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), tmp_path / "a.pt2")
    (tmp_path / "a.pt2").rename(tmp_path / "exported.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "script.pt")
    assert "is a program of torch.export" in refusal(tmp_path / "exported.pt")
    for file in ("whole.pth", "old.pth"):
        message = refusal(tmp_path / file)
        assert "is a whole pickled model (torch.nn.modules." in message
        assert "torch.save(model.state_dict(), 'weights.pth')" in message


def test_a_compressed_archive(tmp_path: Path) -> None:
    """Catches a file of kilobytes that unpacks to gigabytes."""
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("net/data.pkl", bytes(2**20))
    assert "is compressed; expected an archive that PyTorch saved" in refusal(tmp_path / "net.pth")


def test_prototxt_files(tmp_path: Path) -> None:
    """Catches a traceback for a deep nesting, and a solver's definition taken for a model."""
    path, prototxt = make_caffe(tmp_path), tmp_path / "net.prototxt"
    for text, message in (
        ("layer { " * 2000 + "}" * 2000, "messages are nested too deeply"),
        ("x { " * 5000, "is not a Caffe prototxt"),
        (SOLVER, "is a solver's definition; expected that of the model, which it names in net"),
        (LFS.decode(), "a Git LFS pointer"),
        ("layer {", "is not a Caffe prototxt"),
    ):
        prototxt.write_text(text)
        assert message in refusal(path, prototxt)
    prototxt.write_text(foreign_files.prototxt(TINY))
    convert.read_model(path, prototxt=prototxt)
