"""Batches of a pack: read, decoded, cropped and mirrored by tf.data, or raw pixels by NumPy.

Images leave as uint8 crops; subtracting the mean and adding the lighting shift is left to the
device, which needs each crop's offset and flip for it. A quarter of the bytes, same numbers.

JPEGs are decoded with libjpeg's accurate integer transform and smooth chroma upsampling, as
Pillow does, so that training sees what preparation and prediction see; the fast transform, which
is TensorFlow's default, is not measurably faster.
"""

from collections.abc import Callable, Generator, Iterator

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data.augment import Augmentation, lighting_matrix, margin
from alexnet_jax.data.pack import Pack, Split
from alexnet_jax.data.parallel_map import available_cores, ordered_map
from alexnet_jax.errors import InputError

_BATCHES_AHEAD = 2  # read, and again decoded, before they are asked for

Batch = dict[str, np.ndarray]

# What to read for a step: index (b,) in the split, offset (b, views, 2), flip (b, views).
Wanted = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def train_batches(
    pack: Pack,
    data: ConfigDict,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    channels: int,
    rows: np.ndarray | None = None,
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """The training batches of steps first_step … last_step - 1.

    Step s holds the examples g = s * batch_size + i; example g is image number g % N of epoch
    g // N in that epoch's order, N the images of the split. A batch may straddle epochs, every
    image comes once an epoch, every batch is full.

    Args:
      pack: the images.
      data: config.data; crop, random_crop, flip, crop_chunk and lighting* are read.
      seed: of the draws.
      batch_size: of all processes together.
      first_step: any step; nothing before it is read.
      last_step: the first step not taken.
      channels: of the network.
      rows: (b,) ascending, of the batch that this process takes part in; None for all.
      workers: threads that decode, None for one per core. No effect on the stream.

    Yields:
      image (b, crop, crop, channels) uint8; label (b,) int32; offset (b, 2) int32, top and left
      of the crop; flip (b,) bool; shift (b, channels) float32, 0-255 units; gain (b,) float32;
      example (b,) uint32, g modulo 2^32.

    Raises:
      InputError: the images are smaller than the crop or have other channels than the network.
    """
    split = pack.splits["train"]
    rows = np.arange(batch_size) if rows is None else rows
    draws = Augmentation(
        seed=seed,
        count=split.count,
        margin=margin(pack, data, channels),
        random_crop=data.random_crop,
        flip=data.flip,
        chunk=data.crop_chunk,
        lighting=lighting_matrix(
            pack.covariance, rule=data.lighting, std=data.lighting_std, channels=channels
        ),
        lighting_divisor=data.lighting_divisor,
        lighting_end=data.lighting_end,
    )
    steps = range(first_step, last_step)

    def wanted(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        drawn = draws.rows(step * batch_size + rows)
        return drawn.index, drawn.offset[:, None], drawn.flip[:, None]

    def batches() -> Generator[Batch, None, None]:
        images = _images(pack, split, wanted, steps, (len(rows), 1, data.crop, channels), workers)
        for step, image in zip(steps, images, strict=True):
            example = step * batch_size + rows
            drawn = draws.rows(example)
            yield dict(
                image=image[:, 0],
                label=split.labels[drawn.index],
                offset=drawn.offset,
                flip=drawn.flip,
                shift=drawn.shift,
                gain=drawn.gain,
                example=example.astype(np.uint32),
            )

    return batches()


def evaluation_batches(
    pack: Pack,
    split: str,
    data: ConfigDict,
    *,
    batch_size: int,
    channels: int,
    views: str = "center",
    index: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """The images of a split, each once, the last batch filled up and masked.

    Args:
      pack: the images.
      split: one of pack.splits.
      data: config.data; crop is read.
      batch_size: images of all processes together.
      channels: of the network.
      views: "center", the central crop; or "ten", section 4.1's: top left, top right, bottom
        left, bottom right and central crop, then the same five mirrored.
      index: (n,) which images of the split, in that order; None for all of them in the split's.
      rows: as in train_batches; the number of batches does not depend on them.
      workers: as in train_batches.

    Yields:
      image (b, views, crop, crop, channels) uint8; offset (b, views, 2) int32; flip (b, views)
      bool; label (b,) int32, 0 where masked; mask (b,) bool, False for what fills up.

    Raises:
      InputError: as train_batches, or the pack has no such split, or unknown views.
    """
    if split not in pack.splits:
        raise InputError(
            f"the pack in {pack.directory} has no {split} split; it has {', '.join(pack.splits)}"
        )
    chosen = pack.splits[split]
    rows = np.arange(batch_size) if rows is None else rows
    offset, flip = _views(margin(pack, data, channels), views)
    offset, flip = np.tile(offset, (len(rows), 1, 1)), np.tile(flip, (len(rows), 1))
    index = np.arange(chosen.count) if index is None else index
    steps = range(-(-len(index) // batch_size))

    def wanted(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return index[np.minimum(step * batch_size + rows, len(index) - 1)], offset, flip

    def batches() -> Generator[Batch, None, None]:
        shape = (*flip.shape, data.crop, channels)
        images = _images(pack, chosen, wanted, steps, shape, workers)
        for step, image in zip(steps, images, strict=True):
            mask = step * batch_size + rows < len(index)
            label = np.where(mask, chosen.labels[wanted(step)[0]], 0)
            yield dict(image=image, offset=offset.copy(), flip=flip.copy(), label=label, mask=mask)

    return batches()


def _views(margin: int, views: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (views, 2) int32 and flips (views,) bool."""
    if views not in ("center", "ten"):
        raise InputError(f"views {views!r} are unknown; they are center or ten")
    center = [margin // 2, margin // 2]
    if views == "center":
        return np.array([center], np.int32), np.array([False])
    five = [[0, 0], [0, margin], [margin, 0], [margin, margin], center]
    return np.array(five * 2, np.int32), np.repeat([False, True], 5)


def _images(
    pack: Pack,
    split: Split,
    wanted: Wanted,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int | None,
) -> Iterator[np.ndarray]:
    """The images of each step, (b, views, crop, crop, channels) uint8; shape without one crop."""
    make = _raw_images if pack.encoding == "raw" else _jpeg_images
    return make(pack, split, wanted, steps, shape, workers or available_cores())


def _raw_images(
    pack: Pack,
    split: Split,
    wanted: Wanted,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Whole batches in NumPy: small images cost less than a call of TensorFlow for each."""
    batch, _, crop, channels = shape
    along = np.arange(crop)

    def images(step: int) -> np.ndarray:
        index, offset, flip = wanted(step)
        pixels = np.frombuffer(b"".join(split.read(index)), np.uint8)
        pixels = pixels.reshape(batch, pack.side, pack.side, pack.channels)
        rows = offset[:, :, :1] + along
        columns = offset[:, :, 1:] + np.where(flip[:, :, None], along[::-1], along)
        image = np.arange(batch)[:, None, None, None]
        crops = pixels[image, rows[:, :, :, None], columns[:, :, None, :]]
        return np.repeat(crops, channels // pack.channels, axis=-1)

    return ordered_map(images, steps, workers=workers, ahead=workers + _BATCHES_AHEAD)


def _jpeg_images(
    pack: Pack,
    split: Split,
    wanted: Wanted,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Records of a batch are read in one call, decoded each by itself."""
    import tensorflow as tf  # takes seconds, and raw packs do without it

    tf.config.set_visible_devices([], "GPU")  # JAX has the accelerators; TF would take their memory
    batch, views, crop, channels = shape
    settings = dict(channels=channels, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)

    def records(step: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index, offset, flip = wanted(int(step))
        return np.array(split.read(index), object), offset.astype(np.int32), flip

    def read(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        record, offset, flip = tf.numpy_function(
            records, [step], [tf.string, tf.int32, tf.bool], stateful=False
        )
        return (
            tf.ensure_shape(record, [batch]),
            tf.ensure_shape(offset, [batch, views, 2]),
            tf.ensure_shape(flip, [batch, views]),
        )

    def mirrored(image: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        image = tf.ensure_shape(image, [crop, crop, channels])
        return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)

    def decode(record: tf.Tensor, offset: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        if views == 1:  # decodes the crop's rows and columns alone
            window = tf.concat([offset[0], [crop, crop]], 0)
            image = tf.io.decode_and_crop_jpeg(record, window, **settings)
            return mirrored(image, flip[0])[None]
        image = tf.io.decode_jpeg(record, **settings)
        crops = [
            tf.slice(image, [*tf.unstack(offset[v]), 0], [crop, crop, -1]) for v in range(views)
        ]
        return tf.stack([mirrored(crops[v], flip[v]) for v in range(views)])

    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    dataset = dataset.map(read, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.prefetch(_BATCHES_AHEAD).unbatch()
    # More than one record a thread, so that none waits for its next to be handed out.
    dataset = dataset.map(decode, num_parallel_calls=4 * workers, deterministic=True)
    dataset = dataset.batch(batch, drop_remainder=True).prefetch(_BATCHES_AHEAD)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.autotune.enabled = False  # all sizes are set here
    return dataset.with_options(options).as_numpy_iterator()
