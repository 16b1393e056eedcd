"""Benchmark reading batches from a pack and making packs from files, each with a reference."""

import concurrent.futures
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax import fields
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.data_config import DataConfig
from alexnet_jax.extras import check_installed
from alexnet_jax.machine import available_cores
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config
from experiments.benchmark.timing import (
    OURS,
    Result,
    add_rates,
    compare_times,
    format_ratio,
    time_interleaved,
    time_with_references,
)

_IMAGES = 1600  # of which 1,280 are for training
_STEPS = 40  # 5,120 images: the cost of starting is a small part, as it is of an epoch
_PREPARED = 1536  # the time that threads wait at the end of a split is then a small part


def time_decoder(repeats: int) -> Result:
    """Time reading batches of a 256×256 JPEG pack against a bare loop of the same decoder.

    The bare loop is tf.data over the same records in memory: as many crops of the same size at
    offsets of the same distribution are decoded on the same cores, and discarded.
    """
    import tensorflow as tf

    with _make_pack() as (config, pack):
        split = pack.splits["train"]
        images = _STEPS * config.batch_size
        records = split.read(np.arange(images) % split.count)
        offsets = np.random.default_rng(0).integers(
            0, pack.side - config.data.crop + 1, (images, 2)
        )
        windows = np.concatenate([offsets, np.full_like(offsets, config.data.crop)], axis=1)
        bare = tf.data.Dataset.from_tensor_slices((records, windows.astype(np.int32))).map(
            lambda record, window: tf.io.decode_and_crop_jpeg(
                record, window, channels=3, dct_method="INTEGER_ACCURATE"
            ),
            num_parallel_calls=4 * available_cores(),  # as ours
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = available_cores()
        options.autotune.enabled = False
        bare = bare.with_options(options)

        def read_bare() -> None:
            bare.reduce(np.int64(0), lambda total, _: total + 1)

        return add_rates(
            time_with_references(_make_reader(config, pack), {"decoder": read_bare}, repeats),
            images,
        )


def time_torch_dataloader(repeats: int) -> Result:
    """Time reading batches of a 256×256 JPEG pack against PyTorch's DataLoader over the same JPEGs.

    The reference has the transforms of torchvision, and one worker a core, or none where that is
    faster. It returns normalized float32, ours uint8, whose mean the training step subtracts.

    Raises:
        InputError: PyTorch is not installed.
    """
    check_installed("test", "a case with PyTorch (--only names others)", "torch")
    from experiments.benchmark.torch_input import BatchReader

    with _make_pack() as (config, pack):
        split = pack.splits["train"]
        folder = Path(config.data.pack_dir).with_name("records")
        folder.mkdir()
        for number, record in enumerate(split.read(np.arange(split.count))):
            (folder / f"{number}.jpg").write_bytes(record)
        options = dict(crop=config.data.crop, batch_size=config.batch_size, batches=_STEPS)
        references: dict[str, Callable[[], None]] = {
            f"DataLoader, {workers} workers": BatchReader(folder, workers=workers, **options)
            for workers in (available_cores(), 0)
        }
        return add_rates(
            time_with_references(_make_reader(config, pack), references, repeats),
            _STEPS * config.batch_size,
        )


def time_raw_pack(repeats: int) -> Result:
    """Time reading batches of a 256×256 pack of raw pixels against the JPEG pack of the images.

    Both are read from the page cache, not from the disk. CPU time, which other programs on the
    machine affect less, is that of one more call of each.
    """
    with _make_pack() as (config, pack):
        changes = {"data.encoding": "raw", "data.pack_dir": f"{config.data.pack_dir}_raw"}
        raw_config = with_changes(config, changes)
        raw = _make_reader(raw_config, prepare(raw_config.data))
        jpeg = _make_reader(config, pack)
        images = _STEPS * config.batch_size
        result = add_rates(time_with_references(raw, {"JPEG pack": jpeg}, repeats), images)
        names = ("cpu_microseconds", "reference_cpu_microseconds")  # for an image
        for name, read in zip(names, (raw, jpeg), strict=True):
            start = time.process_time()
            read()
            result[name] = (time.process_time() - start) / images * 1e6
    ours, reference = (result[name] for name in names)
    return {**result, "summary": f"CPU time for an image {ours:.0f} and {reference:.0f} µs"}


@contextmanager
def _make_pack() -> Iterator[tuple[Config, Pack]]:
    """Yield the paper's config on a temporary folder of images, and their pack."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), _IMAGES, 256, 256)
        folders = {"data.dir": f"{folder}/images", "data.pack_dir": f"{folder}/pack"}
        config = with_changes(get_config(), {"data.name": "folder", **folders})
        yield config, prepare(config.data)


def _make_reader(config: Config, pack: Pack) -> Callable[[], None]:
    """Return a function that reads the first _STEPS training batches of a pack."""
    from alexnet_jax.data.batch import consecutive_examples
    from alexnet_jax.data.pipeline import train_batches

    examples = consecutive_examples(config.batch_size, pack.splits["train"].count)

    def read() -> None:
        for _ in train_batches(pack, config, examples, first_step=0, last_step=_STEPS):
            pass

    return read


def time_preparation(repeats: int) -> Result:
    """Time preparing JPEGs of 500×375 pixels against the bare Pillow calls on as many threads.

    The reference decodes, scales, crops and encodes the same files and discards the results;
    decode_resize_ratio compares with one that stops before encoding. Neither sums up pixels, as
    ours does for the mean and the covariance, nor writes.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = fields.replace(get_config().data, {"name": "folder", "dir": f"{folder}/images"})
        write_images(Path(data.dir), _PREPARED, 375, 500)
        paths = sorted(Path(data.dir).rglob("*.jpg"))
        packs = (f"{folder}/pack{number}" for number in itertools.count())

        def ours() -> None:
            prepare(fields.replace(data, {"pack_dir": next(packs)}), progress=False)

        def bare(encode: bool) -> Callable[[], None]:
            def prepare_bare() -> None:
                with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
                    list(pool.map(lambda path: _prepare_with_pillow(path, data, encode), paths))

            return prepare_bare

        names = ("decode, resize, encode", "decode, resize")
        calls = {OURS: ours, names[0]: bare(encode=True), names[1]: bare(encode=False)}
        seconds = time_interleaved(calls, repeats)
    complete, decoding = (compare_times(seconds, [name]) for name in names)
    return {
        **add_rates(complete, _PREPARED),
        "decode_resize_ratio": decoding["ratio"],
        "summary": f"to decode and resize alone {format_ratio(decoding)}",
    }


def _prepare_with_pillow(path: Path, data: DataConfig, encode: bool) -> None:
    """Make the Pillow calls of preparing an image, and nothing else."""
    side = data.image_size
    with Image.open(path) as image:
        image.draft(None, (2 * side, 2 * side))
        image.load()
        shorter = min(image.size)
        left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        square = image.resize((side, side), Image.Resampling.BICUBIC, box)
    if encode:
        square.save(
            io.BytesIO(), "JPEG", quality=data.jpeg_quality, subsampling=data.jpeg_subsampling
        )


def write_images(folder: Path, count: int, height: int, width: int) -> None:
    """Write smooth random images with some noise, JPEGs of quality 95, to two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = fine + random.normal(0, 8, fine.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
