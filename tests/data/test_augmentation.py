"""The draws: permutations, crops, flips and lighting as functions of (seed, epoch, position)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.config import validated
from alexnet_jax.data import statistics
from alexnet_jax.data.augmentation import Augmentation, Draws, lighting_matrix
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from configs.alexnet import get_config

CROP = 24

# cuda-convnet2, make-data/input_meta: standard deviations and eigenvectors of ILSVRC-2012's RGB.
ILSVRC_STD = np.array([19.7208, 37.0939, 121.7801])
ILSVRC_VECTORS = np.array(
    [[0.41796, -0.71258, -0.56351], [-0.81698, -0.02354, -0.57618], [0.39731, 0.70120, -0.59200]]
)
ILSVRC_COVARIANCE = ILSVRC_VECTORS @ np.diag(ILSVRC_STD**2) @ ILSVRC_VECTORS.T

# Seed 1, 10 images, offsets of 0 … 4, third epoch, its first five examples.
GOLDEN_INDEX = [7, 2, 6, 9, 3]
GOLDEN_OFFSET = [[1, 3], [3, 2], [4, 3], [3, 0], [0, 0]]
GOLDEN_FLIP = [False, False, False, True, True]
GOLDEN_SHIFT = [-0.6595019, 1.2858695, -0.7358001]


def make(
    *,
    seed: int = 0,
    count: int = 10,
    margin: int = 4,
    lighting: np.ndarray | None = None,
    **data: Any,
) -> Augmentation:
    """Return the draws for images `margin` pixels larger than the crop."""
    return Augmentation(
        seed=seed,
        shapes=np.full((count, 2), CROP + margin, np.int32),
        data=DataConfig(crop=CROP, **data),
        lighting=np.zeros((3, 3)) if lighting is None else lighting,
    )


def draw(augmentation: Augmentation, examples: np.ndarray, count: int = 10) -> Draws:
    """Return the draws of examples numbered through the epochs of `count` images."""
    return augmentation.draw(*np.divmod(examples, count))


@given(seed=st.integers(-(2**70), 2**70), count=st.integers(1, 300), epoch=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_an_epoch_is_a_permutation(seed, count, epoch):
    """Mutation: indices drawn with replacement, or positions off by one."""
    draws = draw(make(seed=seed, count=count), epoch * count + np.arange(count), count)
    assert sorted(draws.index) == list(range(count))


@given(data=st.data(), count=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_draws_do_not_depend_on_how_they_are_asked_for(data, count):
    """Mutation: a generator that is advanced by calls; epochs mixed up in a batch across them."""
    lighting = np.diag([1.0, 2.0, 3.0])
    first = data.draw(st.integers(0, 5 * count))
    size = data.draw(st.integers(1, 4 * count))
    together = draw(make(count=count, lighting=lighting), first + np.arange(size), count)
    augmentation = make(count=count, lighting=lighting)
    order = data.draw(st.permutations(range(size)))
    alone = {i: draw(augmentation, np.array([first + i]), count) for i in order}
    for name in ("index", "offset", "flip", "shift", "gain"):
        np.testing.assert_array_equal(
            getattr(together, name),
            np.concatenate([getattr(alone[i], name) for i in range(size)]),
        )


def test_seeds_and_epochs_differ():
    """Mutation: the epoch or the seed left out of the key."""
    examples = np.arange(1000)
    augmentation = make(count=1000)
    first = draw(augmentation, examples, 1000)
    for other in (
        draw(augmentation, 1000 + examples, 1000),
        draw(make(seed=1, count=1000), examples, 1000),
    ):
        for name in ("index", "offset", "flip"):
            assert (getattr(first, name) != getattr(other, name)).any(), name


def test_offsets_and_flips_are_uniform_and_include_both_ends():
    """Mutation: offsets below the largest only; one number for both directions; rare flips."""
    draws = draw(make(count=40_000, margin=3), np.arange(40_000), 40_000)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(draws.offset.T), 1)
    assert np.abs(counts / 40_000 - 1 / 16).max() < 0.005
    assert abs(draws.flip.mean() - 0.5) < 0.01
    assert draws.offset.dtype == np.int32
    assert abs(np.corrcoef(draws.flip, draws.offset[:, 0])[0, 1]) < 0.02


def test_five_positions_are_the_corners_and_the_center():
    """Mutation: a corner left out or taken more often; a position that depends on the flip."""
    draws = draw(make(count=20_000, margin=4, crop_positions="five"), np.arange(20_000), 20_000)
    places, counts = np.unique(draws.offset, axis=0, return_counts=True)
    assert places.tolist() == [[0, 0], [0, 4], [2, 2], [4, 0], [4, 4]]
    assert np.abs(counts / 20_000 - 1 / 5).max() < 0.01
    assert abs(np.corrcoef(draws.flip, draws.offset[:, 0])[0, 1]) < 0.02
    assert draws.offset.dtype == np.int32


def test_scales_are_uniform_and_windows_fit():
    """Mutation: a scale below the smallest or above the largest; windows that shrink with the
    scale's inverse only roughly, or reach beyond the image; the offset's range of another window.
    """
    count, side, scales = 40_000, 2 * CROP, range(CROP + 4, CROP + 45)
    augmentation = make(count=count, margin=CROP, scale_jitter=(scales[0], scales[-1]))
    draws = draw(augmentation, np.arange(count), count)
    assert (draws.window[:, 0] == draws.window[:, 1]).all()
    windows, counts = np.unique(draws.window[:, 0], return_counts=True)
    expected = [np.round(CROP * side / scale + 1e-9) for scale in scales]
    expected_windows, shares = np.unique(expected, return_counts=True)
    np.testing.assert_array_equal(windows, expected_windows)
    assert np.abs(counts / count - shares / len(scales)).max() < 0.006
    room = side - draws.window
    assert (draws.offset >= 0).all()
    assert (draws.offset <= room).all()
    assert (draws.offset == room).any(axis=0).all()
    assert abs(np.corrcoef(draws.window[:, 0], draws.flip)[0, 1]) < 0.02


def test_scales_do_not_depend_on_the_batch():
    """Mutation: scales drawn in the order of calls, or the same in every epoch."""
    augmentation = make(count=70, margin=CROP, scale_jitter=(CROP, 2 * CROP))
    whole = draw(augmentation, np.arange(140), 70).window
    part = draw(augmentation, np.arange(33, 91), 70).window
    np.testing.assert_array_equal(whole[33:91], part)
    assert (whole[:70] != whole[70:]).any()


def test_switching_one_draw_off_leaves_the_others():
    """Mutation: all draws from one stream, so that ablations see other images."""
    examples = np.arange(100)
    full = draw(make(count=100), examples, 100)
    plain = draw(make(count=100, flip=False, crop_positions="center"), examples, 100)
    np.testing.assert_array_equal(full.index, plain.index)
    uncropped = draw(make(count=100, crop_positions="center"), examples, 100)
    np.testing.assert_array_equal(full.flip, uncropped.flip)
    assert not plain.flip.any()
    assert (plain.offset == 2).all()


def test_the_stream_is_what_it_was():
    """Mutation: any change of the stream. A run that resumes would see other images; if that is
    meant, print these values again and say so in the commit.
    """
    draws = draw(make(seed=1, lighting=np.eye(3)), np.arange(20, 25))
    np.testing.assert_array_equal(draws.index, GOLDEN_INDEX)
    np.testing.assert_array_equal(draws.offset, GOLDEN_OFFSET)
    np.testing.assert_array_equal(draws.flip, GOLDEN_FLIP)
    np.testing.assert_allclose(draws.shift[0], GOLDEN_SHIFT, rtol=1e-6)


def test_chunks_share_crop_and_flip_from_the_start_of_each_epoch():
    """Mutation: chunks counted from the start of training, or of a batch, which straddle epochs;
    chunks that share the lighting too, or the image.
    """
    alone = draw(make(count=70, lighting=np.eye(3)), np.arange(140), 70)
    shared = draw(make(count=70, crop_chunk=32, lighting=np.eye(3)), np.arange(140), 70)
    for start, stop in ((0, 32), (32, 64), (64, 70), (70, 102), (102, 134), (134, 140)):
        assert (shared.offset[start:stop] == alone.offset[start]).all()
        assert (shared.flip[start:stop] == alone.flip[start]).all()
    for name in ("index", "shift", "gain"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))


def test_lighting_ends_with_its_divisor():
    """Mutation: epochs counted from 0; a divisor that stays when the lighting is gone, or that
    is there without any; other draws that change with it.
    """
    examples = np.arange(30)
    light: dict[str, Any] = dict(lighting=np.eye(3), lighting_divisor=1.1)
    ending, endless = (draw(make(lighting_end=e, **light), examples) for e in (3, 0))
    assert ending.shift[:20].all()
    assert not ending.shift[20:].any()
    np.testing.assert_array_equal(ending.gain, np.repeat([np.float32(1 / 1.1), 1], [20, 10]))
    assert endless.shift.all()
    assert (draw(make(lighting_divisor=1.1), examples).gain == 1).all()
    for name in ("index", "offset", "flip"):
        np.testing.assert_array_equal(getattr(ending, name), getattr(endless, name))


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop_chunk", 0), ("lighting_divisor", 0.0), ("lighting_end", -1), ("lighting", "pca")],
)
def test_wrong_draws(field: str, value: object) -> None:
    """Mutation: a chunk of nothing, which divides by zero; a divisor of 0 that hides the images;
    an unknown rule taken for none.
    """
    config = get_config("sample")
    setattr(config.data, field, value)
    expected = "one of paper, source2012, none" if field == "lighting" else ""
    with pytest.raises(InputError, match=f"^data.{field}={value}; expected {expected}"):
        validated(config)


@pytest.mark.parametrize(("rule", "expected"), [("paper", 5.8), ("source2012", 12.2)])
def test_lighting_of_ilsvrc(rule: str, expected: float) -> None:
    """Mutation: λ of 0-255 pixels in the paper's rule (14,830), or λ for √λ and the reverse.
    The published numbers are 5.5 (for a covariance a little smaller) and 12.2 along the gray axis.
    """
    matrix = lighting_matrix(
        ILSVRC_COVARIANCE, DataConfig(lighting=rule, lighting_std=0.1), channels=3
    )
    shift = draw(make(count=50_000, lighting=matrix), np.arange(50_000), 50_000).shift
    gray = np.full(3, 3**-0.5)
    assert np.std(shift @ gray) == pytest.approx(expected, rel=0.01)
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=0.1)
    # Along the eigenvectors, which are columns: rows would mix the colors.
    power = 2 if rule == "paper" else 1
    expected_std = 0.1 * 255 * (ILSVRC_STD / 255) ** power
    np.testing.assert_allclose(np.std(shift @ ILSVRC_VECTORS, axis=0), expected_std, rtol=0.02)


def test_normals_are_normal():
    """Mutation: a uniform, or a Box-Muller radius without the square root."""
    shift = draw(make(count=200_000, lighting=np.eye(3)), np.arange(200_000), 200_000).shift
    np.testing.assert_allclose(np.cov(shift.T), np.eye(3), atol=0.02)
    np.testing.assert_allclose((shift**4).mean(axis=0), 3, rtol=0.03)


def test_lighting_of_gray_images_is_one_shift_for_all_channels():
    """Mutation: independent shifts for the copies of a gray channel, which would color it."""
    matrix = lighting_matrix(
        np.array([[100.0]]), DataConfig(lighting="source2012", lighting_std=0.1), channels=3
    )
    shift = draw(make(count=5000, lighting=matrix), np.arange(5000), 5000).shift
    assert (shift == shift[:, :1]).all()
    assert shift.std() == pytest.approx(1.0, rel=0.05)


def test_lighting_none() -> None:
    """Mutation: "none" taken for one of the rules, or a matrix of another size."""
    matrix = lighting_matrix(np.eye(3), DataConfig(lighting="none"), channels=3)
    np.testing.assert_array_equal(matrix, np.zeros((3, 3)))


def test_principal_components_are_ordered_and_signed():
    """Mutation: smallest first, or the sign left to LAPACK."""
    values, vectors = statistics.principal_components(ILSVRC_COVARIANCE)
    np.testing.assert_allclose(np.sqrt(values), ILSVRC_STD[::-1], rtol=1e-3)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, ILSVRC_COVARIANCE, rtol=1e-6)
    assert (vectors.max(axis=0) > -vectors.min(axis=0)).all()


def test_areas_and_aspect_ratios():
    """Mutation: width and height swapped, an area that is not uniform, a side's share in place of
    the area's; windows beyond the image; the same draw for area and aspect ratio."""
    count, side = 40_000, 400
    area, aspect = (0.08, 0.5), (0.5, 1.0)
    augmentation = make(count=count, margin=side - CROP, crop_area=area, crop_aspect=aspect)
    draws = draw(augmentation, np.arange(count), count)
    height, width = draws.window.T.astype(float)
    shares = np.quantile(height * width / side**2, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(shares, [0.08, 0.185, 0.29, 0.395, 0.5], atol=0.008)
    aspects = np.quantile(np.log(width / height), [0.0, 0.25, 0.5, 0.75, 1.0])
    expected = np.linspace(np.log(0.5), 0, 5)
    np.testing.assert_allclose(aspects, expected, atol=0.02)
    assert abs(np.corrcoef(height * width, width / height)[0, 1]) < 0.02
    assert (draws.offset >= 0).all()
    assert (draws.offset <= side - draws.window).all()
    assert (draws.offset == side - draws.window).any(axis=0).all()
    whole = draw(make(count=count, margin=6, crop_area=(1.0, 1.0)), np.arange(count), count)
    assert (whole.window <= CROP + 6).all()


def test_padding_adds_positions():
    """Mutation: padding on one side only, or twice; the center moved by it."""
    count = 20_000
    draws = draw(make(count=count, margin=0, padding=2), np.arange(count), count)
    for axis in (0, 1):
        offsets, counts = np.unique(draws.offset[:, axis], return_counts=True)
        assert offsets.tolist() == [-2, -1, 0, 1, 2]
        assert np.abs(counts / count - 1 / 5).max() < 0.015
    center = make(count=count, margin=0, padding=2, crop_positions="center")
    assert not draw(center, np.arange(9), count).offset.any()
