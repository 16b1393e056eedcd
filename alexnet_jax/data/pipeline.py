"""Make batches from packs: JPEGs are decoded and cropped by tf.data, raw pixels by NumPy.

Images are uint8 crops. The device subtracts the mean and adds the lighting shift, for which it
needs the offset and flip of each crop; this reduces the transferred bytes to a quarter of float32.

JPEGs are decoded with libjpeg's accurate integer transform and smooth chroma upsampling, as in
Pillow, so that the pixels are those of preparation and prediction. The fast transform,
TensorFlow's default, is not measurably faster.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from alexnet_jax.config import Config, DataConfig
from alexnet_jax.data.augmentation import Augmentation, Draws, lighting_matrix
from alexnet_jax.data.batch import Batch, ExamplesOfStep, StepExamples
from alexnet_jax.data.crops import evaluation_scale, make_views
from alexnet_jax.data.images import resize_square
from alexnet_jax.data.pack import Pack, Split
from alexnet_jax.data.parallel_map import available_cores, ordered_map
from alexnet_jax.errors import InputError
from alexnet_jax.extras import check_installed

_PREFETCH_BATCHES = 2  # batches read in advance, and as many decoded

# The images to read for a step: index (b,) in the split, offset (b, views, 2), flip (b, views) and
# window (b, 2), height and width of the views.
Request = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Requests = Callable[[int], Request]


def train_batches(
    pack: Pack,
    config: Config,
    examples_of_step: ExamplesOfStep,
    *,
    first_step: int,
    last_step: int,
    rows: np.ndarray | None = None,
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Return the training batches of steps first_step … last_step - 1, as NumPy arrays.

    Args:
        pack: the prepared images.
        config: config, of which the seed, the batch size, the augmentation and the number of
            channels are used.
        examples_of_step: rule that returns the examples of a step.
        first_step: first step, counted from 0; no images of earlier steps are read.
        last_step: end of the range of steps, exclusive.
        rows: (b,) ascending rows of the batch to return; None for all.
        workers: number of threads that decode; None for one per core. It does not affect the
            batches.

    Raises:
        InputError: see `check_images` and `check_padding`.
    """
    split, data, channels = pack.splits["train"], config.data, config.model.channels
    check_images(pack, data, channels)
    check_padding(pack, data)
    rows = np.arange(config.batch_size) if rows is None else rows
    augmentation = _make_augmentation(pack, config)
    steps = range(first_step, last_step)
    drawn: dict[int, tuple[StepExamples, Draws]] = {}  # draws of steps that are not yet yielded

    def request(step: int) -> Request:
        examples = examples_of_step(step, rows)
        draws = augmentation.draw(examples.epoch, examples.position)
        drawn[step] = examples, draws
        return draws.index, draws.offset[:, None], draws.flip[:, None], draws.window

    def batches() -> Generator[Batch, None, None]:
        shape = (len(rows), 1, data.crop, channels)
        images = _images(pack, split, request, steps, shape, workers)
        for step, image in zip(steps, images, strict=True):
            examples, draws = drawn.pop(step)
            yield Batch(
                image=image[:, 0],
                offset=draws.offset,
                flip=draws.flip,
                label=split.labels[draws.index],
                mask=examples.mask,
                example=examples.number.astype(np.uint32),
                shift=draws.shift,
                gain=draws.gain,
            )

    return batches()


def _make_augmentation(pack: Pack, config: Config) -> Augmentation:
    """Return the augmentation of a pack's training images."""
    return Augmentation(
        seed=config.seed,
        count=pack.splits["train"].count,
        image_size=pack.side,
        data=config.data,
        lighting=lighting_matrix(pack.covariance, config.data, config.model.channels),
    )


def evaluation_batches(
    pack: Pack,
    split: str,
    config: Config,
    *,
    views: str = "center",
    scale: int | None = None,
    index: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Return batches with every image of a split once; the last batch is padded and masked.

    Args:
        pack: the prepared images.
        split: name of a split of the pack.
        config: config, of which the batch size, the crop and the number of channels are used.
        views: see `data.crops.make_views`.
        scale: length in pixels to which the shorter side of images is scaled; None takes that of
            the config, `data.crops.evaluation_scale`.
        index: (n,) indices of images in the split; None for all images in order.
        rows, workers: see `train_batches`; the number of batches does not depend on them.

    Raises:
        InputError: see `check_images` and `data.crops.make_views`; or the split is unknown.
    """
    if split not in pack.splits:
        raise InputError(
            f"the pack in {pack.directory} has no {split} split; it has {', '.join(pack.splits)}"
        )
    chosen, channels = pack.splits[split], config.model.channels
    check_images(pack, config.data, channels)
    rows = np.arange(config.batch_size) if rows is None else rows
    scale = scale or evaluation_scale(config.data, pack.side)
    cut = make_views(views, pack.side, config.data.crop, scale)
    offset, flip = np.tile(cut.offset, (len(rows), 1, 1)), np.tile(cut.flip, (len(rows), 1))
    window = np.full((len(rows), 2), cut.window, np.int32)
    index = np.arange(chosen.count) if index is None else index
    steps = range(-(-len(index) // config.batch_size))

    def images_of_step(step: int) -> np.ndarray:
        chosen_rows = np.minimum(step * config.batch_size + rows, len(index) - 1)
        images: np.ndarray = index[chosen_rows]
        return images

    def request(step: int) -> Request:
        return images_of_step(step), offset, flip, window

    def batches() -> Generator[Batch, None, None]:
        shape = (*flip.shape, cut.size, channels)
        images = _images(pack, chosen, request, steps, shape, workers)
        for step, image in zip(steps, images, strict=True):
            mask = step * config.batch_size + rows < len(index)
            label = np.where(mask, chosen.labels[images_of_step(step)], 0)
            yield Batch(image, offset.copy(), flip.copy(), label, mask)

    return batches()


def check_images(pack: Pack, data: DataConfig, channels: int) -> None:
    """Raise InputError for images smaller than the crop, or with other channels than the model.

    Args:
        pack: the prepared images.
        data: config.data.
        channels: number of channels of the model.
    """
    if data.crop > pack.side:
        advice = f"--config.data.image_size={data.crop} or more"
        if pack.side < data.image_size:  # the source's images all have that size
            advice = "--config.data.enlarge=True"
            if data.image_size < data.crop:
                advice += f" and --config.data.image_size={data.crop} or more"
        raise InputError(
            f"images smaller than the crop: those of the pack in {pack.directory} have "
            f"{pack.side} × {pack.side} pixels, --config.data.crop={data.crop}; set it to at most "
            f"{pack.side}, or prepare larger images with {advice}"
        )
    if channels not in (pack.channels, 3):
        raise InputError(
            f"the images of the pack in {pack.directory} have {pack.channels} channels, the "
            f"model {channels}; set --config.model.channels={pack.channels}"
        )


def check_padding(pack: Pack, data: DataConfig) -> None:
    """Raise InputError for padding of JPEGs, or of images smaller than data.image_size.

    `inputs.normalize` finds the padding by data.image_size.

    Args:
        pack: the prepared images.
        data: config.data.
    """
    if data.padding and pack.encoding != "raw":
        raise InputError(
            f"data.padding={data.padding} is for small images, whose pixels are stored, and the "
            f"pack in {pack.directory} has JPEGs of {pack.side} pixels; expected data.padding=0"
        )
    if data.padding and pack.side != data.image_size:
        raise InputError(
            f"data.padding={data.padding} with data.image_size={data.image_size}, but the pack in "
            f"{pack.directory} has images of {pack.side} pixels; set "
            f"--config.data.image_size={pack.side}, or --config.data.enlarge=True"
        )


def _images(
    pack: Pack,
    split: Split,
    request: Requests,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int | None,
) -> Iterator[np.ndarray]:
    """Return the images of each step, (b, views, crop, crop, channels) uint8.

    Args:
        pack: the prepared images.
        split: the split of the pack.
        request: function that returns what to read for a step; called once per step, from other
            threads.
        steps: the steps.
        shape: (b, views, crop, channels).
        workers: see `train_batches`.
    """
    make = _raw_images if pack.encoding == "raw" else _jpeg_images
    return make(pack, split, request, steps, shape, workers or available_cores())


def _raw_images(
    pack: Pack,
    split: Split,
    request: Requests,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Return the images of a pack of raw pixels; see `_images`.

    Batches are cropped in NumPy, which is faster than calling TensorFlow for every small image.
    """
    batch, views, crop, channels = shape
    pixel = np.arange(crop)

    def images(step: int) -> np.ndarray:
        index, offset, flip, window = request(step)
        pixels = np.frombuffer(b"".join(split.read(index)), np.uint8)
        pixels = pixels.reshape(batch, pack.side, pack.side, pack.channels)
        if (window == crop).all():
            # `inputs.normalize` sets the padding to zero, so that its pixels may be any.
            y = np.clip(offset[:, :, :1] + pixel, 0, pack.side - 1)
            x = offset[:, :, 1:] + np.where(flip[:, :, None], pixel[::-1], pixel)
            x = np.clip(x, 0, pack.side - 1)
            image = np.arange(batch)[:, None, None, None]
            crops = pixels[image, y[:, :, :, None], x[:, :, None, :]]
        else:
            crops = np.empty((batch, views, crop, crop, pack.channels), np.uint8)
            for row, view in np.ndindex(batch, views):
                (top, left), (height, width) = offset[row, view], window[row]
                cut = pixels[row, top : top + height, left : left + width]
                scaled = resize_square(cut, crop)
                crops[row, view] = scaled[:, ::-1] if flip[row, view] else scaled
        return np.repeat(crops, channels // pack.channels, axis=-1)

    return ordered_map(images, steps, workers=workers, max_pending=workers + _PREFETCH_BATCHES)


def _jpeg_images(
    pack: Pack,
    split: Split,
    request: Requests,
    steps: range,
    shape: tuple[int, int, int, int],
    workers: int,
) -> Iterator[np.ndarray]:
    """Return the images of a pack of JPEGs; see `_images`.

    The records of a batch are read in one call, and decoded one by one.
    """
    check_installed("data", f"decoding the JPEG images of {pack.directory}", "tensorflow")
    import tensorflow as tf  # takes seconds, and raw packs do not need it

    tf.config.set_visible_devices([], "GPU")  # leave the accelerators to JAX
    damage: list[InputError] = []  # TensorFlow would raise an error of its own instead
    read = _make_read_fn(split, request, shape, damage)
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
    request: Requests,
    shape: tuple[int, int, int, int],
    damage: list[InputError],
) -> Callable[..., tuple[Any, ...]]:
    """Return a TensorFlow function that reads the records of a step.

    It returns the records with the offset, flip and window of each, as in `Request`.

    Args:
        split, request, shape: see `_images`.
        damage: list to which the errors of damaged records are appended.
    """
    import tensorflow as tf

    batch, views, _, _ = shape

    def records(step: np.int64) -> Request:
        index, offset, flip, window = request(int(step))
        try:
            return np.array(split.read(index), object), offset.astype(np.int32), flip, window
        except InputError as error:
            damage.append(error)
            raise

    def read(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        record, offset, flip, window = tf.numpy_function(
            records, [step], [tf.string, tf.int32, tf.bool, tf.int32], stateful=False
        )
        return (
            tf.ensure_shape(record, [batch]),
            tf.ensure_shape(offset, [batch, views, 2]),
            tf.ensure_shape(flip, [batch, views]),
            tf.ensure_shape(window, [batch, 2]),
        )

    return read


def _make_decode_fn(shape: tuple[int, int, int, int]) -> Callable[..., Any]:
    """Return a TensorFlow function that decodes a record and cuts out its views.

    Its arguments are the record, offset (views, 2), flip (views,) and window (2,); it returns the
    views, (views, crop, crop, channels) uint8.

    Args:
        shape: see `_images`.
    """
    import tensorflow as tf

    _, views, crop, channels = shape
    settings = dict(channels=channels, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)

    def scaled(image: tf.Tensor) -> tf.Tensor:
        """Scale a window to the crop's size as `data.images.resize_square` does."""
        resized = tf.image.resize(image, [crop, crop], "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    def finished(image: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        is_crop = tf.reduce_all(tf.shape(image)[:2] == crop)
        image = tf.cond(is_crop, lambda: image, lambda: scaled(image))
        image = tf.ensure_shape(image, [crop, crop, channels])
        return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)

    def decode(
        record: tf.Tensor, offset: tf.Tensor, flip: tf.Tensor, window: tf.Tensor
    ) -> tf.Tensor:
        if views == 1:  # decode the window only
            box = tf.concat([offset[0], window], 0)
            image = tf.io.decode_and_crop_jpeg(record, box, **settings)
            return finished(image, flip[0])[None]
        image = tf.io.decode_jpeg(record, **settings)
        cuts = [
            tf.slice(image, [*tf.unstack(offset[v]), 0], [*tf.unstack(window), -1])
            for v in range(views)
        ]
        return tf.stack([finished(cuts[v], flip[v]) for v in range(views)])

    return decode
