"""Mean subtraction, lighting shift and scale against a plain NumPy loop."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.errors import InputError
from alexnet_jax.inputs import check_units, mean_of, normalise

SIDE, CROP = 9, 6


def random_batch(channels: int, shift: bool) -> dict[str, np.ndarray]:
    """Five crops, at all corners too, flipped and not."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (5, CROP, CROP, channels), np.uint8),
        "offset": np.array([[0, 0], [3, 3], [0, 3], [3, 0], [1, 2]], np.int32),
        "flip": np.array([False, True, True, False, True]),
    }
    if shift:
        batch["shift"] = rng.normal(size=(5, channels)).astype(np.float32)
        batch["gain"] = rng.uniform(0.5, 1, 5).astype(np.float32)
    return batch


def plain(batch: dict[str, np.ndarray], mean_image: np.ndarray, data: dict[str, Any]) -> np.ndarray:
    """Pixel by pixel, each crop's pixel with the place in the image that it came from."""
    image = batch["image"]
    out = np.zeros(image.shape)
    means = mean_image.astype(float)
    for b, y, x, c in np.ndindex(*image.shape):
        source = 0 if means.shape[-1] == 1 else c
        top, left = batch["offset"][b]
        column = CROP - 1 - x if batch["flip"][b] else x
        mean = {
            "image": means[top + y, left + column, source],
            "center": means[(SIDE - CROP) // 2 + y, (SIDE - CROP) // 2 + x, source],
            "channel": means[..., source].mean(),
            "none": 0.0,
        }[data["mean"]]
        shift = batch["shift"][b, c] if "shift" in batch else 0.0
        gain = batch["gain"][b] if "gain" in batch else 1.0
        out[b, y, x, c] = (float(image[b, y, x, c]) - mean + shift) * gain * data["scale"]
    return out


@pytest.mark.parametrize("kind", ["image", "center", "channel", "none"])
@pytest.mark.parametrize(("shift", "scale"), [(True, 1.0), (False, 0.25), (True, 0.25)])
@pytest.mark.parametrize(("grey", "channels"), [(1, 1), (1, 3), (3, 3)])
def test_against_plain_loop(kind: str, shift: bool, scale: float, grey: int, channels: int) -> None:
    """Catches a mean not cut or not flipped with the crop, a shift that escapes gain or scale."""
    data = {"mean": kind, "crop": CROP, "scale": scale, "std": (1.0,), "channel_order": "rgb"}
    mean_image = np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE, grey)).astype(np.float32)
    batch = random_batch(channels, shift)
    mean = mean_of(mean_image, data, channels)
    out = normalise({name: jnp.asarray(a) for name, a in batch.items()}, jnp.asarray(mean), data)
    assert out.dtype == jnp.float32
    # One rounding of numbers up to 510 for each of mean, difference and sum.
    np.testing.assert_allclose(out, plain(batch, mean_image, data), rtol=0, atol=1e-4)


def test_units_of_other_programs() -> None:
    """Catches deviations of the wrong channel, and channels turned around before the mean is."""
    data: dict[str, Any] = {"mean": "channel", "crop": CROP, "scale": 0.5}
    mean_image = np.broadcast_to(np.array([120, 110, 100], np.float32), (SIDE, SIDE, 3))
    batch = random_batch(3, shift=True)
    expected = plain(batch, mean_image, data) / [10.0, 20.0, 40.0]
    data |= {"std": (10.0, 20.0, 40.0), "channel_order": "bgr"}
    data |= {"mean": "given", "given_mean": (120, 110, 100)}
    mean = mean_of(np.zeros_like(mean_image), data, 3)  # that of the images does not matter
    out = normalise({name: jnp.asarray(a) for name, a in batch.items()}, jnp.asarray(mean), data)
    # As above, in units of ten and more.
    np.testing.assert_allclose(out, expected[..., ::-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "channels", "message"),
    [
        ("given_mean", (1.0, 2.0, 3.0), 3, "none otherwise"),
        ("mean", "given", 3, r"given_mean is \(\).*expected 3 numbers"),
        ("std", (1.0, 2.0), 3, "one for each of the 3 channels"),
        ("std", (1.0, 0.0, 1.0), 3, "above 0"),
        ("channel_order", "BGR", 3, "'BGR'; expected one of rgb, bgr"),
    ],
)
def test_units_are_checked(field: str, value: Any, channels: int, message: str) -> None:
    """Catches deviations broadcast over the wrong channels, or a word that turns nothing around."""
    data = {"std": (1.0,), "channel_order": "rgb", "mean": "none", "given_mean": (), field: value}
    with pytest.raises(InputError, match=message):
        check_units(data, channels)


def test_unknown_mean() -> None:
    """Catches a misspelt word that subtracts nothing."""
    data = {"mean": "centre", "crop": CROP, "scale": 1.0}
    with pytest.raises(InputError, match=r"data\.mean is 'centre'"):
        mean_of(np.zeros((SIDE, SIDE, 3), np.float32), data, 3)
