"""Synthetic image sets and configs for the tests of the data modules."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax import fields
from alexnet_jax.data.sources.base import Example, Source
from alexnet_jax.data_config import DataConfig
from configs.alexnet import get_config


def data_config(name: str, directory: str | Path = "", **changes: Any) -> DataConfig:
    """Return config.data of the sample's config, with some fields changed; it is not sealed."""
    data = get_config("sample").data
    first = dict(name=name, dir=str(directory), image_size=256, crop=24)
    return fields.replace(data, first | changes)


def read_all(source: Source, split: str) -> list[Example]:
    """Return all examples of a split."""
    return list(source.read(split, np.arange(source.counts[split])))


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return noise: no two images are alike, and no two crops of one."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (height, width, 3) pixels without fine detail, which JPEG keeps."""
    coarse = Image.fromarray(random_pixels(4, 4, 3, seed=seed))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_folder(
    directory: Path, counts: Mapping[str, int], *, side: int = 32, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write PNG files of noise, counts[CLASS] in each folder; return pixels by relative path."""
    written = {}
    for number, (name, count) in enumerate(counts.items()):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random_pixels(side, side, 3, seed=seed + 1000 * number + index)
            Image.fromarray(pixels).save(directory / name / f"{index}.png")
            written[f"{name}/{index}.png"] = pixels
    return written


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx_set(
    directory: Path, *, train: int = 50, test: int = 10, side: int = 28, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the four IDX files of noise in 5 classes; return (pixels, labels) by split."""
    directory.mkdir(parents=True, exist_ok=True)
    sets = {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        pixels = random_pixels(count, side, side, seed=seed + len(split))
        labels = np.arange(count) * 7 % 5
        write_idx(directory / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(directory / f"{prefix}-labels-idx1-ubyte", labels)
        sets[split] = (pixels, labels)
    return sets


def write_cifar10_binary(directory: Path, per_file: int, *, seed: int = 0) -> None:
    """Write CIFAR-10's binary files with noise, `per_file` images each; classes take turns."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    (directory / "batches.meta.txt").write_text("".join(f"{name}\n" for name in names) + "\n")
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for number, file in enumerate(files):
        records = random_pixels(per_file, 3073, seed=seed + 100 * number)
        records[:, 0] = (np.arange(per_file) * 7 + number) % 10
        (directory / file).write_bytes(records.tobytes())


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the content of all files in a pack by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def idx_data(folder: Path, **changes: Any) -> DataConfig:
    """Write an IDX set below a folder, once, and return its config, with the pack there too."""
    if not (folder / "idx").exists():
        write_idx_set(folder / "idx", train=100, test=20)
    changes = dict(pack_dir=str(folder / "pack")) | changes
    return data_config("idx", folder / "idx", **changes)
