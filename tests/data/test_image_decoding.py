"""Preparation of one image: its central square, scaling, orientation, colors and formats."""

import io
import subprocess

import numpy as np
import pytest
from helpers.image_sets import (
    random_pixels,
    smooth_pixels,
)
from PIL import EpsImagePlugin, Image

from alexnet_jax.data import images


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (41, 60), (40, 40)])
def test_central_square(height, width):
    """Mutation: the corner taken, rows and columns exchanged, a squashed image."""
    pixels = random_pixels(height, width, 3)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    expected = pixels[top : top + side, left : left + side]
    np.testing.assert_array_equal(images.load(pixels, side=None, channels=3), expected)
    content = encoded(Image.fromarray(pixels))
    np.testing.assert_array_equal(images.load(content, side=None, channels=3), expected)


@pytest.mark.parametrize(
    ("height", "width"), [(500, 333), (375, 500), (20, 30), (31, 1000), (1000, 31)]
)
def test_short_side_is_scaled(height, width):
    """Mutation: the long side scaled to `side`, or both (a squashed image)."""
    # Brightness is the distance from the left edge, in parts of the height.
    ramp = np.linspace(-0.5 * width / height, 0.5 * width / height, width)
    pixels = np.clip(128 + 200 * ramp, 0, 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels[None, :, None], (height, width, 3)).copy()
    square = images.load(pixels, side=64, channels=3)
    assert square.shape == (64, 64, 3)
    span = min(1.0, width / height)
    expected = np.clip(128 + 200 * np.linspace(-span / 2, span / 2, 64), 0, 255)
    np.testing.assert_allclose(square[32, 4:-4, 0], expected[4:-4], atol=5)


@pytest.mark.parametrize(("height", "width"), [(500, 333), (90, 400)])
def test_squash_keeps_all_of_an_image(height, width):
    """Mutation: the sides cut off before scaling, or the aspect kept."""
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
    square = images.load(pixels, side=64, channels=3, resize="squash")
    assert square.shape == (64, 64, 3)
    np.testing.assert_allclose(square[32, 2:-2, 0], np.linspace(0, 255, 64)[2:-2], atol=5)


def test_a_very_long_image_costs_no_memory():
    """Mutation: the whole image scaled before the square is cut out: here 10 GB."""
    ramp = np.broadcast_to(
        np.linspace(0, 255, 60_000).astype(np.uint8)[None, :, None], (4, 60_000, 3)
    )
    square = images.load(np.ascontiguousarray(ramp), side=256, channels=3)
    assert np.abs(square.astype(int) - 127).max() <= 1


def test_scaling_does_not_alias():
    """Mutation: a filter of fixed support: stripes of one pixel would survive as moiré."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[:, ::2] = 255
    square = images.load(pixels, side=100, channels=3)
    assert np.abs(square[5:-5, 5:-5].astype(int) - 127).max() < 12


def test_a_large_jpeg_is_reduced_without_loss():
    """Mutation: a draft below the size wanted, which blurs."""
    pixels = random_pixels(64, 64, 3).repeat(5, axis=0).repeat(5, axis=1)
    content = encoded(Image.fromarray(pixels), "JPEG", quality=98, subsampling=0)
    drafted = images.load(content, side=64, channels=3).astype(int)
    assert np.abs(drafted - images.load(pixels, side=64, channels=3)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    """Mutation: EXIF ignored, so that camera images lie on their side."""
    upright = random_pixels(6, 9, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2)[:, :],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2)[:, :],
    }[orientation]
    if orientation == 6:  # shown after a quarter turn clockwise
        stored = np.rot90(upright, 1)
    if orientation == 8:
        stored = np.rot90(upright, -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    expected = images.load(upright, side=None, channels=3)
    np.testing.assert_array_equal(images.load(content, side=None, channels=3), expected)


def test_modes_become_rgb():
    """Mutation: palette indices as gray, black behind transparency, wrapped 16-bit values."""
    pixels = random_pixels(8, 8, 3)
    gray = random_pixels(8, 8)
    alpha = random_pixels(8, 8, seed=1)
    rgba = np.dstack([pixels, alpha])
    share = alpha[:, :, None] / 255
    on_white = pixels * share + 255 * (1 - share)
    palette = Image.fromarray(gray).convert("P")
    cut_out = encoded(palette, transparency=int(gray[0, 0]))
    deep = gray.astype(np.uint16) * 257
    three_gray = np.dstack([gray] * 3)
    for content, expected, tolerance in (
        (encoded(Image.fromarray(rgba)), on_white, 1),
        (encoded(Image.fromarray(gray)), three_gray, 0),
        (encoded(Image.fromarray(deep)), three_gray, 0),
        (encoded(palette), three_gray, 0),
        (cut_out, np.where((gray == gray[0, 0])[:, :, None], 255, three_gray), 0),
        (encoded(Image.fromarray(gray > 127)), np.where(gray > 127, 255, 0)[:, :, None], 0),
    ):
        loaded = images.load(content, side=None, channels=3).astype(int)
        assert np.abs(loaded - expected).max() <= tolerance
    # Gray from color: the usual luminance, as Pillow has it.
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    loaded = images.load(encoded(Image.fromarray(pixels)), side=None, channels=1)
    assert np.abs(loaded[:, :, 0] - luminance).max() <= 1


def netpbm(values, maximum, *, plain):
    """Return a gray PGM or a color PPM file, plain (decimal numbers) or binary."""
    height, width = values.shape[:2]
    kind = (2 if values.ndim == 2 else 3) + (0 if plain else 3)
    header = b"P%d\n%d %d\n%d\n" % (kind, width, height, maximum)
    if plain:
        return header + b" ".join(b"%d" % value for value in values.ravel().tolist()) + b"\n"
    return header + values.astype(">u2" if maximum > 255 else "u1").tobytes()


@pytest.mark.parametrize("maximum", [100, 255, 256, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_netpbm_of_any_depth(maximum, plain):
    """Catches: 16-bit PGM refused as of an unknown range; 12 bits taken as 16, an almost black
    image; values wrapped at 256."""
    for shape in ((8, 9), (8, 9, 3)):
        values = np.linspace(0, maximum, int(np.prod(shape))).astype(int).reshape(shape)
        channels = 1 if len(shape) == 2 else 3
        content = netpbm(values, maximum, plain=plain)
        loaded = images.load(content, side=None, channels=channels, resize="shorter_side")
        np.testing.assert_allclose(loaded.reshape(shape), values / maximum * 255, atol=0.51)


def test_cmyk_is_not_inverted():
    """Mutation: Adobe's inverted CMYK taken literally: a negative."""
    pixels = smooth_pixels(32, 32)
    content = encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    loaded = images.load(content, side=None, channels=3).astype(int)
    assert np.abs(loaded - pixels).mean() < 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Just text in a file called README.txt",
        encoded(Image.fromarray(random_pixels(64, 64, 3)), "JPEG")[:700],
        encoded(Image.fromarray(random_pixels(64, 64, 3)))[:900],
        encoded(Image.fromarray(random_pixels(64, 64, 3)), "AVIF").replace(b"iloc", b"free"),
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    ],
)
def test_unreadable_content(content):
    """Mutation: half an image with gray below taken as whole, or an unexpected exception."""
    with pytest.raises(images.UnreadableImageError):
        images.load(content, side=None, channels=3)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
0 0 10 10 rectfill
showpage
"""


def test_postscript_starts_no_interpreter(tmp_path, monkeypatch):
    """Mutation: Pillow left to choose the format, so that it runs Ghostscript on a photo.jpg."""

    def start(*_, **__):
        raise AssertionError("an external program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "photo.jpg"
    path.write_bytes(POSTSCRIPT)
    for content in (path, POSTSCRIPT):
        with pytest.raises(images.UnreadableImageError, match="none of the formats JPEG, PNG"):
            images.load(content, side=None, channels=3)


def test_common_formats_are_read():
    """Mutation: a format lost from the list, or one that Pillow does not know (a KeyError)."""
    pixels = smooth_pixels(32, 32)
    image = Image.fromarray(pixels)
    contents = {kind: encoded(image, kind) for kind in images.FORMATS}
    contents["MPO"] = encoded(image, "MPO", save_all=True, append_images=[image])
    for kind, content in contents.items():
        loaded = images.load(content, side=None, channels=3)
        assert loaded.shape == (32, 32, 3), kind
        tolerance = 8 if kind != "GIF" else 40  # a palette
        assert np.abs(loaded.astype(int) - pixels).mean() < tolerance, kind
    usual = {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX"}
    assert usual <= set(images.FORMATS)
    assert not {"EPS", "PDF", "WMF"} & set(images.FORMATS)
