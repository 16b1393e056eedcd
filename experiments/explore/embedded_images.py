"""Encode arrays as small images for a page, each of them once."""

import io

import numpy as np
from PIL import Image

from alexnet_jax.data import images
from experiments import html_page
from experiments.figures.tiles import color_values, scale_signed

LOSSLESS = 1024  # bytes of pixels up to which an image is encoded without loss
QUALITY = 80  # of WebP, of 0…100


class ImageTable:
    """The images of a page as data URIs; equal ones are embedded once.

    They are WebP, which for images of 10 to 100 pixels takes half of the space of PNG and JPEG.

    Attributes:
        sources: the data URIs. The methods return indices in this list.
    """

    def __init__(self) -> None:
        """Start without images."""
        self.sources: list[str] = []
        self._indices: dict[str, int] = {}

    def add_image(self, pixels: np.ndarray, side: int) -> int:
        """Add an image (height, width, 1 or 3) uint8, scaled down to a side of at most `side`."""
        if len(pixels) > side:
            pixels = images.scale_pixels(pixels, side, side)
        return self._add(images.to_pillow(pixels), lossless=pixels.size <= LOSSLESS)

    def add_signal(self, signal: np.ndarray, side: int) -> int:
        """Add signed values (height, width, 1 or 3), zero in mid-gray, each image by itself."""
        pixels = np.round(255 * scale_signed(signal)).astype(np.uint8)
        return self.add_image(pixels, side)

    def add_heatmap(self, values: np.ndarray, low: float, high: float, name: str = "magma") -> int:
        """Add values (height, width) in colors; arguments are those of `color_values`."""
        pixels = color_values(values, low, high, name)
        return self._add(Image.fromarray(pixels), lossless=True)

    def _add(self, image: Image.Image, lossless: bool) -> int:
        """Return the index of an image's data URI, which is added if no equal one is there."""
        content = io.BytesIO()
        image.save(content, "WEBP", lossless=lossless, quality=QUALITY, method=4)
        source = html_page.make_data_uri(content.getvalue(), "image/webp")
        if source not in self._indices:
            self._indices[source] = len(self.sources)
            self.sources.append(source)
        return self._indices[source]


def shrink_channels(channels: np.ndarray, side: int) -> np.ndarray:
    """Return channels (height, width, n) as the means of blocks of pixels, at most `side` wide."""
    height, width, count = channels.shape
    block = -(-max(height, width) // side)
    if block == 1:
        return channels
    pads = [(0, -height % block), (0, -width % block), (0, 0)]
    padded = np.pad(channels.astype(np.float32), pads, constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // block, block, -1, block, count)
    means: np.ndarray = np.nanmean(blocks, axis=(1, 3))
    return means
