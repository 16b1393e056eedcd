"""From the bytes of a crop to what the network sees; runs inside the jitted step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.errors import InputError

MEANS = ("image", "center", "channel", "given", "none")
ORDERS = ("rgb", "bgr")


def check_mean(data: Mapping[str, Any]) -> None:
    """Raise InputError for a `data.mean` that is not known."""
    if data["mean"] not in MEANS:
        raise InputError(f"data.mean is {data['mean']!r}; expected one of {', '.join(MEANS)}")


def check_units(data: Mapping[str, Any], channels: int) -> None:
    """Raise InputError for what `data` says of channels where it does not fit the network's."""
    if len(data["given_mean"]) != (channels if data["mean"] == "given" else 0):
        raise InputError(
            f"data.given_mean is {tuple(data['given_mean'])} and data.mean={data['mean']}; "
            f'expected {channels} numbers with "given", and none otherwise'
        )
    if len(data["std"]) not in (1, channels) or min(data["std"]) <= 0:
        raise InputError(
            f"data.std is {tuple(data['std'])}; expected one number above 0, or one for each of "
            f"the {channels} channels"
        )
    if data["channel_order"] not in ORDERS:
        raise InputError(
            f"data.channel_order is {data['channel_order']!r}; expected one of {', '.join(ORDERS)}"
        )


def mean_of(mean_image: np.ndarray, data: Mapping[str, Any], channels: int) -> np.ndarray:
    """What `data.mean` says is to be subtracted, from the mean image of the training split.

    Args:
        mean_image: (side, side, 1 or 3), in units of 0…255.
        data: the `data` part of the config.
        channels: of the network; a grey mean is repeated to fit.

    Returns:
        (side, side, channels) for "image" - the crop is cut out later, where each picture's
        own was; (crop, crop, channels) for "center"; (1, 1, channels) for the others.
    """
    side, crop = mean_image.shape[0], data["crop"]
    mean = np.repeat(mean_image, channels // mean_image.shape[-1], axis=-1).astype(np.float32)
    start = (side - crop) // 2
    if data["mean"] == "image":
        return mean
    if data["mean"] == "center":
        return mean[start : start + crop, start : start + crop]
    if data["mean"] == "given":
        return np.reshape(data["given_mean"], (1, 1, channels)).astype(np.float32)
    if data["mean"] == "channel":
        return mean.mean((0, 1), keepdims=True)
    check_mean(data)
    return np.zeros((1, 1, channels), np.float32)


def normalise(batch: Mapping[str, Array], mean: Array, data: Mapping[str, Any]) -> Array:
    """Subtract the mean, add the lighting shift and take its gain, scale, order the channels.

    Args:
        batch: image (batch, crop, crop, channels) uint8; offset (batch, 2), the crop's
            first row and column; flip (batch,); and, while training, shift (batch, channels)
            and gain (batch,).
        mean: as `mean_of` gives it.
        data: the `data` part of the config; its `scale` multiplies the result, and 1 keeps
            the units of 0…255 that the paper's initial weights expect; its `std` divides it,
            one number or one a channel in the order of the pictures, RGB; "bgr" as its
            `channel_order` then turns the channels around, as Caffe's weights want them.

    Returns:
        (batch, crop, crop, channels) float32.
    """
    images = batch["image"].astype(jnp.float32)
    _, crop, _, channels = images.shape

    def under(offset: Array, flip: Array) -> Array:
        cut = lax.dynamic_slice(mean, (offset[0], offset[1], 0), (crop, crop, channels))
        return jnp.where(flip, cut[:, ::-1], cut)

    aligned = data["mean"] == "image"
    images -= jax.vmap(under)(batch["offset"], batch["flip"]) if aligned else mean
    if "shift" in batch:
        images += batch["shift"][:, None, None, :]
        images *= batch["gain"][:, None, None, None]
    images *= data["scale"] / np.asarray(data["std"], np.float32)
    return images[..., ::-1] if data["channel_order"] == "bgr" else images
