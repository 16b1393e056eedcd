"""Compute the inputs of a model from uint8 crops, inside jitted functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.data.batch import Batch, ResidentCrops
from alexnet_jax.data.crops import center_offset, pixel_positions
from alexnet_jax.data_config import DataConfig


def mean_of(mean_image: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return the mean that `data.mean` selects, from the mean image of the training split.

    Args:
        mean_image: (side, side, 1 or 3), in units of 0…255.
        data: config.data.
        channels: number of channels of the model; the channel of a gray mean is repeated.

    Returns:
        (side, side, channels) for "image", from which `normalize` cuts the crop of each image;
        (crop, crop, channels) for "center"; (1, 1, channels) otherwise.
    """
    crop = data.crop
    mean = np.repeat(mean_image, channels // mean_image.shape[-1], axis=-1).astype(np.float32)
    start = center_offset(mean_image.shape[0], crop)
    if data.mean == "image":
        return mean
    if data.mean == "center":
        return mean[start : start + crop, start : start + crop]
    if data.mean == "given":
        return np.array(data.given_mean, np.float32).reshape(1, 1, channels)
    if data.mean == "channel":
        # Sums of 480 × 480 pixels in float32 would be wrong by 0.3 of 255.
        average: np.ndarray = mean.mean((0, 1), keepdims=True, dtype=np.float64)
        return average.astype(np.float32)
    return np.zeros((1, 1, channels), np.float32)


def mean_of_center(mean_image: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return the mean to subtract from a central crop; see `mean_of`.

    Returns:
        (crop, crop, channels) for "image" and "center"; (1, 1, channels) otherwise.
    """
    mean = mean_of(mean_image, data, channels)
    if data.mean != "image":
        return mean
    start = center_offset(mean.shape[0], data.crop)
    return mean[start : start + data.crop, start : start + data.crop]


def normalize(batch: Batch, mean: Array, data: DataConfig) -> Array:
    """Subtract the mean, apply shift and gain, scale the pixels and order the channels.

    Pixels within the padding, which surrounds the data.image_size pixels of an image, are zeros.

    Args:
        batch: a batch with one view per image; shift and gain are None for evaluation.
        mean: mean from `mean_of`.
        data: config.data. Pixels are multiplied by `scale` and divided by `std`; then the channels
            are reversed if `channel_order` is "bgr". A scale of 1 keeps the units of 0…255, for
            which the paper's initial weights are made.

    Returns:
        (batch, crop, crop, channels) float32.
    """
    offset, flip = jnp.asarray(batch.offset), jnp.asarray(batch.flip)
    image, channels = batch.image, mean.shape[-1]
    if isinstance(image, ResidentCrops):
        crops = image.cut(offset, flip)
        image = jnp.repeat(crops, channels // crops.shape[-1], axis=-1)  # gray images of the pack
    images = jnp.asarray(image).astype(jnp.float32)
    crop = images.shape[1]
    padding = data.padding
    if data.mean == "image":
        mean = jnp.pad(mean, ((padding, padding), (padding, padding), (0, 0)))

    def crop_mean(offset: Array, flip: Array) -> Array:
        start = (offset[0] + padding, offset[1] + padding, 0)
        cut = lax.dynamic_slice(mean, start, (crop, crop, channels))
        return jnp.where(flip, cut[:, ::-1], cut)

    images -= jax.vmap(crop_mean)(offset, flip) if data.mean == "image" else mean[None]
    if batch.shift is not None:
        assert batch.gain is not None
        images += batch.shift[:, None, None, :]
        images *= batch.gain[:, None, None, None]
    factor = data.scale / np.asarray(data.std, np.float32)  # one, or one a channel
    images *= factor[None, None, None, :]
    if padding:
        y, x = pixel_positions(offset, flip, crop)
        rows, columns = ((p >= 0) & (p < data.image_size) for p in (y, x))
        images = jnp.where(rows[:, :, None, None] & columns[:, None, :, None], images, 0)
    return images[..., ::-1] if data.channel_order == "bgr" else images
