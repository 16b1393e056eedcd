"""Files of models that are not sequential in the formats that this program reads back."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.torch_branched import random_variables, small_googlenet, small_resnet

from alexnet_jax import convert
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.conversion.onnx.branched_builder import without_aux
from alexnet_jax.conversion.safetensors import read_safetensors, to_safetensors
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import TrainedModel
from configs import googlenet, resnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once


def trained_model(make: Any) -> TrainedModel:
    """Return a model with random variables."""
    config = validated(make())
    mean = np.full((28, 28, 1), 100, np.float32)
    return TrainedModel(config, 3, random_variables(config), mean, tuple("abcde"))


@pytest.mark.parametrize("make", [small_resnet, small_googlenet])
def test_own_files(make: Any, tmp_path: Path) -> None:
    """Catches: running statistics or layers within modules that are lost, renamed or unboxed."""
    model = trained_model(make)
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(model))
    found = read_safetensors(tmp_path / "model.safetensors")
    assert found.config == model.config
    assert [*leaves_by_path(found.variables)] == [*leaves_by_path(model.variables)]
    for path, leaf in leaves_by_path(model.variables).items():
        np.testing.assert_array_equal(leaves_by_path(found.variables)[path], leaf, err_msg=path)


ONNX_CONFIGS = [
    resnet.get_config("50"),
    resnet.get_config("18,shortcut_c,torchvision"),
    resnet.get_config("50,v1.5,shortcut_a"),
    resnet.get_config("cifar20"),
    resnet.get_config("cifar_plain20"),
    googlenet.get_config(),
    googlenet.get_config("torchvision"),
    googlenet.get_config("sample"),
]


def narrow(config: Config) -> TrainedModel:
    """Return a model with few filters and small images, random variables and mean image."""
    changes: dict[str, Any]
    if isinstance(config.model, ResNetConfig):
        size, changes = 60, {"model.width": 4, "model.stage_sizes": (1, 2, 1)}
    else:
        size, changes = 76, {"model.width": 1 / 16, "model.aux_pooling": "adaptive"}
    size = min(size, config.data.crop)
    changes["model.num_classes"] = 5
    data = {"data.crop": size, "data.image_size": size + 3, "data.scale": 1 / 50}
    config = with_changes(config, {**changes, **data, "data.scale_jitter": ()})
    shape = (size + 3, size + 3, config.model.channels)
    mean = np.random.default_rng(1).uniform(90, 150, shape).astype(np.float32)
    return TrainedModel(config, 3, random_variables(config), mean, tuple("abcde"))


@pytest.mark.parametrize(
    "config",
    ONNX_CONFIGS,
    ids=["50", "18c", "50a", "cifar", "plain", "googlenet", "torchvision", "small"],
)
def test_onnx(tmp_path: Path, config: Config) -> None:
    """Catches: a stride, a padding, a rounding of pooling or an epsilon that ONNX Runtime applies
    otherwise, an operator left out or at another place, zeros at other channels, and numbers that
    the file changes."""
    model = narrow(config)
    path, size, channels = (
        tmp_path / "net.onnx",
        model.config.data.crop,
        model.config.model.channels,
    )
    convert.write_model(path, model)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, channels)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    compute = jax.jit(
        lambda v, x: registry.apply_model(registry.make_model(model.config), v, x)[0].logits,
        compiler_options=QUICK,
    )
    ours = np.asarray(compute(model.variables, model.normalize_crops(pixels)))
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())

    again = convert.read_model(path)
    expected = without_aux(model)
    assert again.config == expected.config
    np.testing.assert_array_equal(again.mean_image, model.mean_image)
    found, wanted = leaves_by_path(again.variables), leaves_by_path(expected.variables)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_changed_onnx(tmp_path: Path) -> None:
    """Catches: a traceback for a file in which another program renamed or reshaped tensors."""
    path = tmp_path / "net.onnx"
    convert.write_model(path, narrow(resnet.get_config("cifar20")))
    content = onnx.load(path)
    tensor = next(t for t in content.graph.initializer if t.name == "batch_stats/bn1/var")
    tensor.dims[0] = 2
    tensor.raw_data = tensor.raw_data[:8]
    onnx.save(content, path)
    with pytest.raises(InputError, match=r"net\.onnx: batch_stats/bn1/var is \(2,\); expected"):
        convert.read_model(path)
    tensor.name = "other"
    onnx.save(content, path)
    with pytest.raises(InputError, match="has no tensor batch_stats/bn1/var; another program"):
        convert.read_model(path)
