"""Keep the images of a raw pack on the devices, where each step cuts its crops from them.

A step then needs only the random draws of its examples. These are those of `data.pipeline`, and so
are the crops, bit for bit.
"""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from alexnet_jax.config import Config
from alexnet_jax.data.batch import (
    Batch,
    BatchArray,
    ExamplesOfStep,
    ResidentCrops,
    concatenate_examples,
)
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import make_augmentation, make_train_batch
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError

MEMORY_SHARE = 0.5  # of a device's memory, that images take with data.resident=auto at most
_READ_IMAGES = 4096  # images read at once


def check_resident(pack: Pack, data: DataConfig) -> None:
    """Raise InputError if data.resident=on and the pack does not store the pixels of squares."""
    if data.resident != "on":
        return
    if pack.encoding != "raw":
        raise InputError(
            f"data.resident=on is for images whose pixels are stored, and the pack in "
            f"{pack.directory} has JPEGs of {pack.side} pixels; expected data.resident=auto, or "
            "--config.data.encoding=raw"
        )
    if not _has_squares(pack):
        raise InputError(
            f"data.resident=on is for square images, and the pack in {pack.directory} has images "
            "of other shapes; expected data.resident=auto, or data.resize=crop"
        )


def _has_squares(pack: Pack) -> bool:
    """Return whether all images of a pack are square."""
    return all((split.shapes == pack.side).all() for split in pack.splits.values())


def explain_host_images(
    data: DataConfig, pack: Pack, splits: Iterable[str], device: jax.Device
) -> str | None:
    """Return why the host cuts the crops, as text; None if the devices are to do it.

    Args:
        data: config.data.
        pack: the prepared images.
        splits: names of the splits that would be on the devices.
        device: one of the devices of this process.

    Raises:
        InputError: data.resident=on, and the images do not fit.
    """
    if data.resident == "off":
        return "data.resident=off"
    if pack.encoding != "raw":
        return "they are JPEGs"
    if not _has_squares(pack):
        return "their shapes differ"
    if data.scale_jitter or data.crop_area:
        return "their crops are scaled"
    size = sum(pack.splits[name].count for name in splits) * pack.side**2 * pack.channels
    memory = (device.memory_stats() or {}).get("bytes_limit")  # CPUs do not state any
    text = f"they take {size / 1e9:.2f} GB, and {device.device_kind} has {(memory or 0) / 1e9:.2f}"
    if data.resident == "on":
        if memory is not None and size > memory:
            raise InputError(f"data.resident=on, but {text}; expected data.resident=auto")
        return None
    if device.platform == "cpu":
        return "the devices are CPUs"
    return text if memory is not None and size > MEMORY_SHARE * memory else None


def load_pixels(pack: Pack, split: str, sharding: NamedSharding) -> Array:
    """Place all images of a split on the devices, (images, side, side, channels) uint8.

    Args:
        pack: a pack of raw pixels of square images.
        split: name of the split.
        sharding: the sharding of an array of which every device has a copy.

    Raises:
        InputError: a record is damaged.
    """
    chosen = pack.splits[split]
    pixels = np.empty((chosen.count, pack.side, pack.side, pack.channels), np.uint8)
    for start in range(0, chosen.count, _READ_IMAGES):
        part = pixels[start : start + _READ_IMAGES]
        records = chosen.read(np.arange(start, start + len(part)))
        part[:] = np.frombuffer(b"".join(records), np.uint8).reshape(part.shape)
    placed: Array = jax.make_array_from_process_local_data(sharding, pixels, pixels.shape)
    return placed


def make_draw_fn(
    pack: Pack, config: Config, examples_of_step: ExamplesOfStep, pixels: Array, rows: np.ndarray
) -> Callable[[range], Batch]:
    """Return a function from consecutive training steps to their batches, stacked.

    Each array of the batch has an axis of steps before its own axes, except for the resident
    images.

    Args:
        pack, config, examples_of_step, rows: see `data.pipeline.train_batches`.
        pixels: the training images, from `load_pixels`.
    """
    augmentation, split = make_augmentation(pack, config), pack.splits["train"]

    def draw(steps: range) -> Batch:
        examples = concatenate_examples([examples_of_step(step, rows) for step in steps])
        draws = augmentation.draw(examples.epoch, examples.position)
        crops = ResidentCrops(pixels, draws.index.astype(np.int32), config.data.crop)
        batch = make_train_batch(split, examples, draws, crops)

        def stack(array: BatchArray) -> BatchArray:
            if isinstance(array, Array):  # the resident images
                return array
            return array.reshape(len(steps), len(rows), *array.shape[1:])

        stacked: Batch = jax.tree.map(stack, batch)
        return stacked

    return draw
