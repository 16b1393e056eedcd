"""The config and the class names of a model, as text in the metadata of files that we write."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alexnet_jax.config import (
    Config,
    ParallelConfig,
    config_from_json,
    config_to_text,
    with_changes,
)
from alexnet_jax.errors import InputError, one_line
from alexnet_jax.trained import TrainedModel

PROGRAM = "alexnet_jax"  # stated in files that this program writes
MEAN = "mean_image"  # name of the whole mean image in these files
FORMAT_VERSION = "2"  # version of the metadata; version 1 did not record a number


def make_metadata(model: TrainedModel) -> dict[str, str]:
    """Return the metadata of a model."""
    return {
        "format": PROGRAM,
        "format_version": FORMAT_VERSION,
        "config": config_to_text(model.config),
        "class_names": json.dumps(model.class_names),
    }


def read_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[Config, tuple[str, ...]]:
    """Return the config, for one device, and the class names in metadata.

    Args:
        path: the file, for messages.
        metadata: its metadata, made by `make_metadata`.

    Raises:
        InputError: the metadata have another format version, or are damaged.
    """
    version = metadata.get("format_version", "1")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} was made by another version of this program (format {version}; this one reads "
            f"{FORMAT_VERSION}); write it again with this version"
        )
    content = parse_entry(path, metadata, "config")
    try:
        config = with_changes(config_from_json(content), {"parallel": ParallelConfig()})
    except InputError as error:
        raise InputError(f"{path} has a config that cannot be used: {error}") from None
    names = parse_entry(path, metadata, "class_names")
    classes = config.model.num_classes
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path} has class_names that are not a list of names; it is damaged")
    if not classes or len(names) != classes:
        raise InputError(f"{path} names {len(names)} of {classes} classes")
    return config, tuple(names)


def mean_channels(config: Config) -> tuple[int, ...]:
    """Return the possible numbers of channels of a mean image; that of gray images is repeated."""
    channels = config.model.channels
    return (3, 1) if channels == 3 else (channels,)


def check_mean(path: Path, config: Config, mean: np.ndarray) -> None:
    """Raise InputError unless an array can be the mean of the images of a model.

    Args:
        path: the file, for messages.
        config: config of the model.
        mean: the array.
    """
    crop, largest, channels = config.data.crop, config.data.image_size, mean_channels(config)
    side = len(mean) if mean.ndim else 0
    if mean.shape not in [(side, side, n) for n in channels] or not crop <= side <= largest:
        raise InputError(
            f"{path} has {MEAN} {mean.shape}; expected (side, side, "
            f"{' or '.join(map(str, channels))}) with a side from data.crop={crop} to "
            f"data.image_size={largest}; it is damaged"
        )
    if mean.dtype != np.float32 or not np.isfinite(mean).all():
        raise InputError(f"{path} has {MEAN} that is not finite float32; it is damaged")


def parse_entry(path: Path, metadata: Mapping[str, str], name: str) -> object:
    """Parse an entry of the metadata, which is JSON, and return its value.

    Raises:
        InputError: there is no such entry, or it is no JSON.
    """
    if name not in metadata:
        raise InputError(f"{path} has no {name} in its metadata; it is damaged")
    try:
        content: object = json.loads(metadata[name])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has {name} that is not JSON: {one_line(error)}") from None
    return content
