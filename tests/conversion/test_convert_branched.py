"""Files of models that are not sequential: our own format keeps them, others refuse them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.torch_branched import random_variables, small_googlenet, small_resnet

from alexnet_jax import convert
from alexnet_jax.config import validated
from alexnet_jax.conversion.safetensors import read_safetensors, to_safetensors
from alexnet_jax.errors import InputError
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import TrainedModel


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


def test_onnx_is_refused(tmp_path: Path) -> None:
    """Catches: a traceback, or a file without a part of the model."""
    with pytest.raises(InputError, match="is a ResNetConfig; expected a sequential model"):
        convert.write_model(tmp_path / "model.onnx", trained_model(small_resnet))
    assert not (tmp_path / "model.onnx").exists()
