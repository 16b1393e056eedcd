"""Images of many shapes, and packs in which they are scaled by their shorter side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.data_config import DataConfig
from helpers.image_sets import data_config, smooth_pixels

CROP = 16
# Heights and widths of source images: taller, wider, square, tiny, and over 16 times as wide.
SHAPES = ((60, 30), (33, 100), (50, 50), (3, 5), (1, 1), (2, 70), (61, 40), (40, 61))


def write_shapes(folder: Path, pixels_of: Callable[..., np.ndarray], rounds: int) -> None:
    """Write `rounds` images of each of `SHAPES` in two classes."""
    for index in range(rounds * len(SHAPES)):
        (folder / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        pixels = pixels_of(*SHAPES[index % len(SHAPES)], index)
        Image.fromarray(pixels).save(folder / f"class{index % 2}" / f"{index:03d}.png")


def shapes_config(path: Path, side: int, **changes: Any) -> DataConfig:
    """Return the config of images of many shapes below `path`, written once."""
    if not (path / "images").exists():
        write_shapes(path / "images", lambda h, w, seed: smooth_pixels(h, w, seed=seed), rounds=4)
    first = dict(image_size=side, crop=CROP, resize="shorter_side", mean="channel", lighting="none")
    return data_config(
        "folder", path / "images", **(first | dict(pack_dir=str(path / f"pack{side}")) | changes)
    )
