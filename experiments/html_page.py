"""Build self-contained HTML: images embedded in the page, text without local folders."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from alexnet_jax.data import images

SVG_LIMIT = 60_000  # bytes; larger figures are PNG, at two pixels for each CSS pixel
INCH = 96  # CSS pixels
PNG_SIDE = 64  # up to this side an image is PNG, above it JPEG, as in a pack


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as a data URI.

    Attributes:
        source: the data URI.
        width, height: in CSS pixels.
        alt: alternative text.
    """

    source: str
    width: int
    height: int
    alt: str

    @property
    def small(self) -> bool:
        """Return whether the page should enlarge it with visible pixels."""
        return self.width <= PNG_SIDE


def make_data_uri(content: bytes, kind: str) -> str:
    """Return the content of a file as a data URI of a media type, such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def embed_figure(figure: Figure, alt: str) -> EmbeddedImage:
    """Embed a figure as SVG, or as PNG if the SVG is large."""
    width, height = (round(INCH * inches) for inches in figure.get_size_inches())
    content, kind = io.BytesIO(), "image/svg+xml"
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "alexnet_jax"}):  # the same run, the same page
        figure.savefig(content, format="svg", metadata=nothing)
    if len(content.getvalue()) > SVG_LIMIT:
        content, kind = io.BytesIO(), "image/png"
        figure.savefig(content, format="png", dpi=2 * INCH, metadata={"Software": None})
    return EmbeddedImage(make_data_uri(content.getvalue(), kind), width, height, alt)


def embed_pixels(pixels: np.ndarray, alt: str) -> EmbeddedImage:
    """Embed pixels (height, width, 1 or 3) uint8 as PNG, or as JPEG above PNG_SIDE."""
    height, width, _ = pixels.shape
    if max(height, width) > PNG_SIDE:
        source = make_data_uri(images.to_jpeg(pixels, 85, "4:2:0"), "image/jpeg")
    else:
        content = io.BytesIO()
        images.to_pillow(pixels).save(content, "PNG")
        source = make_data_uri(content.getvalue(), "image/png")
    return EmbeddedImage(source, width, height, alt)


def strip_folders(text: str) -> str:
    """Replace the folders of absolute paths by "…", since pages are shown to others."""
    return re.sub(r"(?<![\w/.…])~?(?:/[^/\s'\",;:()]+)+/(?=[^/\s])", "…/", text)


def render_template(template: str, **content: Any) -> str:
    """Fill in a template; escape all text.

    Args:
        template: its path below `experiments/`.
        content: what it shows, by name.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not given.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
