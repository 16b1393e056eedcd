"""Mean subtraction, lighting shift and scale against a plain NumPy loop."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.batch import Batch
from alexnet_jax.data_config import DataConfig
from alexnet_jax.inputs import mean_of, mean_of_center, normalize

SIDE, CROP = 9, 6


def random_batch(channels: int, shift: bool) -> Batch:
    """Five crops, at all corners too, flipped and not."""
    rng = np.random.default_rng(0)
    batch = Batch(
        image=rng.integers(0, 256, (5, CROP, CROP, channels), np.uint8),
        offset=np.array([[0, 0], [3, 3], [0, 3], [3, 0], [1, 2]], np.int32),
        flip=np.array([False, True, True, False, True]),
    )
    if not shift:
        return batch
    return batch.replace(
        shift=rng.normal(size=(5, channels)).astype(np.float32),
        gain=rng.uniform(0.5, 1, 5).astype(np.float32),
    )


def plain(batch: Batch, mean_image: np.ndarray, data: DataConfig) -> np.ndarray:
    """Pixel by pixel, each crop's pixel with the place in the image that it came from."""
    image: Any = batch.image
    out = np.zeros(image.shape)
    means = mean_image.astype(float)
    for b, y, x, c in np.ndindex(*image.shape):
        source = 0 if means.shape[-1] == 1 else c
        top, left = batch.offset[b]
        column = CROP - 1 - x if batch.flip[b] else x
        mean = {
            "image": means[top + y, left + column, source],
            "center": means[(SIDE - CROP) // 2 + y, (SIDE - CROP) // 2 + x, source],
            "channel": means[..., source].mean(),
            "none": 0.0,
        }[data.mean]
        shift = 0.0 if batch.shift is None else batch.shift[b, c]
        gain = 1.0 if batch.gain is None else batch.gain[b]
        out[b, y, x, c] = (float(image[b, y, x, c]) - mean + shift) * gain * data.scale
    return out


@pytest.mark.parametrize("kind", ["image", "center", "channel", "none"])
@pytest.mark.parametrize(("shift", "scale"), [(True, 1.0), (False, 0.25), (True, 0.25)])
@pytest.mark.parametrize(("gray", "channels"), [(1, 1), (1, 3), (3, 3)])
def test_against_plain_loop(kind: str, shift: bool, scale: float, gray: int, channels: int) -> None:
    """Catches a mean not cut or not flipped with the crop, a shift that escapes gain or scale."""
    data = DataConfig(mean=kind, crop=CROP, scale=scale)
    mean_image = np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE, gray)).astype(np.float32)
    batch = random_batch(channels, shift)
    mean = mean_of(mean_image, data, channels)
    out = normalize(jax.tree.map(jnp.asarray, batch), jnp.asarray(mean), data)
    assert out.dtype == jnp.float32
    # One rounding of numbers up to 510 for each of mean, difference and sum.
    np.testing.assert_allclose(out, plain(batch, mean_image, data), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["image", "center", "channel", "given", "none"])
def test_mean_of_the_central_crop(kind: str) -> None:
    """Catches a mean that is not what `normalize` subtracts from a central crop."""
    given = (120.0, 110.0, 100.0) if kind == "given" else ()
    data = DataConfig(mean=kind, given_mean=given, crop=CROP)
    mean_image = np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    offset = np.full((1, 2), (SIDE - CROP) // 2, np.int32)
    image = np.zeros((1, CROP, CROP, 3), np.uint8)
    batch = Batch(jnp.asarray(image), jnp.asarray(offset), jnp.zeros(1, bool))
    out = normalize(batch, jnp.asarray(mean_of(mean_image, data, 3)), data)[0]
    mean = mean_of_center(mean_image, data, 3)
    np.testing.assert_array_equal(-out, np.broadcast_to(mean, out.shape))


def test_units_of_other_programs() -> None:
    """Catches deviations of the wrong channel, and channels turned around before the mean is."""
    data = DataConfig(mean="channel", crop=CROP, scale=0.5)
    mean_image = np.broadcast_to(np.array([120, 110, 100], np.float32), (SIDE, SIDE, 3))
    batch = random_batch(3, shift=True)
    expected = plain(batch, mean_image, data) / [10.0, 20.0, 40.0]
    data = replace(
        data,
        std=(10.0, 20.0, 40.0),
        channel_order="bgr",
        mean="given",
        given_mean=(120.0, 110.0, 100.0),
    )
    mean = mean_of(np.zeros_like(mean_image), data, 3)  # that of the images does not matter
    out = normalize(jax.tree.map(jnp.asarray, batch), jnp.asarray(mean), data)
    # As above, in units of ten and more.
    np.testing.assert_allclose(out, expected[..., ::-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "channel"])
def test_padding_is_zero(kind: str) -> None:
    """Catches: padding of zeros before the mean is subtracted, padding that is not mirrored with
    its crop, and a mean image that moves with the padding."""
    padding = 2
    data = DataConfig(mean=kind, crop=SIDE, image_size=SIDE, padding=padding, scale=0.5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    mean_image = rng.uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    offset = np.array([[0, 0], [-2, 2], [1, -1], [-2, 1]], np.int32)
    flip = np.array([False, False, True, True])
    mean = mean_of(mean_image, data, 3)
    centered = 0.5 * (images - (mean_image if kind == "image" else mean_image.mean((0, 1))))
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded, crops, expected = np.pad(centered, margins), [], []
    pixels = np.pad(images, margins, mode="edge")  # what a batch has there does not matter
    for row in range(4):
        top, left = offset[row] + padding
        step = -1 if flip[row] else 1
        crops.append(pixels[row, top : top + SIDE, left : left + SIDE][:, ::step])
        expected.append(padded[row, top : top + SIDE, left : left + SIDE][:, ::step])
    batch = Batch(image=np.stack(crops), offset=offset, flip=flip)
    found = normalize(batch, jnp.asarray(mean), data)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-4)
    assert (np.asarray(found[1]) == 0).any()


def test_the_mean_of_a_channel_of_large_images() -> None:
    """Catches: pixels summed in float32, whose mean is wrong by 0.2 for 480 × 480 pixels."""
    colors = np.array([123.675, 116.28, 103.53], np.float32)
    mean_image = np.broadcast_to(colors, (480, 480, 3))
    mean = mean_of(mean_image, DataConfig(mean="channel"), 3)
    assert mean.dtype == np.float32
    assert mean.shape == (1, 1, 3)
    np.testing.assert_array_equal(mean[0, 0], colors)
