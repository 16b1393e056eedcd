"""torchvision's googlenet and residual networks: their state dicts in both directions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from helpers.in_process import run_here
from helpers.torch_branched import random_variables
from helpers.torchvision_files import State, load_state, write_state
from helpers.torchvision_models import make_model, models

from alexnet_jax import convert
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.conversion import branched, presets
from alexnet_jax.conversion.pytorch.torchvision_branched import choose_config, tensor_names
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import TrainedModel, load_trained
from configs import googlenet, resnet, vgg

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once


def small_config(name: str = "resnet18", **fields: Any) -> Config:
    """Return the config of a torchvision model with a sixteenth of its filters and five classes."""
    if name == "googlenet":
        config = presets.torchvision_googlenet()
        fields = {"width": 1 / 16, **fields}
    else:
        block = "bottleneck" if name == "resnet50" else "basic"
        config = presets.torchvision_resnet(block, 1, 2, 1, 1)
        fields = {"width": 4, **fields}
    changes = {f"model.{field}": value for field, value in fields.items()}
    return with_changes(config, {"model.num_classes": 5, **changes})


def make_state(config: Config) -> State:
    """Return a state dict with random numbers, as torchvision's model of a config has it."""
    arrays = branched.to_foreign(random_variables(config))
    state: State = {}
    for path, name in tensor_names(config.model, arrays).items():
        state[name] = torch.tensor(arrays[path])
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in ("resnet18", "resnet50")),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("resnet34", "resnet101", "resnet152")
        ),
        ("googlenet", {"aux_logits": True, "init_weights": False}),
        ("googlenet", {"aux_logits": False, "init_weights": False}),
    ],
)
def test_names(name: str, settings: dict[str, Any]) -> None:
    """Catches: a tensor with another name, shape or place than torchvision's, a model taken for one
    with more blocks, and auxiliary classifiers that are made up or left out."""
    with torch.device("meta"):
        state = models.get_model(name, weights=None, **settings).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    found, config = choose_config(Path("net.pth"), shapes, shapes.__getitem__)
    assert found == name
    ours = branched.foreign_shapes(validated(config))
    names = tensor_names(config.model, ours)
    expected = {key: shape for key, shape in shapes.items() if "num_batches" not in key}
    assert [*names.values()] == [*expected]
    assert {key: ours[path] for path, key in names.items()} == expected


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "fields"), [("resnet18", {}), ("resnet50", {}), ("googlenet", {"aux_weight": 0.0})]
)
def test_both_ways(tmp_path: Path, name: str, fields: dict[str, Any], suffix: str) -> None:
    """Catches: a number that changes on the way, a width or depth that is not that of the shapes,
    counters that are missing, other preprocessing than torchvision's."""
    config = small_config(name, **fields)
    state = make_state(config)
    model = convert.read_model(write_state(tmp_path / f"net{suffix}", state))
    assert model.config.model == config.model
    assert model.config.data == config.data
    convert.write_model(tmp_path / f"again{suffix}", model, names="torchvision")
    again = load_state(tmp_path / f"again{suffix}")
    assert [*again] == [*state] or suffix == ".safetensors"  # which sorts them
    assert {*again} == {*state}
    for key, tensor in state.items():
        assert torch.equal(again[key], tensor), key
        assert again[key].dtype == tensor.dtype


def test_auxiliary_classifiers(tmp_path: Path) -> None:
    """Catches: units of an auxiliary classifier in another order, which only training shows."""
    config = small_config("googlenet")
    state = make_state(config)
    model = convert.read_model(write_state(tmp_path / "net.pth", state))
    assert model.config.model == config.model
    weight = state["aux2.fc1.weight"].numpy()
    kernel, channels = model.params["aux2"]["fc1"]["kernel"], 8
    assert weight.shape == (64, channels * 16)
    row, column, channel = 1, 2, 5
    np.testing.assert_array_equal(
        kernel[(row * 4 + column) * channels + channel],
        weight[:, (channel * 4 + row) * 4 + column],
    )
    convert.write_model(tmp_path / "again.pth", model)
    again = load_state(tmp_path / "again.pth")
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet18", {}), ("googlenet", dict(aux_logits=True, init_weights=False))],
)
def test_torchvision_reads_it(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """Catches: a file with which torchvision's model computes something else, or that needs a
    config."""
    peer = make_model(name, num_classes=7, **settings)
    model = convert.read_model(write_state(tmp_path / "net.pth", peer.state_dict()))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    compute = jax.jit(
        lambda v, x: registry.apply_model(registry.make_model(model.config), v, x)[0].logits,
        compiler_options=QUICK,
    )
    logits = compute(model.variables, images)
    convert.write_model(tmp_path / "again.pth", model)
    fresh = make_model(name, num_classes=7, **settings)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    fresh.load_state_dict(load_state(tmp_path / "again.pth"))
    with torch.no_grad():
        expected = fresh(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer2.1.bn2.weight"), r"has no tensor layer2\.1\.bn2\.weight; it has conv1"),
        (without("fc.weight"), r"has fc\.weight \(\); expected \(classes, features\)"),
        (without("conv1.weight"), r"has conv1\.weight \(\); expected \(filters, channels, 7, 7\)"),
        (with_tensor("extra", torch.ones(3)), "has a tensor extra; it has"),
        (
            with_tensor("layer3.0.conv1.weight", torch.ones(16, 8, 1, 1)),
            r"layer3\.0\.conv1\.weight is \(16, 8, 1, 1\); expected \(16, 8, 3, 3\)",
        ),
        (
            with_tensor("conv1.weight", torch.ones(4, 3, 3, 3)),
            r"conv1\.weight \(4, 3, 3, 3\); expected \(filters, channels, 7, 7\).* --config=FILE",
        ),
        (
            with_tensor("layer1.0.bn1.running_var", -torch.ones(4)),
            r"layer1\.0\.bn1\.running_var is a variance and negative",
        ),
        (
            with_tensor("layer1.0.bn1.running_mean", torch.full((4,), torch.nan)),
            r"layer1\.0\.bn1\.running_mean has numbers that are not finite",
        ),
        (with_tensor("fc.bias", torch.ones(5, dtype=torch.int32)), "fc.bias of int32; expected"),
        (
            with_tensor("layer5.0.conv1.weight", torch.ones(1)),
            "with the stages 1, 2, 3, 4, 5; expected 1 to 4",
        ),
        (
            with_tensor("features.0.weight", torch.ones(1)),
            r"several models, features\.0\.weight and layer1\.0\.conv1\.weight; expected one",
        ),
        (
            lambda state: {**state, **make_state(small_config("googlenet"))},
            r"several models, layer1\.0\.conv1\.weight and inception3a",
        ),
        (
            lambda state: {**{f"a.{k}": t for k, t in state.items()}, **with_b(state)},
            r"has several models, with layer1\.0\.conv1\.weight after a\., b\.",
        ),
    ],
)
def test_refused(tmp_path: Path, change: Callable[[State], State], message: str) -> None:
    """Catches: a traceback, numbers that are made up or stretched to fit, one of two models taken,
    and a network for small images, or with wider blocks, that is taken for torchvision's."""
    path = write_state(tmp_path / "net.pth", change(make_state(small_config())))
    with pytest.raises(InputError, match=message) as raised:
        convert.read_model(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def with_b(state: State) -> State:
    return {f"b.{key}": tensor for key, tensor in state.items()}


def test_given_config(tmp_path: Path) -> None:
    """Catches: a config whose model is replaced by torchvision's, one of another family that is
    ignored, and the prefixes of training programs."""
    config = resnet.get_config("cifar_plain20")
    config.model.num_classes, config.data.mean = 5, "none"
    state = {f"module.{key}": tensor for key, tensor in make_state(config).items()}
    path = write_state(tmp_path / "net.pth", state)
    given = resnet.get_config("cifar_plain20")
    given.data.mean = "none"
    model = convert.read_model(path, validated(given))
    assert model.config.model == config.model
    other = validated(vgg.get_config("torchvision"))
    with pytest.raises(InputError, match=r"no tensor features\.0\.weight; it has module\.conv1"):
        convert.read_model(path, other)
    given = resnet.get_config("cifar20,shortcut_b")
    with pytest.raises(InputError, match=r"no tensor layer2\.0\.downsample\.0\.weight"):
        convert.read_model(path, validated(given))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small_config("resnet50", stride_in="1x1"), "stride_in=1x1, .* expected 3x3"),
        (small_config(shortcut="A"), "shortcut=A, .* expected B"),
        (small_config(pool_padding=0), "pool_padding=0, .* expected 1"),
        (
            with_changes(small_config(), {"model.batch_norm.epsilon": 1e-3}),
            "epsilon=0.001, .* expected 1e-05",
        ),
        (small_config(stage_sizes=(1, 1, 1)), "has 3 stages; expected 4"),
        (small_config("googlenet", aux_pooling="windows"), "aux_pooling=windows, .* adaptive"),
        (validated(googlenet.get_config()), "normalization=lrn, .* expected batch_norm"),
    ],
)
def test_export_refused(tmp_path: Path, config: Config, message: str) -> None:
    """Catches: a state dict with which torchvision's model computes something else."""
    model = TrainedModel(config, 0, {}, np.zeros((256, 256, 3), np.float32), tuple("abcde"))
    with pytest.raises(InputError, match=message):
        convert.write_model(tmp_path / "net.pth", model)
    assert not [*tmp_path.iterdir()]


def test_the_command(tmp_path: Path) -> None:
    """Catches: running statistics that a workdir loses, and preprocessing that is not recorded."""
    state = make_state(small_config())
    path, run = write_state(tmp_path / "net.pth", state), tmp_path / "run"
    done = run_here("convert", f"--input={path}", f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    assert (
        "preprocessing as for torchvision's residual networks, by the names of its" in done.stderr
    )
    assert "mean given (123.675, 116.28, 103.53), divided by (58.395" in done.stdout
    model, expected = load_trained(run), leaves_by_path(convert.read_model(path).variables)
    found = leaves_by_path(model.variables)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    done = run_here("convert", f"--workdir={run}", f"--output={tmp_path / 'out.pth'}")
    assert done.returncode == 0, done.stderr
    again = load_state(tmp_path / "out.pth")
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
