"""Benchmark how memory and evaluation time scale with the size of the data set."""

import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from alexnet_jax import fields
from alexnet_jax.config import with_changes
from alexnet_jax.data.pack import Pack, open_pack
from alexnet_jax.data_config import DataConfig
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config
from experiments.benchmark.memory import call_in_new_process, resident_mib
from experiments.benchmark.scaling import fit_line
from experiments.benchmark.timing import Result, time_interleaved

_MEMORY_SIZES = (1_000, 10_000, 100_000)
_EVALUATION_SIZES = (1_000, 2_000, 4_000, 8_000, 16_000)


def measure_memory(repeats: int) -> Result:
    """Measure peak memory of preparing a folder, and of reading its batches, at three sizes.

    The folder has a few hundred JPEGs of 72×72 pixels under many names. Each measurement is the
    peak of a process of its own, in MiB; the batches are those at the end of the first epoch and
    the beginning of the second, when the draws of both are in memory.
    """
    del repeats
    prepared, read, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for size in tqdm(_MEMORY_SIZES, desc="prepare_memory", disable=None):
            directory = Path(folder, str(size))
            link_images(directory / "images", size)
            data = small_data_config(directory)
            start = time.perf_counter()
            prepared.append(call_in_new_process(_measure_preparing, data))
            seconds = time.perf_counter() - start
            read.append(call_in_new_process(_measure_reading, data))
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


def small_data_config(directory: Path) -> DataConfig:
    """Return the paper's config.data for the images in `directory`, with their pack beside them."""
    folders = {"dir": f"{directory}/images", "pack_dir": f"{directory}/pack"}
    return fields.replace(
        get_config().data, {"name": "folder", "image_size": 72, "crop": 64, **folders}
    )


def link_images(folder: Path, count: int) -> None:
    """Make `count` names in ten class folders for 200 JPEGs of 72×72 pixels."""
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


def _measure_preparing(data: DataConfig) -> float:
    """Prepare images in this process; return the most memory that it ever held, in MiB."""
    prepare(data, progress=False)
    return resident_mib()


def _measure_reading(data: DataConfig) -> float:
    """Read batches around the end of the first epoch; return the most memory ever held, in MiB."""
    from alexnet_jax.data.batch import consecutive_examples
    from alexnet_jax.data.pipeline import train_batches

    pack = open_pack(data.pack_dir)
    config = with_changes(get_config(), {"data": data})
    count = pack.splits["train"].count
    last_of_epoch = count // config.batch_size
    first = max(0, last_of_epoch - 10)
    for _ in train_batches(
        pack,
        config,
        consecutive_examples(config.batch_size, count),
        first_step=first,
        last_step=last_of_epoch + 20,
    ):
        pass
    return resident_mib()


def time_evaluation(repeats: int) -> Result:
    """Time evaluations, center view, of the sample's model for growing numbers of images.

    The model is not trained and the images are noise, which costs the same.
    """
    from alexnet_jax import evaluate, sharding
    from alexnet_jax.data.pipeline import evaluation_batches
    from alexnet_jax.models.registry import init_variables
    from alexnet_jax.trained import TrainedModel

    config = with_changes(get_config("sample"), {"model.num_classes": 10})
    mesh = sharding.make_data_mesh(config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        packs = {
            size: _make_noise_pack(Path(folder, str(size)), size) for size in _EVALUATION_SIZES
        }
        mean, names = packs[_EVALUATION_SIZES[0]].mean_image, tuple(map(str, range(10)))
        model = TrainedModel(config, 0, init_variables(config), mean, names)
        predict = model.make_predict_fn(mesh)

        def evaluate_once(size: int) -> None:
            """Evaluate the center view of a pack, and check that every image is counted."""
            batches = evaluation_batches(packs[size], "test", config)
            (result,) = evaluate.evaluate_batches([evaluate.ViewPass([predict], batches)], mesh)
            if result["count"] != size:
                raise RuntimeError(f"{result['count']} of {size} images were counted")

        calls: dict[str, Callable[[], None]] = {
            str(size): partial(evaluate_once, size) for size in _EVALUATION_SIZES
        }
        seconds = time_interleaved(calls, repeats)
    return fit_line([(size, statistics.median(seconds[str(size)])) for size in _EVALUATION_SIZES])


def _make_noise_pack(folder: Path, size: int) -> Pack:
    """Make a pack with `size` test images of 28×28 gray noise in ten classes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", 100), ("t10k", size)):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    folders = {"name": "idx", "dir": str(folder), "pack_dir": f"{folder}/pack"}
    return prepare(fields.replace(get_config("sample").data, folders), progress=False)
