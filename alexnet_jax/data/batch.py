"""Batches: their arrays and shapes, and the examples that a training step takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.config import Config
from alexnet_jax.data.crops import center_offset, cut_crops

BatchArray = np.ndarray | Array


class ResidentCrops(flax.struct.PyTreeNode):
    """Crops of images that lie on the devices, where `cut` makes them inside jitted functions.

    Attributes:
        pixels: (images, side, side, channels) uint8, all images of a split, on every device.
        index: (batch,) int32, index of the image of each crop.
        size: side of the crops in pixels.
    """

    pixels: Array
    index: BatchArray
    size: int = flax.struct.field(pytree_node=False)

    def cut(self, offset: BatchArray, flip: BatchArray) -> Array:
        """Return the crops, (batch, size, size, channels) uint8; see `Batch`."""
        index, offset, flip = (jnp.asarray(array) for array in (self.index, offset, flip))
        return cut_crops(self.pixels, index, offset, flip, self.size)


class Batch(flax.struct.PyTreeNode):
    """Crops of images with their labels and random draws, as NumPy or JAX arrays.

    In batches for evaluation, image, offset and flip have an axis of views after the batch axis;
    `ResidentCrops` are the same for all views.

    Attributes:
        image: (batch, crop, crop, channels) uint8, or what the devices cut such crops from.
        offset: (batch, 2) int32, y and x of the top left pixel of the crop in its image.
        flip: (batch,) bool, whether the crop is mirrored.
        label: (batch,) int32; None if labels are unknown.
        mask: (batch,) bool, False for padding; None if there is no padding.
        example: (batch,) uint32, number of each example in the run modulo 2^32; training only.
        shift: (batch, channels) float32, added to every pixel; training only.
        gain: (batch,) float32, factor of every pixel after the shift; training only.
    """

    image: BatchArray | ResidentCrops
    offset: BatchArray
    flip: BatchArray
    label: BatchArray | None = None
    mask: BatchArray | None = None
    example: BatchArray | None = None
    shift: BatchArray | None = None
    gain: BatchArray | None = None

    def step(self, number: int | Array) -> "Batch":
        """Return the batch of one step from batches with an axis of steps before their own axes.

        Resident images have no such axis.
        """
        image, arrays = self.image, dict(vars(self))
        if isinstance(image, ResidentCrops):
            arrays["image"] = image.index
        batch = Batch(**jax.tree.map(lambda array: array[number], arrays))
        if isinstance(image, ResidentCrops):
            batch = batch.replace(image=image.replace(index=batch.image))
        return batch

    def labels(self) -> "Labels":
        """Return the labels and the mask of a batch that has them."""
        assert self.label is not None
        assert self.mask is not None
        return Labels(self.label, self.mask)

    def view(self, number: int) -> "Batch":
        """Return one view of a batch for evaluation, without labels."""
        image = self.image
        if not isinstance(image, ResidentCrops):
            image = image[:, number]
        return Batch(image, self.offset[:, number], self.flip[:, number])


class Labels(flax.struct.PyTreeNode):
    """The labels and the mask of a batch; see `Batch`."""

    label: BatchArray
    mask: BatchArray


def center_crops(images: np.ndarray, crop: int, channels: int) -> Batch:
    """Return the central crops of square images as a batch without labels.

    Args:
        images: (batch, side, side, 1 or channels) uint8.
        crop: side of the crops in pixels.
        channels: number of channels of the model; that of a gray image is repeated.
    """
    start = center_offset(images.shape[1], crop)
    crops = images[:, start : start + crop, start : start + crop]
    return Batch(
        image=np.broadcast_to(crops, (*crops.shape[:3], channels)),
        offset=np.full((len(images), 2), start, np.int32),
        flip=np.zeros(len(images), bool),
    )


def training_batch_spec(config: Config) -> Batch:
    """Return the shapes and types of a training batch."""
    crop, channels = config.data.crop, config.model.channels

    def array(shape: tuple[int, ...], kind: DTypeLike) -> Array:
        return cast(Array, jax.ShapeDtypeStruct((config.batch_size, *shape), kind))

    return Batch(
        image=array((crop, crop, channels), np.uint8),
        offset=array((2,), np.int32),
        flip=array((), np.bool_),
        label=array((), np.int32),
        mask=array((), np.bool_) if config.data.part_images else None,
        example=array((), np.uint32),
        shift=array((channels,), np.float32),
        gain=array((), np.float32),
    )


@dataclass(frozen=True)
class StepExamples:
    """The examples of a training step, or of some rows of its batch.

    Attributes:
        epoch: (batch,) int64, from 0.
        position: (batch,) int64, position in the epoch.
        number: (batch,) int64, number in the run, from 0.
        mask: (batch,) bool, False for padding; None for epochs whose batches are always full.
    """

    epoch: np.ndarray
    position: np.ndarray
    number: np.ndarray
    mask: np.ndarray | None


def concatenate_examples(parts: Sequence[StepExamples]) -> StepExamples:
    """Return the examples of consecutive steps."""
    masks = [part.mask for part in parts if part.mask is not None]
    return StepExamples(
        epoch=np.concatenate([part.epoch for part in parts]),
        position=np.concatenate([part.position for part in parts]),
        number=np.concatenate([part.number for part in parts]),
        mask=np.concatenate(masks) if masks else None,
    )


# Function from a step, counted from 0, and rows of its batch to the examples of these rows.
ExamplesOfStep = Callable[[int, np.ndarray], StepExamples]


def consecutive_examples(batch_size: int, num_images: int) -> ExamplesOfStep:
    """Return the default rule: step s takes the examples g = s · batch_size + i of the run.

    Example g is at position g % num_images of epoch g // num_images. A batch may contain examples
    of two epochs. Every image occurs once per epoch, and every batch is full.
    """

    def examples(step: int, rows: np.ndarray) -> StepExamples:
        number = step * batch_size + rows
        epoch, position = np.divmod(number, num_images)
        return StepExamples(epoch, position, number, mask=None)

    return examples
