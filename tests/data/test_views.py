"""Where the views of an evaluation are cut, against their definitions in whole numbers."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import data_config, smooth_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.config import Config
from alexnet_jax.data.crops import make_views, scales_of_144
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import prepare

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1), (Fraction(1, 2), Fraction(1, 2)))  # of the free room

sizes = st.integers(1, 60)
lengths = st.lists(st.tuples(st.booleans(), st.integers(0, 90)), min_size=1, max_size=5)


def make_shapes(side: int, pairs: list[tuple[bool, int]]) -> np.ndarray:
    """Return heights and widths of images with a shorter side, taller or wider."""
    rows = [(side + more, side) if tall else (side, side + more) for tall, more in pairs]
    return np.array(rows, np.int32)


def ideal_windows(views: str, shape: np.ndarray, crop: int, scale: int) -> list[list[Fraction]]:
    """Return y, x, height and width of unmirrored windows in the prepared image, not rounded.

    The definitions speak of the scaled image, of whose pixels side / scale are one of the prepared
    one.
    """
    side = int(min(shape))
    unit, small, large = Fraction(side, scale), Fraction(crop), Fraction(scale)
    height, width = (int(length) / unit for length in shape)  # of the scaled image
    if views == "dense":
        found = [[Fraction(0), Fraction(0), height, width]]
    elif views == "grid":
        steps = [Fraction(i, 4) for i in range(5)]
        found = [
            [y * (height - crop), x * (width - crop), small, small] for y in steps for x in steps
        ]
    else:
        found = []
        for place in (0, Fraction(1, 2), 1) if views == "squares" else (Fraction(1, 2),):
            top, left = place * (height - scale), place * (width - scale)
            room = scale - crop
            corners = CORNERS[4:] if views == "center" else CORNERS
            found += [[top + y * room, left + x * room, small, small] for y, x in corners]
            if views == "squares":
                found.append([top, left, large, large])
    return [[value * unit for value in window] for window in found]


@given(
    views=st.sampled_from(["center", "ten", "grid", "dense", "squares"]),
    side=sizes,
    pairs=lengths,
    crop=sizes,
    more=st.integers(0, 60),
)
@settings(max_examples=300, deadline=None)
def test_windows_are_where_the_papers_have_them(
    views: str, side: int, pairs: list[tuple[bool, int]], crop: int, more: int
) -> None:
    """Catches: corners of the whole image in the ten views, or of its squares in the grid; a square
    left out or in the middle twice; height and width exchanged; a window over a pixel off its
    place, or outside of the image; views mirrored in another order."""
    scale, shapes = crop + more, make_shapes(side, pairs)
    if views == "dense":
        shapes = np.repeat(shapes[:1], len(shapes), axis=0)
    found = make_views(views, shapes, crop, scale)
    count = dict(center=1, ten=10, grid=50, dense=2, squares=36)[views]
    assert found.offset.shape == found.window.shape == (len(shapes), count, 2)
    assert found.flip.tolist() == [False] * -(-count // 2) + [True] * (count // 2)
    assert (found.offset >= 0).all()
    assert (found.offset + found.window <= shapes[:, None]).all()
    unit = Fraction(side, scale)
    size = [round_half_up(int(n) / unit) for n in shapes[0]] if views == "dense" else [crop, crop]
    assert found.size.tolist() == size
    for image, shape in enumerate(shapes):
        windows = ideal_windows(views, shape, crop, scale)
        windows += windows if count > 1 else []
        for view, window in enumerate(windows):
            actual = [*found.offset[image, view].tolist(), *found.window[image, view].tolist()]
            for got, ideal in zip(actual[2:], window[2:], strict=True):
                assert got == round_half_up(ideal)
            for got, ideal in zip(actual[:2], window[:2], strict=True):
                # Half of a margin is rounded twice, and the window once, each by half a pixel.
                assert abs(got - ideal) <= Fraction(3, 2)


def round_half_up(value: Fraction) -> int:
    """Return the nearest whole number, the larger one of two."""
    return int((2 * value + 1) // 2)


@given(side=sizes, crop=sizes, more=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_three_squares_of_a_square_coincide(side: int, crop: int, more: int) -> None:
    """Catches: squares moved in an image that has no room for that."""
    found = make_views("squares", make_shapes(side, [(True, 0)]), crop, crop + more)
    for views in (found.offset[0], found.window[0]):
        thirds = views.reshape(2, 3, 6, 2)
        np.testing.assert_array_equal(thirds[:, 0], thirds[:, 1])
        np.testing.assert_array_equal(thirds[:, 0], thirds[:, 2])
        np.testing.assert_array_equal(thirds[0], thirds[1])
    ten = make_views("ten", make_shapes(side, [(True, 0)]), crop, crop + more)
    np.testing.assert_array_equal(found.offset[0, :5], ten.offset[0, :5])


def test_144_crops_of_googlenet() -> None:
    """Catches: other scales than the paper's; scales of small crops that are not in proportion. By
    hand, an image of 352 × 500 pixels at the scale of 256: 224 of 256 pixels are 308 of 352."""
    assert scales_of_144(224) == (256, 288, 320, 352)
    assert scales_of_144(26) == (30, 33, 37, 41)
    found = make_views("squares", np.array([[352, 500]], np.int32), 224, 256)
    assert len(scales_of_144(224)) * len(found.flip) == 144
    expected = []
    for left in (0, 74, 148):
        expected += [(0, left), (0, left + 44), (44, left), (44, left + 44), (22, left + 22)]
        expected.append((0, left))
    assert found.offset[0].tolist() == 2 * [list(place) for place in expected]
    assert found.window[0, :, 0].tolist() == 6 * [*[308] * 5, 352]
    assert found.size.tolist() == [224, 224]


@pytest.mark.parametrize("side", [24, 72])
def test_views_of_a_batch_are_cut_from_their_images(tmp_path: Path, side: int) -> None:
    """Catches: windows of one image cut from the next one of another shape; a square scaled to the
    crop without antialiasing; raw pixels and JPEGs cut in different ways."""
    for index, (height, width) in enumerate(((40, 60), (60, 40), (50, 50), (30, 91), (91, 30))):
        for name in ("train", "test"):
            folder = tmp_path / "images" / name / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = smooth_pixels(height, width, seed=index)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    places = dict(pack_dir=str(tmp_path / "pack"), image_size=side, validation_share=0.0)
    data = data_config("folder", tmp_path / "images", resize="shorter_side", **places)
    data = dataclasses.replace(data, crop=16, mean="channel", lighting="none")
    pack = prepare(data, progress=False)
    config = Config(batch_size=3, data=data, model=SequentialConfig(channels=3))
    split = pack.splits["test"]
    for views, scale in (("ten", 20), ("grid", 18), ("squares", 18)):
        batches = list(evaluation_batches(pack, "test", config, views=views, scale=scale))
        found = np.concatenate([np.asarray(batch.image) for batch in batches])[:5]
        cut = make_views(views, split.shapes, 16, scale)
        for index, view in np.ndindex(found.shape[:2]):
            (record,) = split.read(np.array([index]))
            if pack.encoding == "jpeg":
                (tmp_path / "record.jpg").write_bytes(record)
                with Image.open(tmp_path / "record.jpg") as image:
                    pixels = np.asarray(image)
            else:
                pixels = np.frombuffer(record, np.uint8).reshape(*split.shapes[index], 3)
            top, left, height, width = *cut.offset[index, view], *cut.window[index, view]
            window = Image.fromarray(pixels[top : top + height, left : left + width])
            expected = np.asarray(window.resize((16, 16), Image.Resampling.BICUBIC))
            expected = expected[:, ::-1] if cut.flip[view] else expected
            difference = np.abs(found[index, view].astype(int) - expected).max()
            assert difference <= (0 if pack.encoding == "raw" else 1)
