"""Make batches from packs: draw or list the windows of images, and have them decoded.

Images are uint8 crops. The device subtracts the mean and adds the lighting shift, for which it
needs the offset and flip of each crop; this reduces the transferred bytes to a quarter of float32.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
from jax import Array

from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import Augmentation, Draws, lighting_matrix
from alexnet_jax.data.batch import Batch, ExamplesOfStep, ResidentCrops, StepExamples
from alexnet_jax.data.crops import evaluation_scale, make_views
from alexnet_jax.data.decode import Request, decode_windows
from alexnet_jax.data.pack import Pack, Split
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError


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
    augmentation = make_augmentation(pack, config)
    size = np.array([data.crop, data.crop], np.int32)
    steps = range(first_step, last_step)
    drawn: dict[int, tuple[StepExamples, Draws]] = {}  # draws of steps that are not yet yielded

    def make_request(step: int) -> Request:
        examples = examples_of_step(step, rows)
        draws = augmentation.draw(examples.epoch, examples.position)
        drawn[step] = examples, draws
        window, flip = draws.window[:, None], draws.flip[:, None]
        return Request(draws.index, draws.offset[:, None], window, flip, size)

    def batches() -> Generator[Batch, None, None]:
        shape = (len(rows), 1, channels)
        images = decode_windows(pack, split, make_request, steps, shape, workers)
        for step, image in zip(steps, images, strict=True):
            examples, draws = drawn.pop(step)
            yield make_train_batch(split, examples, draws, image[:, 0])

    return batches()


def make_train_batch(
    split: Split, examples: StepExamples, draws: Draws, image: np.ndarray | ResidentCrops
) -> Batch:
    """Return the batch of training examples, as NumPy arrays.

    Args:
        split: the training split.
        examples: the examples.
        draws: their random draws.
        image: their crops.
    """
    return Batch(
        image=image,
        offset=draws.offset,
        flip=draws.flip,
        label=split.labels[draws.index],
        mask=examples.mask,
        example=examples.number.astype(np.uint32),
        shift=draws.shift,
        gain=draws.gain,
    )


def make_augmentation(pack: Pack, config: Config) -> Augmentation:
    """Return the augmentation of a pack's training images."""
    return Augmentation(
        seed=config.seed,
        shapes=pack.splits["train"].shapes,
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
    by_shape: bool = False,
    rows: np.ndarray | None = None,
    pixels: Array | None = None,
    workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Return batches with every image of a split once; incomplete batches are padded and masked.

    Args:
        pack: the prepared images.
        split: name of a split of the pack.
        config: config, of which the batch size, the crop and the number of channels are used.
        views: see `data.crops.make_views`.
        scale: length in pixels to which the shorter side of images is scaled; None takes that of
            the config, `data.crops.evaluation_scale`.
        index: (n,) indices of images in the split; None for all images in order.
        by_shape: put only images of one shape into a batch, as views "dense" do in any case.
        pixels: all images of the split on the devices, from `data.resident.load_pixels`, which cut
            the crops, unless these are scaled; None cuts all crops on the host.
        rows, workers: see `train_batches`; the number of batches does not depend on them.

    Raises:
        InputError: see `check_images` and `data.crops.make_views`; or the split is unknown.
    """
    chosen, channels = _find_split(pack, split), config.model.channels
    check_images(pack, config.data, channels)
    rows = np.arange(config.batch_size) if rows is None else rows
    scale = scale or evaluation_scale(config.data, pack.side)
    first = make_views(views, chosen.shapes[:1], config.data.crop, scale)  # refuses wrong views
    by_shape = by_shape or views == "dense"
    indices = index_of_batches(chosen, config.batch_size, index, by_shape=by_shape)
    steps = range(len(indices))

    def make_request(step: int) -> Request:
        found = indices[step][np.minimum(rows, len(indices[step]) - 1)]
        cut = make_views(views, chosen.shapes[found], config.data.crop, scale)
        return Request(found, cut.offset, cut.window, np.tile(cut.flip, (len(rows), 1)), cut.size)

    def batches() -> Generator[Batch, None, None]:
        shape = (len(rows), len(first.flip), channels)
        images: Iterator[Any] = (
            _yield_resident_crops(pixels, map(make_request, steps))
            if pixels is not None and (first.window == first.size).all()
            else decode_windows(pack, chosen, make_request, steps, shape, workers)
        )
        for step, image in zip(steps, images, strict=True):
            request = make_request(step)
            mask = rows < len(indices[step])
            label = np.where(mask, chosen.labels[request.index], 0)
            yield Batch(image, request.offset, request.flip, label, mask)

    return batches()


def _find_split(pack: Pack, name: str) -> Split:
    """Return a split of a pack; raise InputError if it has none of that name."""
    if name not in pack.splits:
        raise InputError(
            f"the pack in {pack.directory} has no {name} split; it has {', '.join(pack.splits)}"
        )
    return pack.splits[name]


def _yield_resident_crops(pixels: Array, requests: Iterable[Request]) -> Iterator[ResidentCrops]:
    """Yield what the devices need to cut the crops of requests from resident images."""
    for request in requests:
        yield ResidentCrops(pixels, request.index.astype(np.int32), int(request.size[0]))


def index_of_batches(
    split: Split, batch_size: int, index: np.ndarray | None = None, *, by_shape: bool = False
) -> list[np.ndarray]:
    """Divide images of a split into batches, of which the last ones may be smaller.

    Args:
        split: the split.
        batch_size: number of images in a batch.
        index: (n,) indices of images in the split; None for all images in order.
        by_shape: put only images of one shape into a batch, in the order of the shapes.

    Returns:
        For each batch the indices of its images, (batch_size or fewer,) int64.
    """
    index = np.arange(split.count) if index is None else index
    groups = [index]
    if by_shape:
        shapes, group = np.unique(split.shapes[index], axis=0, return_inverse=True)
        groups = [index[group.reshape(-1) == number] for number in range(len(shapes))]
    return [
        group[start : start + batch_size]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]


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
            f"data.padding={data.padding} is for images whose pixels are stored, and the pack in "
            f"{pack.directory} has JPEGs of {pack.side} pixels; expected data.padding=0, or "
            "--config.data.encoding=raw"
        )
    if data.padding and pack.side != data.image_size:
        raise InputError(
            f"data.padding={data.padding} with data.image_size={data.image_size}, but the pack in "
            f"{pack.directory} has images of {pack.side} pixels; set "
            f"--config.data.image_size={pack.side}, or --config.data.enlarge=True"
        )
