"""Windows that are cut from prepared images and scaled to crops: their positions and sizes.

A crop of an image whose shorter side is scaled to S pixels is cut from the prepared image, whose
side is P, as a window of crop · P / S pixels, rounded, and scaled to the crop's size.
"""

from dataclasses import dataclass

import numpy as np

from alexnet_jax.config import DataConfig
from alexnet_jax.errors import InputError

VIEWS = ("center", "ten", "grid", "dense")  # those of `make_views`

# Positions of the crops of section 4.1, y and x in halves of the margin: top left, top right,
# bottom left, bottom right and center.
FIVE_POSITIONS = np.array([[0, 0], [0, 2], [2, 0], [2, 2], [1, 1]], np.int32)
GRID_POSITIONS = 5  # a side (section 3.2 of Simonyan and Zisserman 2014)


@dataclass(frozen=True)
class Views:
    """The windows to cut from every image for evaluation.

    Attributes:
        offset: (views, 2) int32, y and x of the top left pixel in the prepared image.
        flip: (views,) bool, whether the window is mirrored.
        window: side of the windows in the prepared image, in pixels.
        size: side of the crops to which the windows are scaled.
    """

    offset: np.ndarray
    flip: np.ndarray
    window: int
    size: int


def center_offset(image_size: int, crop: int) -> int:
    """Return the offset, y and x alike, of the central crop of a square image."""
    return (image_size - crop) // 2


def window_side(crop: int, side: int, scale: int | np.ndarray) -> np.ndarray:
    """Return the side of the window in a prepared image for a crop of the image scaled to `scale`.

    Args:
        crop: side of the crop in pixels.
        side: side of the prepared image in pixels.
        scale: length of the scaled image's shorter side, any shape.

    Returns:
        crop · side / scale, rounded, int32 of the shape of `scale`.
    """
    return np.asarray((2 * crop * side + scale) // (2 * np.asarray(scale)), np.int32)


def evaluation_scale(data: DataConfig, side: int) -> int:
    """Return the length to which the shorter side of an image is scaled for evaluation.

    It is that of training, or 0.5 (S_min + S_max) with scale jitter (section 4.1 of Simonyan and
    Zisserman 2014).

    Args:
        data: config.data.
        side: side of the prepared images in pixels.
    """
    return sum(data.scale_jitter) // 2 if data.scale_jitter else side


def make_views(views: str, side: int, crop: int, scale: int) -> Views:
    """Return the windows for the crops of an image that is scaled to `scale`.

    Args:
        views: "center" for the central crop; "ten" for the crops of section 4.1, `FIVE_POSITIONS`
            and then the same mirrored; "grid" for 5 × 5 crops, and then the same mirrored; "dense"
            for the whole image, and then mirrored.
        side: side of the prepared images in pixels.
        crop: side of the crops in pixels.
        scale: length of the scaled image's shorter side in pixels.

    Raises:
        InputError: the views are unknown, or the scaled image is smaller than the crop.
    """
    if scale < crop:
        raise InputError(
            f"images scaled to {scale} pixels are smaller than data.crop={crop}; expected --scales "
            f"of {crop} or more"
        )
    if views == "dense":
        return Views(np.zeros((2, 2), np.int32), np.array([False, True]), side, scale)
    window = int(window_side(crop, side, scale))
    margin = side - window
    if views == "center":
        return Views(FIVE_POSITIONS[4:] * margin // 2, np.array([False]), window, crop)
    if views == "ten":
        offset = FIVE_POSITIONS * margin // 2
    elif views == "grid":
        line = np.round(np.linspace(0, margin, GRID_POSITIONS)).astype(np.int32)
        offset = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        raise InputError(f"views {views!r} are unknown; expected one of {', '.join(VIEWS)}")
    flip = np.repeat([False, True], len(offset))
    return Views(np.concatenate([offset, offset]), flip, window, crop)
