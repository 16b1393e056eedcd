"""Windows that are cut from prepared images and scaled to crops: their positions and sizes.

A crop of an image whose shorter side is scaled to S pixels is cut from the prepared image, whose
shorter side is P, as a window of crop · P / S pixels, rounded, and scaled to the crop's size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError

if TYPE_CHECKING:  # preparing images does without JAX, which takes a second to load
    from jax import Array

A = TypeVar("A", np.ndarray, "Array")

VIEWS = ("center", "ten", "grid", "dense", "squares")  # those of `make_views`

# Positions of the crops of section 4.1, y and x in halves of the margin: top left, top right,
# bottom left, bottom right and center.
FIVE_POSITIONS = np.array([[0, 0], [0, 2], [2, 0], [2, 2], [1, 1]], np.int32)
GRID_POSITIONS = 5  # a side (section 3.2 of Simonyan and Zisserman 2014)

# Lengths of the shorter side in the test on 144 crops of 224 pixels, and that of the crop, in units
# of 32 pixels: 256, 288, 320 and 352 (section 7 of Szegedy et al. 2014).
_LENGTHS_144, _CROP_144 = (8, 9, 10, 11), 7


@dataclass(frozen=True)
class Views:
    """The windows to cut from images for evaluation.

    Attributes:
        offset: (images, views, 2) int32, y and x of the top left pixel in the prepared image.
        window: (images, views, 2) int32, height and width in the prepared image, in pixels.
        flip: (views,) bool, whether the windows are mirrored.
        size: (2,) int32, height and width to which the windows are scaled.
    """

    offset: np.ndarray
    window: np.ndarray
    flip: np.ndarray
    size: np.ndarray


def pixel_positions(offset: A, flip: A, size: int) -> tuple[A, A]:
    """Return the rows and columns in their images of the pixels of crops, in the crops' order.

    Pixels in the padding of an image have positions outside of it.

    Args:
        offset: (…, 2) int32, y and x of the top left pixel, a NumPy or JAX array.
        flip: (…,) bool, whether the crop is mirrored.
        size: side of the crops in pixels.

    Returns:
        y and x, (…, size) int32 each.
    """
    pixel = np.arange(size, dtype=np.int32)[(None,) * flip.ndim]
    mirrored = flip[..., None] * (size - 1 - 2 * pixel)  # what mirroring adds to x
    return offset[..., :1] + pixel, offset[..., 1:] + pixel + mirrored


def cut_crops(pixels: A, index: A, offset: A, flip: A, size: int) -> A:
    """Return crops of images, on the host or, for JAX arrays, on the devices.

    Positions in the padding take the nearest pixel; `inputs.normalize` sets these to zero.

    Args:
        pixels: (images, side, side, channels) uint8.
        index: (…,) index of the image of each crop.
        offset, flip, size: see `pixel_positions`.

    Returns:
        (…, size, size, channels) uint8.
    """
    last = pixels.shape[1] - 1
    y, x = (positions.clip(0, last) for positions in pixel_positions(offset, flip, size))
    crops: A = pixels[index[..., None, None], y[..., :, None], x[..., None, :]]
    return crops


def center_offset(image_size: int, crop: int) -> int:
    """Return the offset, y and x alike, of the central crop of a square image."""
    return (image_size - crop) // 2


def scale_length(length: ArrayLike, old: ArrayLike, new: ArrayLike) -> np.ndarray:
    """Return a length in an image after another length in it was scaled.

    Args:
        length: length before scaling, in pixels.
        old: the other length before scaling, in pixels.
        new: the other length after scaling, in pixels.

    Returns:
        length · new / old, rounded, int32, of the shape to which the arguments are broadcast.
    """
    length, old, new = (np.asarray(value, np.int64) for value in (length, old, new))
    return np.asarray((2 * length * new + old) // (2 * old), np.int32)


def square_offset(shapes: np.ndarray) -> np.ndarray:
    """Return the offset, y and x, of the central square of images, (…, 2) int32.

    Args:
        shapes: (…, 2) heights and widths.
    """
    offset: np.ndarray = (shapes - shapes.min(axis=-1, keepdims=True)) // 2
    return offset


def central_square(pixels: np.ndarray) -> np.ndarray:
    """Return the central square of an image, (height, width, …), as views "center" cut it."""
    side = min(pixels.shape[:2])
    top, left = square_offset(np.array(pixels.shape[:2])).tolist()
    return pixels[top : top + side, left : left + side]


def evaluation_scale(data: DataConfig, side: int) -> int:
    """Return the length to which the shorter side of an image is scaled for evaluation.

    It is that of training, or 0.5 (S_min + S_max) with scale jitter (section 4.1 of Simonyan and
    Zisserman 2014).

    Args:
        data: config.data.
        side: shorter side of the prepared images in pixels.
    """
    return sum(data.scale_jitter) // 2 if data.scale_jitter else side


def scales_of_144(crop: int) -> tuple[int, ...]:
    """Return the scales of views "squares" that make 144 crops.

    For crops of 224 pixels they are 256, 288, 320 and 352 (section 7 of Szegedy et al. 2014), for
    others in proportion.
    """
    return tuple(scale_length(crop, _CROP_144, _LENGTHS_144).tolist())


def make_views(views: str, shapes: np.ndarray, crop: int, scale: int) -> Views:
    """Return the windows for the crops of images that are scaled to `scale`.

    Args:
        views: "center" for the central crop; "ten" for the crops of section 4.1, `FIVE_POSITIONS`
            of the central square, and then the same mirrored; "grid" for 5 × 5 crops, which reach
            the edges of the image, and then the same mirrored; "dense" for the whole image, and
            then mirrored; "squares" for the left, central and right square of the image, or the
            top, central and bottom one, of each the crops at `FIVE_POSITIONS` and all of it, scaled
            to the size of the crop, and then the same mirrored.
        shapes: (images, 2) heights and widths of prepared images, whose shorter sides are equal;
            for "dense" all are equal.
        crop: side of the crops in pixels.
        scale: length of the scaled images' shorter side in pixels.

    Raises:
        InputError: the views are unknown, or the scaled images are smaller than the crop.
    """
    if scale < crop:
        raise InputError(
            f"images scaled to {scale} pixels are smaller than data.crop={crop}; expected --scales "
            f"of {crop} or more"
        )
    side = int(shapes[0].min())
    window = int(scale_length(crop, scale, side))
    size = np.array([crop, crop], np.int32)
    if views == "dense":
        assert (shapes == shapes[0]).all()
        offset, windows = np.zeros((len(shapes), 1, 2), np.int32), shapes[:, None]
        size = scale_length(shapes[0], side, scale)
    elif views in ("center", "ten"):
        positions = FIVE_POSITIONS[4:] if views == "center" else FIVE_POSITIONS
        offset = square_offset(shapes)[:, None] + positions * (side - window) // 2
        windows = np.full_like(offset, window)
    elif views == "grid":
        lines = np.round(np.linspace(0, shapes - window, GRID_POSITIONS)).astype(np.int32)
        y, x = np.divmod(np.arange(GRID_POSITIONS**2), GRID_POSITIONS)
        offset = np.stack([lines[y, :, 0], lines[x, :, 1]], axis=-1).transpose(1, 0, 2)
        windows = np.full_like(offset, window)
    elif views == "squares":
        offset, windows = _squares(shapes, side, window)
    else:
        raise InputError(f"views {views!r} are unknown; expected one of {', '.join(VIEWS)}")
    if views == "center":
        return Views(offset, windows, np.array([False]), size)
    flip = np.repeat([False, True], offset.shape[1])
    return Views(np.tile(offset, (1, 2, 1)), np.tile(windows, (1, 2, 1)), flip, size)


def _squares(shapes: np.ndarray, side: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and window of views "squares" that are not mirrored, (images, 18, 2) each.

    In a square image the three squares coincide, and the 18 windows are three times the same six.

    Args:
        shapes: (images, 2) heights and widths.
        side: side of the squares, which is the images' shorter side.
        window: side of the windows at `FIVE_POSITIONS`.
    """
    squares = np.arange(3)[:, None] * (shapes - side)[:, None] // 2  # (images, 3, 2)
    inside = np.concatenate([FIVE_POSITIONS * (side - window) // 2, [[0, 0]]])
    offset = (squares[:, :, None] + inside).reshape(len(shapes), -1, 2).astype(np.int32)
    sides = np.array([window] * len(FIVE_POSITIONS) + [side], np.int32)
    windows = np.broadcast_to(np.tile(sides, 3)[:, None], offset.shape)
    return offset, windows
