"""Residual networks for CIFAR-10 of two PyTorch programs: their state dicts in both directions.

The modules are written again from descriptions of the programs, which are in no package.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.torchvision_models import draw_statistics
from torch import nn

from alexnet_jax import convert
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.pytorch import cifar_resnets
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.trained import TrainedModel
from configs import googlenet, resnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
PROGRAMS = ("akamaster", "d-x-y")
State = dict[str, torch.Tensor]


class Block(nn.Module):
    """A basic block of one of the programs.

    Args:
        inputs, features: numbers of channels.
        names: names of the convolutions and of their normalizations, in order.
        half: whether half of the zeros come before the other channels.
    """

    def __init__(self, inputs: int, features: int, names: tuple[str, ...], half: bool) -> None:
        super().__init__()
        self.stride, self.new = features // inputs, features - inputs
        self.names, self.before = names, self.new // 2 if half else 0
        conv1, norm1, conv2, norm2 = names
        self.add_module(conv1, nn.Conv2d(inputs, features, 3, self.stride, 1, bias=False))
        self.add_module(norm1, nn.BatchNorm2d(features))
        self.add_module(conv2, nn.Conv2d(features, features, 3, 1, 1, bias=False))
        self.add_module(norm2, nn.BatchNorm2d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the block."""
        conv1, norm1, conv2, norm2 = map(self.get_submodule, self.names)
        y = norm2(conv2(F.relu(norm1(conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.before, self.new - self.before)))


def make_peer(program: str, *, width: int = 16, blocks: int = 2) -> nn.Module:
    """Return a program's model with random weights and statistics, for evaluation."""
    torch.manual_seed(0)
    half = program == "akamaster"
    names = ("conv1", "bn1", "conv2", "bn2") if half else ("conv_a", "bn_a", "conv_b", "bn_b")
    parts: list[tuple[str, nn.Module]] = [
        ("conv1" if half else "conv_1_3x3", nn.Conv2d(3, width, 3, padding=1, bias=False)),
        ("bn1" if half else "bn_1", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU()),
    ]
    inputs = width
    for stage in range(3):
        features, stack = width * 2**stage, []
        for _ in range(blocks):
            stack.append(Block(inputs, features, names, half))
            inputs = features
        parts.append((f"layer{stage + 1}" if half else f"stage_{stage + 1}", nn.Sequential(*stack)))
    parts += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    parts.append(("linear" if half else "classifier", nn.Linear(inputs, 10)))
    model = nn.Sequential(OrderedDict(parts))
    for module in model.modules():
        draw_statistics(module)
    return model.eval()


def save(path: Path, state: State) -> Path:
    """Write a checkpoint as the programs do, of a model in DataParallel."""
    named = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 200, "state_dict": named, "best_prec1": 92.6}, path)
    return path


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_ways(tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: zeros of a shortcut at other channels, channels reordered in one place and not in
    another, or back in the wrong direction; other preprocessing than the program's."""
    peer = make_peer(program)
    model = convert.read_model(save(tmp_path / "model.th", peer.state_dict()))
    printed = capsys.readouterr().err
    assert f"as for {program}'s residual networks for CIFAR-10, by the names of its" in printed
    assert ("zeros before and after the other channels" in printed) == (program == "akamaster")
    expected = resnet.get_config("cifar20").model
    assert isinstance(expected, ResNetConfig)
    expected.num_classes, expected.stage_sizes = 10, (2, 2, 2)
    assert model.config.model == expected
    data = model.config.data
    assert (data.name, data.image_size, data.crop, data.mean) == ("cifar10", 32, 32, "given")
    red = (123.675, 58.395) if program == "akamaster" else (125.3, 63.0)
    assert (data.given_mean[0], data.std[0]) == pytest.approx(red)

    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = peer(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    compute = jax.jit(
        lambda v, x: registry.apply_model(registry.make_model(model.config), v, x)[0].logits,
        compiler_options=QUICK,
    )
    ours = compute(model.variables, images)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())

    convert.write_model(tmp_path / "again.pth", model, names=program)
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert [*again] == [*peer.state_dict()]
    for name, tensor in peer.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_projections(tmp_path: Path) -> None:
    """Catches: projections, with which zeros are nowhere, taken for zeros or reordered."""
    config = presets.cifar_resnet(small_model(shortcut="B"), (0.0,) * 3, (1.0,) * 3)
    variables = jax.tree.map(
        lambda leaf: np.random.default_rng(0).uniform(0.5, 1.5, leaf.shape).astype(np.float32),
        dict(registry.abstract_variables(validated(config))),
    )
    model = TrainedModel(config, 7, variables, np.zeros((32, 32, 3), np.float32), tuple("ab"))
    convert.write_model(tmp_path / "net.safetensors", model, names="akamaster")
    again = convert.read_model(tmp_path / "net.safetensors")
    assert again.config.model == config.model
    jax.tree.map(np.testing.assert_array_equal, again.variables, variables)


def small_model(**changes: object) -> ResNetConfig:
    """Return the model of a narrow network of 8 layers for CIFAR-10."""
    config = validated(resnet.get_config("cifar20"))
    fields = {"num_classes": 2, "width": 2, "stage_sizes": (1, 1, 1), **changes}
    model = with_changes(config, {f"model.{name}": value for name, value in fields.items()}).model
    assert isinstance(model, ResNetConfig)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {**s, "layer4.0.conv1.weight": torch.ones(1)},
            "akamaster's names and the stages 1, 2, 3, 4; expected 1 to 3, or the model and the",
        ),
        (
            lambda s: {**s, "layer2.0.conv2.weight": torch.ones(4, 4, 1, 1)},
            r"net\.pth: layer2\.0\.conv2\.weight is \(4, 4, 1, 1\); expected \(4, 4, 3, 3\)",
        ),
        (
            lambda s: {n: t for n, t in s.items() if n != "layer3.0.bn2.running_mean"},
            r"has no tensor layer3\.0\.bn2\.running_mean",
        ),
        (
            lambda s: {**s, "conv1.weight": torch.ones(2, 3, 7, 7)},
            r"conv1\.weight \(2, 3, 7, 7\); expected \(filters, channels, 3, 3\)",
        ),
        (
            lambda s: {**s, "stage_1.0.conv_a.weight": torch.ones(1)},
            r"several models, layer1\.0\.conv1\.weight and stage_1\.0\.conv_a\.weight",
        ),
    ],
)
def test_refused(tmp_path: Path, change: Callable[[State], State], message: str) -> None:
    """Catches: a traceback of the reordering, and models of others that are taken for these."""
    state = make_peer("akamaster", width=2, blocks=1).state_dict()
    torch.save(change(state), tmp_path / "net.pth")
    with pytest.raises(InputError, match=message):
        convert.read_model(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("config", "program", "message"),
    [
        (resnet.get_config("18"), "akamaster", "has stem=imagenet, which akamaster's"),
        (resnet.get_config("cifar20,shortcut_b"), "d-x-y", "shortcut=B, .* expected A, or"),
        (resnet.get_config("cifar_plain20"), "akamaster", "shortcut=none, .* expected A or B"),
        (resnet.get_config("cifar20"), "torchvision", "3 stages; expected 4"),
        (googlenet.get_config(), "akamaster", "--names=akamaster is for residual networks; the"),
    ],
)
def test_export_refused(tmp_path: Path, config: Config, program: str, message: str) -> None:
    """Catches: a file with which a program's model computes something else."""
    model = TrainedModel(config, 0, {}, np.zeros((32, 32, 3), np.float32), ())
    with pytest.raises(InputError, match=message):
        convert.write_model(tmp_path / "net.pth", model, names=program)


@pytest.mark.parametrize("width", [2, 6])
def test_order_of_channels(width: int) -> None:
    """Catches: an order that does not undo the opposite one, and one that leaves zeros before other
    channels."""
    model = small_model(width=width)
    names = ("conv1/kernel", "conv2/kernel", "bn2/scale", "bn2/bias")
    arrays = {}
    for stage, features in ((2, width), (3, 2 * width), (4, 4 * width)):
        inputs = max(width, features // 2)
        for name in names:
            shape = dict(conv1=(features, inputs), conv2=(features, features)).get(name[:5])
            arrays[f"params/conv{stage}_1/{name}"] = np.arange(np.prod(shape or features)).reshape(
                shape or features
            )
        for part in ("mean", "var"):
            arrays[f"batch_stats/conv{stage}_1/bn2/{part}"] = np.arange(features)
    arrays["params/fc/kernel"] = np.arange(4 * width)[None]
    ours = cifar_resnets.reorder_channels(model, arrays, zeros_around=False)
    order = ours["batch_stats/conv3_1/bn2/mean"]
    half = width // 2
    assert [*order] == [*range(half, half + width), *range(half), *range(half + width, 2 * width)]
    assert [*ours["params/fc/kernel"][0, :2]] == [width + half, width + half + 1]
    again = cifar_resnets.reorder_channels(model, ours, zeros_around=True)
    jax.tree.map(np.testing.assert_array_equal, again, arrays)
