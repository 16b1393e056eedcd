"""Batches of the input pipeline: configs to read them, and crops to compare them with."""

from typing import Any

import jax
import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data import images
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.pack import Pack
from alexnet_jax.data_config import DataConfig
from alexnet_jax.models.sequential_config import SequentialConfig


def batch_config(data: DataConfig, *, batch_size: int = 8, channels: int = 3) -> Config:
    """Return a config of which the pipeline reads seed, batch size, data and channels."""
    return Config(batch_size=batch_size, data=data, model=SequentialConfig(channels=channels))


def join_batches(parts: list[Batch]) -> Batch:
    """Return the batches of several processes as one."""
    joined: Batch = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return joined


def assert_equal_batches(left: Batch, right: Batch) -> None:
    """Assert that all arrays of two batches are equal."""
    jax.tree.map(np.testing.assert_array_equal, left, right)


def cut_crop(pixels: np.ndarray, offset: Any, flip: bool, side: int) -> np.ndarray:
    """Return the crop that a batch's offset and flip describe."""
    top, left = offset
    crop = pixels[top : top + side, left : left + side]
    return crop[:, ::-1] if flip else crop


def read_stored(pack: Pack, split: str, index: int) -> np.ndarray:
    """Return the pixels of a prepared image (height, width, channels)."""
    records = pack.splits[split]
    (record,) = records.read(np.array([index]))
    if pack.encoding == "jpeg":
        return images.load(record, side=None, channels=pack.channels, resize="shorter_side")
    return np.frombuffer(record, np.uint8).reshape(*records.shapes[index], pack.channels)
