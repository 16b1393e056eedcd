"""Decode image files of common formats and scale them, as uint8 pixels."""

import contextlib
import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax.data.crops import scale_length

# Bitmap formats that Pillow decodes in its own process, the common ones first. EPS is omitted,
# since Pillow would run Ghostscript, an interpreter, on untrusted files with any suffix. JPEG
# includes MPO. TGA has no signature and must come last.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "DIB",
    "ICO",
    "PCX",
    "TGA",
)

# Largest ratio of the sides of an image that is not cut to a square. It bounds the memory for
# images a few pixels wide, whose other side grows with the shorter one.
MAX_ASPECT = 16

JPEG_MAX_SIDE = 65_500  # pixels, the limit of libjpeg

# Exceptions that Pillow and its libraries raise for damaged content, most often OSError.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,  # libavif's, and NotImplementedError
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """The content is damaged or not an image; the message describes the problem."""


def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings, which concern damaged metadata and not the pixels.

    The filter applies to the process, because `warnings.catch_warnings` is not thread-safe. Hence
    commands call this, and library functions do not.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def load(
    image: Path | bytes | np.ndarray, *, side: int | None, channels: int, resize: str = "crop"
) -> np.ndarray:
    """Return the pixels of an image, (height, width, channels) uint8, scaled to `side`.

    As in section 2 of the paper, the image is scaled up or down so that its shorter side is
    `side`, and the central square is cut out. Scaling uses Pillow's bicubic filter with
    antialiasing. JPEGs that are at least four times too large are decoded at a reduced size of at
    least twice the target. Camera orientation (EXIF) is applied, transparent areas become white,
    CMYK and palettes are converted to RGB, and 16-bit gray is rounded to 8 bits.

    Args:
        image: a file in one of `FORMATS`, the bytes of one, or (height, width, 1 or 3) uint8
            pixels.
        side: length of the shorter side in pixels; None keeps it.
        channels: 1 or 3.
        resize: "crop" scales as above; "shorter_side" keeps the whole image, or the central part of
            one that is over `MAX_ASPECT` times as long as wide; "squash" scales both width and
            height to `side` without cropping, as for Caffe's published weights.

    Raises:
        UnreadableImageError: the content is damaged, or not in one of `FORMATS`.
    """
    if isinstance(image, np.ndarray):
        decoded = _convert(to_pillow(image), channels)
    else:
        decoded = _decode(image, side, channels)
    width, height = decoded.size
    shorter = min(width, height)
    longest = shorter * (MAX_ASPECT if resize == "shorter_side" else 1)
    kept_width, kept_height = min(width, longest), min(height, longest)
    if resize == "squash":
        decoded = decoded.resize((side or shorter,) * 2, Image.Resampling.BICUBIC)
    elif side is None or side == shorter:
        x, y = (width - kept_width) // 2, (height - kept_height) // 2
        decoded = decoded.crop((x, y, x + kept_width, y + kept_height))
    else:  # compute this part only; the filter still reads the pixels around it
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        box = (left, top, left + kept_width, top + kept_height)
        size = tuple(scale_length([kept_width, kept_height], shorter, side).tolist())
        decoded = decoded.resize(size, Image.Resampling.BICUBIC, box)
    return np.asarray(decoded).reshape(decoded.height, decoded.width, channels)


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Return (height, width, 1 or 3) uint8 pixels as a Pillow image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def scale_pixels(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale uint8 pixels (height, width, 1 or 3) to another height and width.

    The filter is Pillow's bicubic one with antialiasing, as in `load`.
    """
    resized = to_pillow(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height, width, pixels.shape[2])


def to_jpeg(pixels: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Encode (height, width, 1 or 3) uint8 pixels as JPEG, with subsampling such as "4:4:4"."""
    file = io.BytesIO()
    to_pillow(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def _decode(image: Path | bytes, side: int | None, channels: int) -> Image.Image:
    """Decode an image and return it upright, in 8-bit gray or RGB."""
    file = io.BytesIO(image) if isinstance(image, bytes) else image
    with _damage_as_unreadable():
        if isinstance(image, Path) and not stat.S_ISREG(image.stat().st_mode):
            # Opening a pipe would wait for a writer.
            raise UnreadableImageError("not a file, but a folder, a pipe or a device")
        opened = Image.open(file, formats=FORMATS)
    with opened:
        with _damage_as_unreadable():
            if side is not None:
                # Only JPEGs support drafts; Pillow never reduces below the requested size.
                opened.draft(None, (2 * side, 2 * side))
            opened.load()
        return _convert(_transpose(opened), channels)


@contextlib.contextmanager
def _damage_as_unreadable() -> Iterator[None]:
    """Turn Pillow's exceptions for damaged content into UnreadableImageError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"the content is damaged or in none of the formats {', '.join(FORMATS)}"
        ) from error
    except _DAMAGED as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def _transpose(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; ignore unreadable EXIF data."""
    with contextlib.suppress(*_DAMAGED):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit gray or RGB."""
    mode = "L" if channels == 1 else "RGB"
    # Pillow scales gray PPM files of more than 8 bits to 0 … 65535, whatever their largest value.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnreadableImageError(f"pixels of Pillow's mode {image.mode} have no defined range")
    with _damage_as_unreadable():  # modes that Pillow cannot convert, bad palettes
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        # Pillow has undone Adobe's inversion of CMYK while decoding the JPEG.
        return image if image.mode == mode else image.convert(mode)
