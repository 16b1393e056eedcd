"""One image: from a file of any kind to the square of uint8 pixels that a pack holds."""

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


def load(image: Path | bytes | np.ndarray, *, side: int | None, channels: int) -> np.ndarray:
    """The central square of an image, (side, side, channels) uint8.

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

    Raises:
      UnreadableImageError: it is no image, or damaged.
    """
    picture = to_picture(image) if isinstance(image, np.ndarray) else _decode(image, side)
    picture = _convert(picture, channels)
    if side is not None:
        scale = side / min(picture.size)
        # The longer side is rounded; the shorter one is exact.
        width, height = (max(side, round(length * scale)) for length in picture.size)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    square = min(picture.size)
    left, top = (picture.width - square) // 2, (picture.height - square) // 2
    picture = picture.crop((left, top, left + square, top + square))
    return np.asarray(picture).reshape(square, square, channels)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Pixels (height, width, 1 or 3) uint8 as a Pillow image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def to_jpeg(pixels: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Pixels (side, side, 1 or 3) uint8 as a JPEG file; subsampling is "4:4:4" or the like."""
    file = io.BytesIO()
    to_picture(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def _decode(image: Path | bytes, side: int | None) -> Image.Image:
    """The image upright, in whatever mode its file has."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            if side is not None:
                # Only JPEGs follow the draft; it never goes below the size asked for.
                picture.draft(None, (2 * side, 2 * side))
            picture.load()
            return _upright(picture)
    except _DAMAGED as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; EXIF data that cannot be read turns nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except _DAMAGED:
        return picture


def _convert(picture: Image.Image, channels: int) -> Image.Image:
    """To 8-bit grey or RGB."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise UnreadableImageError(f"pixels of Pillow's mode {picture.mode} have no stated range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    # Pillow has already undone Adobe's inversion of CMYK when it decoded the JPEG.
    return picture if picture.mode == mode else picture.convert(mode)
