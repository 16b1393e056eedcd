"""Runs of linear models, whose outputs follow from their kernels."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, with_changes
from alexnet_jax.metrics import MetricSums
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Dense
from alexnet_jax.train_step import make_state
from alexnet_jax.training_run import save_checkpoint
from alexnet_jax.workdir import write_config
from configs.alexnet import get_config

SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "plain")


def linear_config(**changes: Any) -> Config:
    """Return the sample's config with the classifier as its only op."""
    linear = {"data.crop": 24, "batch_size": 64, "model.ops": {"fc8": Dense(0)}}
    return with_changes(get_config("sample"), linear | changes)


def save_run(
    workdir: Path,
    config: Config,
    kernel: np.ndarray,
    mean_image: np.ndarray,
    class_names: tuple[str, ...],
    *,
    averaged: bool = False,
) -> None:
    """Write the folder that training would leave, with a kernel (pixels × channels, classes).

    It is split unevenly over the two columns, which both see the whole image.

    Args:
        averaged: keep the kernel as averaged parameters, beside other parameters.
    """
    workdir.mkdir()
    config = with_changes(config, {"model.num_classes": len(class_names)})
    write_config(workdir, config, 0)
    columns = np.stack([kernel * 0.25, kernel * 0.75]).astype(np.float32)
    expected = registry.abstract_variables(config)["params"]["fc8"]
    assert expected["kernel"].shape == columns.shape
    bias = np.zeros(expected["bias"].shape, np.float32)
    params = {"fc8": {"kernel": columns, "bias": bias}}
    state = make_state(config, {"params": params})
    if averaged:
        others = {"fc8": {"kernel": -columns, "bias": bias}}
        state = state.replace(params=others, ema_params=params)
    checkpoints = Checkpoints(workdir, keep=1)
    save_checkpoint(
        checkpoints,
        config,
        state.replace(step=np.int32(5)),
        mean_image=mean_image,
        class_names=class_names,
        num_images=0,
        sums=MetricSums(),
        epoch_sums=MetricSums(),
    )
    checkpoints.close()


def save_color_run(workdir: Path) -> None:
    """Write a run whose model tells colors apart: logits of 3, 2, 1 × the share of R, G, B."""
    config = linear_config(
        **{"data.crop": 8, "data.mean": "none", "data.scale": 1 / 255, "model.channels": 3}
    )
    kernel = np.zeros((8 * 8, 3, len(SYNSETS)))
    for color, logit in enumerate((3.0, 2.0, 1.0)):
        kernel[:, color, color] = logit / 64
    mean = np.zeros((12, 12, 3), np.float32)
    save_run(workdir, config, kernel.reshape(-1, len(SYNSETS)), mean, SYNSETS)
