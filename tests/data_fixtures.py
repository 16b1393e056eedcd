"""Synthetic image sets and configs for the tests of the data modules."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs.alexnet import get_config

FASHION_MNIST = Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist"


def data_config(name: str, directory: str | Path = "", **fields: Any) -> ConfigDict:
    """config.data of the small model, with some fields set."""
    data = get_config("sample").data
    data.image_size, data.crop = 256, 24
    data.update(dict(name=name, dir=str(directory)) | fields)
    return data


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise: no two images are alike, and no two crops of one."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) without fine detail, as JPEG keeps it."""
    coarse = Image.fromarray(random_pixels(4, 4, 3, seed=seed))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_folder(
    directory: Path, counts: Mapping[str, int], *, side: int = 32, seed: int = 0
) -> dict[str, np.ndarray]:
    """PNG files of noise, counts[CLASS] in each folder; returns relative path to pixels."""
    written = {}
    for number, (name, count) in enumerate(counts.items()):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random_pixels(side, side, 3, seed=seed + 1000 * number + index)
            Image.fromarray(pixels).save(directory / name / f"{index}.png")
            written[f"{name}/{index}.png"] = pixels
    return written


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file of bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx_set(
    directory: Path, *, train: int = 50, test: int = 10, side: int = 28, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The four IDX files of noise in 5 classes; returns split to (pixels, labels)."""
    directory.mkdir(parents=True, exist_ok=True)
    sets = {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        pixels = random_pixels(count, side, side, seed=seed + len(split))
        labels = np.arange(count) * 7 % 5
        write_idx(directory / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(directory / f"{prefix}-labels-idx1-ubyte", labels)
        sets[split] = (pixels, labels)
    return sets


def files_in(directory: Path) -> dict[str, bytes]:
    """Name to content of all files in a pack."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
