"""What grows with the data set: memory of preparing and of training batches, time of evaluation."""

import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from alexnet_jax.data.pack import Pack, open_pack
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config
from experiments.growth import straight_line
from experiments.memory import in_a_process, resident
from experiments.race import Result, take_turns

_MEMORY_SIZES = (1_000, 10_000, 100_000)
_EVALUATION_SIZES = (1_000, 2_000, 4_000, 8_000, 16_000)


def memory(repeats: int) -> Result:
    """Peak memory of preparing a folder, and of reading its training batches, at three sizes.

    The folder has a few hundred JPEGs of 72×72 pixels under many names. Each measurement is the
    peak of a process of its own, MiB; the batches are those at the end of the first epoch and the
    beginning of the second, when the draws of both are there.
    """
    del repeats
    prepared, read, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for size in tqdm(_MEMORY_SIZES, desc="prepare_memory", disable=None):
            directory = Path(folder, str(size))
            link_pictures(directory / "images", size)
            data = small_data(directory)
            start = time.perf_counter()
            prepared.append(in_a_process(_prepare, data))
            seconds = time.perf_counter() - start
            read.append(in_a_process(_read_batches, data))
    return {
        "seconds": seconds,
        "images": _MEMORY_SIZES,
        "prepare_mib": prepared,
        "input_pipeline_mib": read,
        "summary": f"preparing {_MEMORY_SIZES[-1]:,} small images; peak memory with "
        + ", ".join(
            f"{size:,} images {one:.0f} MiB preparing and {other:.0f} MiB reading batches"
            for size, one, other in zip(_MEMORY_SIZES, prepared, read, strict=True)
        ),
    }


def small_data(directory: Path) -> dict[str, Any]:
    """The paper's config.data for the pictures in `directory`, and their pack beside them."""
    data = get_config().data
    folders = dict(dir=f"{directory}/images", pack_dir=f"{directory}/pack")
    data.update(name="folder", image_size=72, crop=64, **folders)
    return data.to_dict()


def link_pictures(folder: Path, count: int) -> None:
    """`count` names in ten class folders for 200 JPEGs of 72×72 pixels."""
    random = np.random.default_rng(0)
    contents = folder.with_name("contents")
    contents.mkdir(parents=True)
    for number in range(200):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((72, 72), Image.Resampling.BICUBIC).save(contents / f"{number}.jpg")
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    for number in range(count):
        os.link(contents / f"{number % 200}.jpg", folder / f"class{number % 10}" / f"{number}.jpg")


def _prepare(data: dict[str, Any]) -> float:
    prepare(ConfigDict(data), progress=False)
    return resident()


def _read_batches(data: dict[str, Any]) -> float:
    from alexnet_jax.data.pipeline import train_batches

    pack = open_pack(data["pack_dir"])
    last_of_epoch = pack.splits["train"].count // 128
    first = max(0, last_of_epoch - 10)
    for _ in train_batches(
        pack,
        ConfigDict(data),
        seed=0,
        batch_size=128,
        first_step=first,
        last_step=last_of_epoch + 20,
        channels=3,
    ):
        pass
    return resident()


def evaluation(repeats: int) -> Result:
    """Seconds of an evaluation, centre view, on the sample's net against the number of images.

    The net is not trained and the images are noise, which costs the same.
    """
    from alexnet_jax import evaluate, parallel
    from alexnet_jax.data.pipeline import evaluation_batches
    from alexnet_jax.network import init_params

    config = get_config("sample")
    config.model.classes = 10
    mesh = parallel.data_mesh(config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        packs = {size: _noise(Path(folder, str(size)), size) for size in _EVALUATION_SIZES}
        mean, names = packs[_EVALUATION_SIZES[0]].mean_image, tuple(map(str, range(10)))
        net = evaluate.Net(config, 0, init_params(config), mean, names)
        predict = net.predict(mesh)

        def once(size: int) -> None:
            batches = evaluation_batches(
                packs[size], "test", config.data, batch_size=config.batch_size, channels=1
            )
            (result,) = evaluate.errors([predict], batches, mesh)
            if result["count"] != size:
                raise RuntimeError(f"{result['count']} of {size} images were counted")

        calls: dict[str, Callable[[], None]] = {
            str(size): partial(once, size) for size in _EVALUATION_SIZES
        }
        seconds = take_turns(calls, repeats)
    return straight_line(
        [(size, statistics.median(seconds[str(size)])) for size in _EVALUATION_SIZES]
    )


def _noise(folder: Path, size: int) -> Pack:
    """A pack with `size` test images of 28×28 grey noise in ten classes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", 100), ("t10k", size)):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    data = get_config("sample").data
    data.update(name="idx", dir=str(folder), pack_dir=f"{folder}/pack")
    return prepare(data, progress=False)
