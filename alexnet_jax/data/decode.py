"""Decode the records of a pack and cut windows out: JPEGs by tf.data, raw pixels by NumPy.

JPEGs are decoded with libjpeg's accurate integer transform and smooth chroma upsampling, as in
Pillow, so that the pixels are those of preparation and prediction. The fast transform,
TensorFlow's default, is not measurably faster.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_jax.data.crops import cut_crops
from alexnet_jax.data.images import scale_pixels
from alexnet_jax.data.pack import Pack, Split
from alexnet_jax.data.parallel_map import ordered_map
from alexnet_jax.errors import InputError
from alexnet_jax.extras import check_installed
from alexnet_jax.machine import available_cores

_PREFETCH_BATCHES = 2  # batches read in advance, and as many decoded


@dataclass(frozen=True)
class Request:
    """The views to read for a step.

    Attributes:
        index: (b,) int64, index of each image in the split.
        offset: (b, views, 2) int32, y and x of the top left pixel of the windows.
        window: (b, views, 2) int32, height and width of the windows.
        flip: (b, views) bool, whether the windows are mirrored.
        size: (2,) int32, height and width to which the windows are scaled.
    """

    index: np.ndarray
    offset: np.ndarray
    window: np.ndarray
    flip: np.ndarray
    size: np.ndarray


RequestFn = Callable[[int], Request]  # from a step


def decode_windows(
    pack: Pack,
    split: Split,
    make_request: RequestFn,
    steps: range,
    shape: tuple[int, int, int],
    workers: int | None,
) -> Iterator[np.ndarray]:
    """Return the images of each step, (b, views, height, width, channels) uint8.

    Args:
        pack: the prepared images.
        split: the split of the pack.
        make_request: function that returns what to read for a step; called once per step, from
            other threads.
        steps: the steps.
        shape: (b, views, channels).
        workers: number of threads that decode; None for one per core.
    """
    make = _raw_images if pack.encoding == "raw" else _jpeg_images
    return make(pack, split, make_request, steps, shape, workers or available_cores())


def _raw_images(
    pack: Pack,
    split: Split,
    make_request: RequestFn,
    steps: range,
    shape: tuple[int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Return the images of a pack of raw pixels; see `decode_windows`.

    Batches are cropped in NumPy, which is faster than calling TensorFlow for every small image.
    """
    batch, _, channels = shape

    def images(step: int) -> np.ndarray:
        request = make_request(step)
        records, shapes = split.read(request.index), split.shapes[request.index]
        ends = request.offset + request.window
        if (request.offset < 0).any() or (ends > shapes[:, None]).any():  # padded squares
            pixels = np.frombuffer(b"".join(records), np.uint8)
            squares: np.ndarray = pixels.reshape(batch, pack.side, pack.side, pack.channels)
            image: np.ndarray = np.arange(batch)[:, None]
            crops = cut_crops(squares, image, request.offset, request.flip, int(request.size[0]))
        else:
            crops = _cut_windows(records, shapes, request, pack.channels)
        if channels != pack.channels:  # gray images for a model of colors
            crops = np.repeat(crops, channels // pack.channels, axis=-1)
        return crops

    return ordered_map(images, steps, workers=workers, max_pending=workers + _PREFETCH_BATCHES)


def _cut_windows(
    records: list[bytes], shapes: np.ndarray, request: Request, channels: int
) -> np.ndarray:
    """Return the views of images, (b, views, height, width, channels) uint8.

    A pixel is moved as one value of `channels` bytes, which takes a small part of the time of
    indexing each by its row and column.

    Args:
        records: the images' pixels.
        shapes: (b, 2), their heights and widths.
        request: the views, none of which has pixels outside of its image.
        channels: number of channels.
    """
    pixel = np.dtype((np.void, channels))
    height, width = request.size.tolist()
    views = np.empty((*request.flip.shape, height, width), pixel)
    windows = np.concatenate([request.offset, request.window], axis=2).tolist()
    for row, record in enumerate(records):
        pixels = np.frombuffer(record, pixel).reshape(shapes[row])
        for view, (top, left, rows, columns) in enumerate(windows[row]):
            cut = pixels[top : top + rows, left : left + columns]
            if (rows, columns) != (height, width):
                values = cut[..., None].view(np.uint8)
                cut = scale_pixels(values, height, width).view(pixel)[..., 0]
            views[row, view] = cut[:, ::-1] if request.flip[row, view] else cut
    return views[..., None].view(np.uint8)


def _jpeg_images(
    pack: Pack,
    split: Split,
    make_request: RequestFn,
    steps: range,
    shape: tuple[int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Return the images of a pack of JPEGs; see `decode_windows`.

    The records of a batch are read in one call, and decoded one by one.
    """
    check_installed("data", f"decoding the JPEG images of {pack.directory}", "tensorflow")
    import tensorflow as tf  # takes seconds, and raw packs do not need it

    tf.config.set_visible_devices([], "GPU")  # leave the accelerators to JAX
    damage: list[InputError] = []  # TensorFlow would raise an error of its own instead
    read = _make_read_fn(split, make_request, shape, damage)
    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    dataset = dataset.map(read, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.prefetch(_PREFETCH_BATCHES).unbatch()
    # Several records per thread, so that no thread waits for its next record.
    decode = _make_decode_fn(shape)
    dataset = dataset.map(decode, num_parallel_calls=4 * workers, deterministic=True)
    dataset = dataset.batch(shape[0], drop_remainder=True).prefetch(_PREFETCH_BATCHES)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.autotune.enabled = False  # all sizes are set above
    try:
        yield from dataset.with_options(options).as_numpy_iterator()
    except tf.errors.OpError as error:
        if damage:
            raise damage[0] from error
        raise


def _make_read_fn(
    split: Split,
    make_request: RequestFn,
    shape: tuple[int, int, int],
    damage: list[InputError],
) -> Callable[..., tuple[Any, ...]]:
    """Return a TensorFlow function that reads the records of a step.

    It returns the records with the offset, window, flip and size of each, as in `Request`.

    Args:
        split, make_request, shape: see `decode_windows`.
        damage: list to which the errors of damaged records are appended.
    """
    import tensorflow as tf

    batch, views, _ = shape

    def records(step: np.int64) -> tuple[np.ndarray, ...]:
        request = make_request(int(step))
        try:
            record = np.array(split.read(request.index), object)
        except InputError as error:
            damage.append(error)
            raise
        offset, size = request.offset.astype(np.int32), np.tile(request.size, (batch, 1))
        return record, offset, request.window, request.flip, size

    def read(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = [tf.string, tf.int32, tf.int32, tf.bool, tf.int32]
        shapes = [[batch], [batch, views, 2], [batch, views, 2], [batch, views], [batch, 2]]
        arrays = tf.numpy_function(records, [step], types, stateful=False)
        return tuple(map(tf.ensure_shape, arrays, shapes))

    return read


def _make_decode_fn(shape: tuple[int, int, int]) -> Callable[..., Any]:
    """Return a TensorFlow function that decodes a record and cuts out its views.

    Its arguments are the record, offset (views, 2), window (views, 2), flip (views,) and size (2,);
    it returns the views, (views, height, width, channels) uint8.

    Args:
        shape: see `decode_windows`.
    """
    import tensorflow as tf

    _, views, channels = shape
    settings = dict(channels=channels, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)

    def scaled(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Scale a window as `data.images.scale_pixels` does."""
        resized = tf.image.resize(image, size, "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    def finished(image: tf.Tensor, flip: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        has_size = tf.reduce_all(tf.shape(image)[:2] == size)
        image = tf.cond(has_size, lambda: image, lambda: scaled(image, size))
        image = tf.ensure_shape(image, [None, None, channels])
        return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)

    def decode(
        record: tf.Tensor, offset: tf.Tensor, window: tf.Tensor, flip: tf.Tensor, size: tf.Tensor
    ) -> tf.Tensor:
        if views == 1:  # decode the window only
            box = tf.concat([offset[0], window[0]], 0)
            image = tf.io.decode_and_crop_jpeg(record, box, **settings)
            return finished(image, flip[0], size)[None]
        image = tf.io.decode_jpeg(record, **settings)
        cuts = [
            tf.slice(image, [*tf.unstack(offset[v]), 0], [*tf.unstack(window[v]), -1])
            for v in range(views)
        ]
        return tf.stack([finished(cuts[v], flip[v], size) for v in range(views)])

    return decode
