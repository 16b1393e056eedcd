"""torchvision's layout, against PyTorch itself, and this program's own safetensors."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from foreign import picture

from alexnet_jax import config as configs
from alexnet_jax import convert
from alexnet_jax.config import Config
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, SequentialConfig
from alexnet_jax.predict import predict
from configs import one_weird_trick
from configs.variants import sequential

CHANNELS = dict(conv1=8, conv2=12, conv3=8, conv4=12, conv5=8, fc6=24, fc7=20)


def config() -> Config:
    """Return the config of torchvision's alexnet, with few channels."""
    config = one_weird_trick.get_config()
    for name, features in CHANNELS.items():
        op = sequential(config).ops[name]
        assert isinstance(op, Conv | Dense)
        op.features = features
    return config


class Torchvision(torch.nn.Module):
    """The modules of torchvision's alexnet by their names, with few channels.

    torchvision/models/alexnet.py, written again from its description: it is not installed.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        conv, pool = torch.nn.Conv2d, torch.nn.MaxPool2d(3, 2)
        relu, drop = torch.nn.ReLU(), torch.nn.Dropout()
        a, b, c, d, e, f, g = CHANNELS.values()
        torch.manual_seed(0)
        first = (conv(3, a, 11, 4, 2), relu, pool, conv(a, b, 5, padding=2), relu, pool)
        rest = (conv(b, c, 3, padding=1), relu, conv(c, d, 3, padding=1), relu)
        self.features = torch.nn.Sequential(*first, *rest, conv(d, e, 3, padding=1), relu, pool)
        self.avgpool = torch.nn.AdaptiveAvgPool2d((6, 6))
        dense = torch.nn.Linear
        self.classifier = torch.nn.Sequential(
            *(drop, dense(36 * e, f), relu, drop, dense(f, g), relu, dense(g, classes))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def write(path: Path, wrapped: bool = False) -> Torchvision:
    """Write a state dict and return its model; `wrapped` as PyTorch's ImageNet example saves it."""
    model = Torchvision().eval()
    state = model.state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif wrapped:
        named = {name.replace("features.", "features.module."): t for name, t in state.items()}
        torch.save({"epoch": 90, "state_dict": named}, path)
    else:
        torch.save(state, path)
    return model


def test_against_pytorch(tmp_path: Path) -> None:
    """Catches other deviations or their order, a dropout that halves, pools that round up."""
    twin = write(tmp_path / "net.pth")
    model = convert.read(tmp_path / "net.pth", config())
    pixels = picture()
    # torchvision.transforms: CenterCrop(224), ToTensor, Normalize.
    seen = torch.tensor(pixels[16:240, 16:240] / 255.0)
    seen = (seen - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = twin(seen.permute(2, 0, 1)[None].float()).softmax(1)[0].numpy()
    ((_, best),) = predict(model, [("image", pixels)])
    for name, probability in best:
        # Probabilities near 0.1 of float32 sums in another order.
        assert probability == pytest.approx(float(expected[int(name)]), rel=1e-5)
    assert np.ptp(expected) > 1e-2


@pytest.mark.parametrize(("file", "wrapped"), [("net.safetensors", False), ("net.pt", True)])
def test_containers(tmp_path: Path, file: str, wrapped: bool) -> None:
    """Catches names of DataParallel, or an array that another container orders otherwise."""
    write(tmp_path / "plain.pth")
    write(tmp_path / file, wrapped)
    plain = convert.read(tmp_path / "plain.pth", config())
    jax.tree.map(
        np.testing.assert_array_equal,
        plain.params,
        convert.read(tmp_path / file, config()).params,
    )


def test_size_of_torchvisions_model() -> None:
    """Catches another model under this name: torchvision counts 61,100,840 parameters."""
    full = configs.with_changes(one_weird_trick.get_config(), {"model.num_classes": 1000})
    sizes = [leaf.size for leaf in jax.tree.leaves(registry.abstract_variables(full))]
    assert sum(sizes) == 61_100_840


def test_without_a_config(tmp_path: Path) -> None:
    """Catches the preprocessing or the ops of another program's files taken for torchvision's."""
    write(tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"conv1 \(8, 3, 11, 11\); expected \(64, 3, 11, 11\)"):
        convert.read(tmp_path / "net.pth")
    model = convert.read(tmp_path / "net.pth", config())
    preset = presets.torchvision_alexnet()
    assert isinstance(model.config.model, SequentialConfig)
    assert isinstance(preset.model, SequentialConfig)
    assert model.config.data == preset.data
    ops = {n: op for n, op in model.config.model.ops.items() if n not in model.params}
    assert ops == {n: op for n, op in preset.model.ops.items() if n not in model.params}


def test_nothing_is_executed(tmp_path: Path) -> None:
    """Catches a pickle that is loaded whole: this one would write a file."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    torch.save({"features.0.weight": Trap()}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth is no state dict"):
        convert.read(tmp_path / "net.pth", config())
    assert not (tmp_path / "sprung").exists()


def test_own_safetensors_are_exact(tmp_path: Path) -> None:
    """Catches a parameter, the mean or a config field lost or rounded on the way, and the names."""
    write(tmp_path / "net.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {n}" for n in range(10)))
    model = convert.read(tmp_path / "net.pth", config(), class_names=names)
    convert.write(tmp_path / "ours.safetensors", model)
    again = convert.read(tmp_path / "ours.safetensors")
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    np.testing.assert_array_equal(model.mean_image, again.mean_image)
    assert again.class_names == tuple(f"class {n}" for n in range(10))
    assert again.config == model.config
    with safetensors.safe_open(tmp_path / "ours.safetensors", "numpy") as file:
        axes = json.loads(file.metadata()["axes"])
        assert axes["conv1.kernel"] == "conv_height, conv_width, conv_inputs, conv_outputs"
        assert file.get_tensor("fc7.kernel").shape == (24, 20)
