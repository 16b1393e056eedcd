"""The variants for CIFAR-10 take its binary files in place of TensorFlow Datasets."""

from pathlib import Path

import pytest
from helpers.image_sets import write_cifar10_binary

from alexnet_jax import command, fields
from alexnet_jax.config import validated
from alexnet_jax.data.sources import cifar10_binary
from alexnet_jax.prepare import prepare
from alexnet_jax.run_config import check_devices_and_patterns, complete_config


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Write files of 20 images each; return the fields that name them."""
    monkeypatch.setattr(cifar10_binary, "IMAGES_PER_FILE", 20)
    write_cifar10_binary(tmp_path / "bin", 20)
    directories = {"data.dir": str(tmp_path / "bin"), "data.pack_dir": str(tmp_path / "pack")}
    return {"data.name": "cifar10_binary", **directories}


@pytest.mark.parametrize("name", ["alexnet", "zfnet", "vgg", "googlenet", "resnet"])
def test_two_fields_choose_the_files(name: str, changes: dict[str, str]) -> None:
    """Catches: a recipe whose stages, crop or preparation fit another source only, or that holds
    out no images to validate on where it needs them."""
    config = validated(fields.replace(command.load_config(f"configs/{name}.py:cifar10"), changes))
    check_devices_and_patterns(config)
    pack = prepare(config.data, progress=False)
    assert complete_config(config, pack).model.num_classes == 10
    assert pack.splits["test"].count == 20
    held_out = pack.splits["validation"].count if "validation" in pack.splits else 0
    assert held_out == round(100 * config.data.validation_share)
    assert pack.splits["train"].count == 100 - held_out
