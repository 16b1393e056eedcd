"""Three training steps of small models give the numbers that were recorded.

What the other tests compare with each other could change together; this holds the numbers
themselves: of the forward pass, the gradients, dropout, the random lighting, the update and the
schedule. A difference means that runs can no longer be repeated.

If the change is meant, record the new numbers, say why in the commit, and add a line to
CHANGELOG.md:

    PYTHONPATH=. JAX_PLATFORMS=cpu python tests/training/test_golden_step.py
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax import sharding
from alexnet_jax.config import Config, validated, with_changes
from alexnet_jax.data.batch import Batch
from alexnet_jax.data_config import DataConfig
from alexnet_jax.inputs import mean_of
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, ReLU, WithinChannelLRN
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.train_step import make_state, make_train_step

GOLDEN = Path(__file__).with_name("golden_step.json")
STEPS, BATCH, IMAGES, SIDE, CROP, CLASSES = 3, 8, 16, 20, 17, 5
# Sums in another order, as on other processors, change the numbers by up to 3e-7; see
# `test_the_tolerance_is_that_of_rounding`.
TOLERANCE = 1e-6


def make_config(num_columns: int) -> Config:
    """Return the config of a model with every kind of op and a rate that drops after a step."""
    groups = num_columns
    config = Config(
        seed=7,
        batch_size=BATCH,
        learning_rate=0.1,
        data=DataConfig(name="folder", crop=CROP, scale=1 / 64),
        model=SequentialConfig(
            num_classes=CLASSES,
            num_columns=num_columns,
            ops=dict(
                conv1=Conv(8, kernel=5, stride=2, padding=(0, 3)),
                relu1=ReLU(), norm1=LRN(size=3, alpha=0.4), pool1=MaxPool(),
                conv2=Conv(8, kernel=3, padding=(1, 1), groups=groups),
                relu2=ReLU(), rnorm2=WithinChannelLRN(size=3), pool2=MaxPool(2, 2),
                conv3=Conv(8, kernel=3, padding=(1, 1)), relu3=ReLU(),
                fc6=Dense(12), relu6=ReLU(), drop6=Dropout(),
                fc7=Dense(12), relu7=ReLU(), drop7=Dropout(0.25, inverted=True),
                fc8=Dense(0),
            ),
        ),
    )  # fmt: skip
    config.schedule.drop_epochs = (1.5,)
    config.schedule.multipliers = ((".*/bias", 1, 2.0),)
    config.optimizer.decay_multipliers = ((".*/bias", 0.0),)
    return validated(config)


def make_params(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Return parameters of a size that keeps the signal, drawn by NumPy."""
    rng = np.random.default_rng(0)
    first = 0 if config.model.columns() == 1 else 1
    params = {}
    for name, layer in registry.abstract_variables(config)["params"].items():
        shape = layer["kernel"].shape
        kernel = rng.normal(0, math.sqrt(2 / math.prod(shape[first:-1])), shape)
        bias = rng.normal(0, 0.1, layer["bias"].shape)
        params[name] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return params


def make_batch(step: int) -> Batch:
    """Return the batch of a step, whose labels can be learned from the images' brightness."""
    rng = np.random.default_rng(100 + step)
    label = rng.integers(0, CLASSES, BATCH)
    noise = rng.integers(-50, 51, (BATCH, CROP, CROP, 3))
    return Batch(
        image=(50 + 38 * label[:, None, None, None] + noise).astype(np.uint8),
        label=label.astype(np.int32),
        offset=rng.integers(0, SIDE - CROP + 1, (BATCH, 2)).astype(np.int32),
        flip=rng.integers(0, 2, BATCH).astype(bool),
        shift=rng.normal(0, 20, (BATCH, 3)).astype(np.float32),
        gain=rng.uniform(0.5, 1, BATCH).astype(np.float32),
        example=np.arange(BATCH * step, BATCH * (step + 1), dtype=np.uint32),
        mask=np.ones(BATCH, bool),
    )


def train(num_columns: int, devices: int = 1) -> dict[str, Any]:
    """Train, and return the losses and, for each parameter, the sum of its squares."""
    config = with_changes(make_config(num_columns), {"parallel.data": devices})
    mesh = sharding.make_mesh(config.parallel)
    mean_image = np.random.default_rng(1).uniform(100, 150, (SIDE, SIDE, 3)).astype(np.float32)
    mean = mean_of(mean_image, config.data, channels=3)
    state = make_state(config, {"params": make_params(config)})
    step = make_train_step(config, mesh, IMAGES)
    places = sharding.batch_sharding(config, mesh)
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, mean, sharding.shard_batch(make_batch(number), places))
        losses.append(float(metrics.sums.loss) / float(metrics.sums.count))
    squares = {
        f"{name}/{part}": float(np.square(np.float64(jax.device_get(array))).sum())
        for name, layer in state.params.items()
        for part, array in layer.items()
    }
    return {"losses": losses, "squares": squares}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=TOLERANCE)
    assert found["squares"].keys() == expected["squares"].keys()
    for name, value in expected["squares"].items():
        assert found["squares"][name] == pytest.approx(value, rel=TOLERANCE), name


@pytest.mark.parametrize("num_columns", [1, 2])
def test_three_steps(num_columns: int) -> None:
    """Catches whatever changes the numbers of training, in all forms of it alike."""
    assert_close(train(num_columns), json.loads(GOLDEN.read_text())[str(num_columns)])


def test_the_tolerance_is_that_of_rounding() -> None:
    """Catches a model so sensitive that other processors, with other rounding, would fail: sums
    over two devices round in another way, too. And parameters that hardly move, whose sums would
    hide a wrong update."""
    recorded = json.loads(GOLDEN.read_text())["2"]
    assert_close(train(2, devices=2), recorded)
    for name, layer in make_params(make_config(2)).items():
        for part, before in layer.items():
            change = recorded["squares"][f"{name}/{part}"] / np.square(np.float64(before)).sum() - 1
            assert abs(change) > 1000 * TOLERANCE, f"{name}/{part}"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({str(n): train(n) for n in (1, 2)}, indent=2) + "\n")
