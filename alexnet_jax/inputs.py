"""From the bytes of a crop to the input of the model; runs inside the jitted step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.config import DataConfig
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.crops import center_offset


def mean_of(mean_image: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return what `data.mean` subtracts, from the mean image of the training split.

    Args:
        mean_image: (side, side, 1 or 3), in units of 0…255.
        channels: of the model; a gray mean is repeated to fit.

    Returns:
        (side, side, channels) for "image" - the crop is cut out later, where each image's
        own was; (crop, crop, channels) for "center"; (1, 1, channels) for the others.
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
        average: np.ndarray = mean.mean((0, 1), keepdims=True)
        return average
    return np.zeros((1, 1, channels), np.float32)


def mean_of_center(mean_image: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return what `data.mean` subtracts from a central crop; shapes as `mean_of` but for "image".

    Returns:
        (crop, crop, channels), or (1, 1, channels).
    """
    mean = mean_of(mean_image, data, channels)
    if data.mean != "image":
        return mean
    start = center_offset(mean.shape[0], data.crop)
    return mean[start : start + data.crop, start : start + data.crop]


def normalize(batch: Batch, mean: Array, data: DataConfig) -> Array:
    """Subtract the mean, add the lighting shift and take its gain, scale, order the channels.

    Args:
        batch: its shift and gain are None but while training.
        mean: from `mean_of`.
        data: its `scale` multiplies the result, and 1 keeps the units of 0…255 that the paper's
            initial weights expect; its `std` divides it, one number or one a channel in the
            order of the images, RGB; "bgr" as its `channel_order` then reverses the channels, as
            Caffe's weights need.

    Returns:
        (batch, crop, crop, channels) float32.
    """
    images = jnp.asarray(batch.image).astype(jnp.float32)
    _, crop, _, channels = images.shape

    def under(offset: Array, flip: Array) -> Array:
        cut = lax.dynamic_slice(mean, (offset[0], offset[1], 0), (crop, crop, channels))
        return jnp.where(flip, cut[:, ::-1], cut)

    aligned = data.mean == "image"
    offset, flip = jnp.asarray(batch.offset), jnp.asarray(batch.flip)
    images -= jax.vmap(under)(offset, flip) if aligned else mean
    if batch.shift is not None:
        assert batch.gain is not None
        images += batch.shift[:, None, None, :]
        images *= batch.gain[:, None, None, None]
    images *= data.scale / np.asarray(data.std, np.float32)
    return images[..., ::-1] if data.channel_order == "bgr" else images
