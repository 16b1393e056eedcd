"""State dicts in the files that PyTorch's training programs write."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.torchvision_files import TorchvisionAlexNet, small_config

from alexnet_jax import convert
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel

State = dict[str, torch.Tensor]
FILES = ("net.pth", "net.safetensors")


def state_dict() -> State:
    return dict(TorchvisionAlexNet().state_dict())


def read(path: Path) -> TrainedModel:
    return convert.read_model(path, small_config())


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def lightning(state: State) -> dict[str, Any]:
    """Return what Lightning saves, with a loss that has weights, and a program's flags."""
    return {
        "epoch": 3,
        "state_dict": {**prefixed("net.")(state), "criterion.weight": torch.ones(10)},
        "hyper_parameters": argparse.Namespace(rate=0.1, folder=Path("data")),
        "best": np.float64(0.5),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}}],
    }


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("net.pth.tar", lambda state: {"epoch": 90, "arch": "alexnet", "state_dict": state}),
        ("net.pth", lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}}),
        ("net.pth", lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}),
        ("net.bin", lambda state: {"net": prefixed("module.")(state), "acc": 56.5}),
        ("net.pt", prefixed("_orig_mod.")),
        ("net.pt", lambda state: {n.replace("s.", "s._orig_mod.", 1): t for n, t in state.items()}),
        ("net.pt", prefixed("module._orig_mod.model.")),
        ("net.pth", lambda state: {"model": {"state_dict": prefixed("encoder.")(state)}}),
        ("net.ckpt", lightning),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped(tmp_path: Path, file: str, wrap: Callable[[State], Any], zipped: bool) -> None:
    """Catches a suffix, a key around the weights or a prefix of their names that is not known, and
    objects beside them that make a file unreadable."""
    state = state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / file, _use_new_zipfile_serialization=zipped)
    jax.tree.map(
        np.testing.assert_array_equal,
        read(tmp_path / file).params,
        read(tmp_path / "plain.pth").params,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"epoch": 3, "optimizer": {}},
            r"holds the keys epoch, optimizer; expected a state dict of tensors by name, alone or",
        ),
        (
            lambda s: {"conv1.weight": s["features.0.weight"]},
            r"no tensor features\.0\.weight; it has conv1\.weight; expected torchvision's features",
        ),
        (
            lambda s: {("x" if n == "features.3.bias" else n): t for n, t in s.items()},
            r"no tensor features\.3\.bias; it has features\.0\.weight, .*\(16 in all\)",
        ),
        (lambda s: {**s, "extra": s["features.0.bias"]}, "has a tensor extra; it has"),
        (
            lambda s: {**prefixed("student.")(s), **prefixed("teacher.")(s)},
            r"has several models, with features\.0\.weight after student\., teacher\.",
        ),
        (
            lambda s: {**s, "module.features.0.bias": s["features.0.bias"]},
            r"has both features\.0\.bias and module\.features\.0\.bias",
        ),
        (lambda s: [*s.values()], "holds an object of type list; expected a state dict"),
    ],
)
def test_other_contents(tmp_path: Path, change: Callable[[State], Any], message: str) -> None:
    """Catches a refusal that does not name what is in the file, and one of two models taken."""
    torch.save(change(state_dict()), tmp_path / "net.pth")
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path / "net.pth")
    assert "\n" not in str(raised.value)


def test_a_changed_number(tmp_path: Path) -> None:
    """Catches: numbers that damage has changed, of which PyTorch does not compare checksums."""
    state = state_dict()
    torch.save(state, tmp_path / "net.pth")
    content = (tmp_path / "net.pth").read_bytes()
    number = state["classifier.6.bias"].numpy().tobytes()[:4]
    assert content.count(number) == 1
    changed = content.replace(number, bytes([number[0] ^ 1]) + number[1:])
    (tmp_path / "net.pth").write_bytes(changed)
    with pytest.raises(InputError, match="is not a PyTorch state dict, or is damaged; download"):
        read(tmp_path / "net.pth")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_types_of_numbers(tmp_path: Path, file: str, kind: torch.dtype) -> None:
    """Catches weights of another precision that are refused, or read as other numbers."""
    state = {name: tensor.to(kind) for name, tensor in state_dict().items()}
    torch.save({n: t.to(kind).float() for n, t in state.items()}, tmp_path / "rounded.pth")
    write(tmp_path / file, state)
    jax.tree.map(
        np.testing.assert_array_equal,
        read(tmp_path / file).params,
        read(tmp_path / "rounded.pth").params,
    )


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        *((file, kind) for file in FILES for kind in (torch.int8, torch.bool, torch.complex64)),
        ("net.safetensors", torch.float8_e4m3fn),
    ],
)
def test_other_types_are_refused(tmp_path: Path, file: str, kind: torch.dtype) -> None:
    """Catches quantized weights taken for the numbers that they stand for, or a traceback."""
    name = "features.3.weight"
    state = {**state_dict(), name: state_dict()[name].to(kind)}
    write(tmp_path / file, state)
    with pytest.raises(InputError, match=r"(features\.3\.weight|conv2) ?.* of (type )?\w+; expect"):
        read(tmp_path / file)


def write(path: Path, state: State) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)


def test_numbers_that_are_not_stored(tmp_path: Path) -> None:
    """Catches a small file that asks for any amount of memory: a tensor that repeats one number."""
    for shape in ((24, 288), (2**20, 2**20)):
        state = {**state_dict(), "classifier.1.weight": torch.zeros(1).expand(shape)}
        torch.save(state, tmp_path / "net.pth")
        with pytest.raises(
            InputError, match=r"classifier\.1\.weight .*, of which 1 numbers are in"
        ):
            read(tmp_path / "net.pth")


def test_not_finite(tmp_path: Path) -> None:
    """Catches NaN taken for a weight, and a number too large for float32."""
    for value in (torch.nan, -torch.inf, 1e300):
        state = {n: t.double() for n, t in state_dict().items()}
        state["features.6.bias"][3] = value
        torch.save(state, tmp_path / "net.pth")
        with pytest.raises(InputError, match="conv3 has biases that are not finite"):
            read(tmp_path / "net.pth")
