"""Workdirs as training would leave them, made without training."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.metrics import MetricSums
from alexnet_jax.records import Record
from alexnet_jax.train_step import init_state
from alexnet_jax.training_run import save_checkpoint
from alexnet_jax.workdir import write_config
from helpers.image_sets import random_pixels


def save_run(
    workdir: Path,
    config: Config,
    step: int,
    records: Sequence[Record],
    class_names: tuple[str, ...],
    num_images: int,
) -> Path:
    """Make the folder of a run after a step, with the initial parameters, and return it.

    Args:
        workdir: the folder, which must not exist.
        config: the run's config.
        step: step of its only checkpoint.
        records: content of metrics.jsonl.
        class_names: names of the classes.
        num_images: number of training images.
    """
    workdir.mkdir()
    write_config(workdir, config, 0)
    state = init_state(config).replace(step=jnp.int32(step))
    side = config.data.image_size
    mean = random_pixels(side, side, config.model.channels).astype(np.float32)
    with Checkpoints(workdir, keep=1) as checkpoints:
        save_checkpoint(
            *(checkpoints, config, state),
            mean_image=mean,
            class_names=class_names,
            num_images=num_images,
            sums=MetricSums(),
            epoch_sums=MetricSums(),
        )
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return workdir
