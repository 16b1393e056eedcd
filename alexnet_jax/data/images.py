"""One image: from a file of any kind to the square of uint8 pixels that a pack holds."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# What Pillow and the libraries below it raise for damaged content; OSError is the usual one.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """The content is no image, or a damaged one; the message says how."""


def load(
    image: Path | bytes | np.ndarray, *, side: int | None, channels: int, resize: str = "crop"
) -> np.ndarray:
    """The central square of an image, or all of it made square, (side, side, channels) uint8.

    As in section 2 of the paper, the image is scaled so that its shorter side is `side`, larger
    or smaller, and the central square is taken. Scaling is Pillow's bicubic filter, whose
    support grows with the reduction, so nothing aliases; a JPEG at least four times too large
    is first reduced by its own cosine transform, to no less than twice the size.
    Camera orientation (EXIF) is applied, what is transparent becomes white, CMYK and palettes
    become RGB, 16-bit grey is rounded to 8.

    Args:
      image: a file, the bytes of one, or pixels (height, width, 1 or 3) uint8.
      side: in pixels; None keeps the shorter side as it is.
      channels: 1 or 3.
      resize: "crop" as above; "squash" scales width and height each to `side` and cuts nothing
        off, as the images were prepared that Caffe's weights were trained on.

    Raises:
      UnreadableImageError: it is no image, or damaged.
    """
    if isinstance(image, np.ndarray):
        picture = _convert(to_picture(image), channels)
    else:
        picture = _decode(image, side, channels)
    width, height = picture.size
    shorter = min(width, height)
    if resize == "squash":
        size = side or shorter
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    elif side is None or side == shorter:
        x, y = (width - shorter) // 2, (height - shorter) // 2
        picture = picture.crop((x, y, x + shorter, y + shorter))
    else:  # only the square is computed; the filter sees what lies around it
        left, top = (width - shorter) / 2, (height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Pixels (height, width, 1 or 3) uint8 as a Pillow image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def to_jpeg(pixels: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Pixels (side, side, 1 or 3) uint8 as a JPEG file; subsampling is "4:4:4" or the like."""
    file = io.BytesIO()
    to_picture(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def _decode(image: Path | bytes, side: int | None, channels: int) -> Image.Image:
    """The image upright, in grey or RGB."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            if side is not None:
                # Only JPEGs follow the draft; it never goes below the size asked for.
                picture.draft(None, (2 * side, 2 * side))
            picture.load()
            return _convert(_upright(picture), channels)
    except _DAMAGED as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; EXIF data that cannot be read turns nothing."""
    with contextlib.suppress(*_DAMAGED):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _convert(picture: Image.Image, channels: int) -> Image.Image:
    """To 8-bit grey or RGB."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {picture.mode} have no stated range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    # Pillow has already undone Adobe's inversion of CMYK when it decoded the JPEG.
    return picture if picture.mode == mode else picture.convert(mode)
