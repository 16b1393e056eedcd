"""Build self-contained HTML: images embedded in the page, text without local folders."""

import base64
import io
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.data import images
from experiments.figures.tiles import color_values

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


def scale_figure(figure: Figure, factor: float) -> Figure:
    """Scale a figure but not its letters, to keep them legible on a phone."""
    figure.set_size_inches(*(factor * figure.get_size_inches()))
    return figure


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


def embed_pixels(pixels: np.ndarray, alt: str, side: int | None = None) -> EmbeddedImage:
    """Embed pixels (height, width, 1 or 3) uint8 as PNG, or as JPEG above PNG_SIDE.

    Args:
        pixels: the pixels.
        alt: alternative text.
        side: side to which a larger square image is scaled down; None for any size.
    """
    if side is not None and len(pixels) > side:
        pixels = images.scale_pixels(pixels, side, side)
    height, width, _ = pixels.shape
    if max(height, width) > PNG_SIDE:
        source = make_data_uri(images.to_jpeg(pixels, 85, "4:2:0"), "image/jpeg")
    else:
        content = io.BytesIO()
        images.to_pillow(pixels).save(content, "PNG")
        source = make_data_uri(content.getvalue(), "image/png")
    return EmbeddedImage(source, width, height, alt)


def embed_heatmap(values: np.ndarray, low: float, high: float, alt: str) -> EmbeddedImage:
    """Embed values (height, width) in colors; see `color_values`."""
    height, width = values.shape
    content = io.BytesIO()
    Image.fromarray(color_values(values, low, high)).save(content, "PNG")
    return EmbeddedImage(make_data_uri(content.getvalue(), "image/png"), width, height, alt)


def strip_path(value: str) -> str:
    """Replace the folders of a value that is an absolute path by "…"; see `strip_folders`.

    Unlike those in a text, the path may contain spaces and punctuation marks.
    """
    path = re.fullmatch(r"(?:file:/+[^/]+|~[^/]*|/+[^/]+)(?:/.*)?/([^/]+/*)", value, re.DOTALL)
    return f"…/{path[1]}" if path else strip_folders(value)


def strip_folders(text: str, known: Iterable[Path] = ()) -> str:
    """Replace the folders of absolute paths by "…", since pages are shown to others.

    Args:
        text: the text, in which a path ends at a space or a punctuation mark.
        known: absolute paths that may occur in the text and may contain these characters.
    """
    for path in sorted(map(str, known), key=len, reverse=True):
        text = text.replace(path, strip_path(path))
    pattern = r"(?:\bfile:/+(?=/)|(?<![\w/.…]))~?(?:/[^/\s'\",;:()]+)+/(?=[^/\s])"
    return re.sub(pattern, "…/", text)


def format_command(words: Iterable[str]) -> str:
    """Return a command as it is typed in a shell, without the folders of this machine."""
    return " ".join(map(_format_argument, words))


def _format_argument(word: str) -> str:
    """Return a word of a command, in quotes if necessary."""
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    shown = flag + equals + strip_path(value)
    plain = shown.replace("…", ".")  # shlex quotes what is not ASCII
    return shown if shlex.quote(plain) == plain else shlex.quote(shown)


def format_value(value: Any) -> str:
    """Return a value of a config as JSON, without the folders of this machine."""
    if isinstance(value, str):
        value = strip_path(value)
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def render_template(template: str, **content: Any) -> str:
    """Fill in a template; escape all text.

    Args:
        template: its path below `experiments/`.
        content: what it shows, by name.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not given.
        ValueError: JSON in the page would have a number that is not finite, which browsers refuse.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policies = environment.policies  # its values are shared with other environments
    policies["json.dumps_kwargs"] = {**policies["json.dumps_kwargs"], "allow_nan": False}
    return environment.get_template(template).render(content)
