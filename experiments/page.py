"""What a self-contained page is made of: pictures inside it, words without this machine's paths."""

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

SVG_LIMIT = 60_000  # bytes; above it a figure is pixels, two for each of the page's
INCH = 96  # of the page's pixels, as CSS has it
PNG_SIDE = 64  # up to it a picture is PNG, above JPEG, as in a pack


@dataclass(frozen=True)
class Picture:
    """A picture that needs no other file.

    Attributes:
        source: a data URI.
        width, height: in the page's pixels.
        alt: what it shows, for who does not see it.
    """

    source: str
    width: int
    height: int
    alt: str

    @property
    def small(self) -> bool:
        """Whether it is to be enlarged, its pixels seen."""
        return self.width <= PNG_SIDE


def of_figure(figure: Figure, alt: str) -> Picture:
    """A figure as SVG, or as PNG where that would be large."""
    width, height = (round(INCH * inches) for inches in figure.get_size_inches())
    content, kind = io.BytesIO(), "image/svg+xml"
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "alexnet_jax"}):  # the same run, the same page
        figure.savefig(content, format="svg", metadata=nothing)
    if len(content.getvalue()) > SVG_LIMIT:
        content, kind = io.BytesIO(), "image/png"
        figure.savefig(content, format="png", dpi=2 * INCH, metadata={"Software": None})
    return Picture(_uri(content.getvalue(), kind), width, height, alt)


def of_pixels(pixels: np.ndarray, alt: str) -> Picture:
    """Pixels (height, width, 1 or 3) uint8 as PNG, larger ones than PNG_SIDE as JPEG."""
    height, width, _ = pixels.shape
    if max(height, width) > PNG_SIDE:
        source = _uri(images.to_jpeg(pixels, 85, "4:2:0"), "image/jpeg")
    else:
        content = io.BytesIO()
        images.to_picture(pixels).save(content, "PNG")
        source = _uri(content.getvalue(), "image/png")
    return Picture(source, width, height, alt)


def without_folders(text: str) -> str:
    """The text with "…" for the folders of absolute paths: pages are shown to others."""
    return re.sub(r"(?<![\w/.…])~?(?:/[^/\s'\",;:()]+)+/(?=[^/\s])", "…/", text)


def render(template: str, **content: Any) -> str:
    """A template of this folder, filled in; all text in it is escaped.

    Raises:
        jinja2.UndefinedError: the template names something that is not given.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
