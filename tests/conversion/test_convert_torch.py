"""torchvision's layout, against PyTorch itself, and this program's own safetensors."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.foreign_files import make_image
from helpers.torchvision_files import small_config, write_weights

from alexnet_jax import convert
from alexnet_jax.config import with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.predict import predict
from configs import one_weird_trick


def test_against_pytorch(tmp_path: Path) -> None:
    """Catches other deviations or their order, a dropout that halves, pools that round up."""
    reference = write_weights(tmp_path / "net.pth")
    model = convert.read_model(tmp_path / "net.pth", small_config())
    pixels = make_image()
    # torchvision.transforms: CenterCrop(224), ToTensor, Normalize.
    seen = torch.tensor(pixels[16:240, 16:240] / 255.0)
    seen = (seen - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = reference(seen.permute(2, 0, 1)[None].float()).softmax(1)[0].numpy()
    ((_, best),) = predict(model, [("image", pixels)])
    for name, probability in best:
        # Probabilities near 0.1 of float32 sums in another order.
        assert probability == pytest.approx(float(expected[int(name)]), rel=1e-5)
    assert np.ptp(expected) > 1e-2


@pytest.mark.parametrize(("file", "wrapped"), [("net.safetensors", False), ("net.pt", True)])
def test_containers(tmp_path: Path, file: str, wrapped: bool) -> None:
    """Catches names of DataParallel, or an array that another container orders otherwise."""
    write_weights(tmp_path / "plain.pth")
    write_weights(tmp_path / file, wrapped)
    plain = convert.read_model(tmp_path / "plain.pth", small_config())
    jax.tree.map(
        np.testing.assert_array_equal,
        plain.params,
        convert.read_model(tmp_path / file, small_config()).params,
    )


def test_size_of_torchvisions_model() -> None:
    """Catches another model under this name: torchvision counts 61,100,840 parameters."""
    full = with_changes(one_weird_trick.get_config(), {"model.num_classes": 1000})
    sizes = [leaf.size for leaf in jax.tree.leaves(registry.abstract_variables(full))]
    assert sum(sizes) == 61_100_840


def test_without_a_config(tmp_path: Path) -> None:
    """Catches the preprocessing or the ops of another program's files taken for torchvision's."""
    write_weights(tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"conv1 \(8, 3, 11, 11\); expected \(64, 3, 11, 11\)"):
        convert.read_model(tmp_path / "net.pth")
    model = convert.read_model(tmp_path / "net.pth", small_config())
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
    message = r"net\.pth holds the keys features\.0\.weight; expected a state dict of tensors"
    with pytest.raises(InputError, match=message):
        convert.read_model(tmp_path / "net.pth", small_config())
    assert not (tmp_path / "sprung").exists()


def test_own_safetensors_are_exact(tmp_path: Path) -> None:
    """Catches a parameter, the mean or a config field lost or rounded on the way, and the names."""
    write_weights(tmp_path / "net.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {n}" for n in range(10)))
    model = convert.read_model(tmp_path / "net.pth", small_config(), class_names=names)
    convert.write_model(tmp_path / "ours.safetensors", model)
    again = convert.read_model(tmp_path / "ours.safetensors")
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    np.testing.assert_array_equal(model.mean_image, again.mean_image)
    assert again.class_names == tuple(f"class {n}" for n in range(10))
    assert again.config == model.config
    with safetensors.safe_open(tmp_path / "ours.safetensors", "numpy") as file:
        axes = json.loads(file.metadata()["axes"])
        assert axes["conv1.kernel"] == "conv_height, conv_width, conv_inputs, conv_outputs"
        assert file.get_tensor("fc7.kernel").shape == (24, 20)
