"""How fast images come: batches out of a pack, and packs out of files, each beside a peer."""

import concurrent.futures
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax.data.pack import Pack
from alexnet_jax.data.parallel_map import available_cores
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config
from experiments.race import OURS, Result, compare, race, take_turns

_PICTURES = 1600  # of which 1,280 are for training
_STEPS = 40  # 5,120 images: what it costs to begin is a small part, as it is of an epoch
_PREPARED = 1536  # what threads wait for each other at the end of a split is then a small part


def decoder(repeats: int) -> Result:
    """From a 256×256 JPEG pack to batches, against a bare loop of the same decoder.

    The bare loop is tf.data over the same records in memory: as many crops of the same size at
    offsets drawn alike are decoded on the same cores, and thrown away.
    """
    import tensorflow as tf

    with _pack() as (config, pack):
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

        def peer() -> None:
            bare.reduce(np.int64(0), lambda total, _: total + 1)

        return _rates(race(_batches(config, pack), {"decoder": peer}, repeats), images)


def torch_dataloader(repeats: int) -> Result:
    """From a 256×256 JPEG pack to batches, against PyTorch's DataLoader over the same JPEGs.

    The peer's transforms are those of torchvision, its workers one a core, or none where that is
    faster. It hands on normalised float32, ours uint8, whose mean the training step subtracts.
    """
    try:
        from experiments.torch_input import Loader
    except ImportError:
        raise InputError(
            "the peer of input_pipeline/torch_dataloader is PyTorch, which is not installed; "
            "pip install -r requirements-test.txt, or name other cases with --only"
        ) from None

    with _pack() as (config, pack):
        split = pack.splits["train"]
        folder = Path(config.data.pack_dir).with_name("records")
        folder.mkdir()
        for number, record in enumerate(split.read(np.arange(split.count))):
            (folder / f"{number}.jpg").write_bytes(record)
        options = dict(crop=config.data.crop, batch_size=config.batch_size, batches=_STEPS)
        peers: dict[str, Callable[[], None]] = {
            f"DataLoader, {workers} workers": Loader(folder, workers=workers, **options)
            for workers in (available_cores(), 0)
        }
        return _rates(race(_batches(config, pack), peers, repeats), _STEPS * config.batch_size)


@contextmanager
def _pack() -> Iterator[tuple[ConfigDict, Pack]]:
    """The paper's config on a folder of pictures, and their pack, for as long as they are used."""
    config = get_config()
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder, "images"), _PICTURES, 256, 256)
        config.data.update(name="folder", dir=f"{folder}/images", pack_dir=f"{folder}/pack")
        yield config, prepare(config.data)


def _rates(result: Result, images: int) -> Result:
    """The result with rates, for calls of so many images each."""
    ours, peer = (images / result[key] for key in ("seconds", "peer_seconds"))
    return {"images_per_second": ours, "peer_images_per_second": peer, **result}


def _batches(config: ConfigDict, pack: Pack) -> Callable[[], None]:
    """Takes the first _STEPS training batches of a pack and throws them away."""
    from alexnet_jax.data.pipeline import train_batches

    def ours() -> None:
        for _ in train_batches(
            pack,
            config.data,
            seed=0,
            batch_size=config.batch_size,
            first_step=0,
            last_step=_STEPS,
            channels=3,
        ):
            pass

    return ours


def preparation(repeats: int) -> Result:
    """From JPEGs of 500×375 pixels to a pack, against the bare Pillow calls on as many threads.

    The peer decodes, scales, cuts and encodes the same files and throws the results away; with
    decode_resize_ratio also one that stops before it encodes. Neither sums up pixels, as ours
    does for the mean and the covariance, nor writes.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = get_config()
        config.data.update(name="folder", dir=f"{folder}/images")
        write_pictures(Path(config.data.dir), _PREPARED, 375, 500)
        paths = sorted(Path(config.data.dir).rglob("*.jpg"))
        packs = (f"{folder}/pack{number}" for number in itertools.count())

        def ours() -> None:
            config.data.pack_dir = next(packs)
            prepare(config.data, progress=False)

        def bare(encode: bool) -> Callable[[], None]:
            def peer() -> None:
                with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
                    list(pool.map(lambda path: _square(path, config.data, encode), paths))

            return peer

        names = ("decode, resize, encode", "decode, resize")
        calls = {OURS: ours, names[0]: bare(encode=True), names[1]: bare(encode=False)}
        seconds = take_turns(calls, repeats)
    whole, part = (compare(seconds, [name]) for name in names)
    return {
        **_rates(whole, _PREPARED),
        "decode_resize_ratio": part["ratio"],
        "summary": f"to decode and resize alone {part['ratio']:.2f} "
        f"({part['ratio_low']:.2f}–{part['ratio_high']:.2f})",
    }


def _square(path: Path, data: ConfigDict, encode: bool) -> None:
    """What Pillow does for a picture of a pack, and nothing else."""
    side = data.image_size
    with Image.open(path) as picture:
        picture.draft(None, (2 * side, 2 * side))
        picture.load()
        shorter = min(picture.size)
        left, top = (picture.width - shorter) / 2, (picture.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        square = picture.resize((side, side), Image.Resampling.BICUBIC, box)
    if encode:
        square.save(
            io.BytesIO(), "JPEG", quality=data.jpeg_quality, subsampling=data.jpeg_subsampling
        )


def write_pictures(folder: Path, count: int, height: int, width: int) -> None:
    """Two class folders of smooth random pictures with some noise, JPEG files of quality 95."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = fine + random.normal(0, 8, fine.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
