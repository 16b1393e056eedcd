"""Deterministic random augmentation, keyed by (seed, epoch, position).

The order, crop, flip and lighting of training examples are functions of the seed, the epoch and
the position in the epoch. Hence they do not depend on the number of processes and threads, and
those of any step can be computed directly. The random bits are raw output of NumPy's Philox
generator, which is stable across versions.
"""

import dataclasses
import threading
from collections.abc import Callable

import numpy as np

from alexnet_jax.data.crops import FIVE_POSITIONS, scale_length, square_offset
from alexnet_jax.data.statistics import principal_components
from alexnet_jax.data_config import DataConfig

# Each kind of draw has its own stream, so that turning one off leaves the others unchanged.
# `permutation` uses the stream _SHUFFLE, too.
_SHUFFLE, _CROP, _FLIP, _LIGHT, _SCALE, _AREA = range(6)

DrawBits = Callable[[int], np.ndarray]  # from a kind of draw to 64 random bits for each example


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random draws of some examples, in the order of the examples.

    Attributes:
        index: (b,) int64, index of the image in the split.
        offset: (b, 2) int32, y and x of the top left pixel of the window; negative within the
            padding.
        window: (b, 2) int32, height and width of the window, which is scaled to the crop's size.
        flip: (b,) bool, whether the crop is mirrored.
        shift: (b, channels) float32, added to every pixel, in units of 0…255.
        gain: (b,) float32, factor of the pixels after mean and shift.
    """

    index: np.ndarray
    offset: np.ndarray
    window: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    gain: np.ndarray


class Augmentation:
    """Compute the draws of all epochs over a split; safe to use from several threads.

    Args:
        seed: any integer.
        shapes: (count, 2) int32, heights and widths of the split's images in pixels, whose shorter
            sides are equal; offsets are in 0 … shape - window, inclusive, and `padding` pixels more
            on either side.
        data: config.data, of which the fields of crops, shuffle, flip, lighting_divisor and
            lighting_end are used.
        lighting: (channels, channels) matrix from `lighting_matrix`; shift = lighting @ normals.
    """

    def __init__(
        self, *, seed: int, shapes: np.ndarray, data: DataConfig, lighting: np.ndarray
    ) -> None:
        """See the class."""
        assert len(shapes) > 0
        assert shapes[0].min() >= data.crop
        self._seed, self._shapes, self._count = seed, shapes, len(shapes)
        self._side = int(shapes[0].min())
        self._data, self._lighting = data, lighting
        self._permutations: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def draw(self, epochs: np.ndarray, positions: np.ndarray) -> Draws:
        """Return the draws of examples, which ascend by epoch and by position in the epoch.

        Only the permutation is computed for an epoch at once. Other draws are computed for the
        given examples, so that memory does not grow with the split.

        Args:
            epochs: (b,), from 0.
            positions: (b,), positions in the epochs.
        """
        parts = []
        for epoch in np.unique(epochs):
            draws = self._draw_epoch(int(epoch), positions[epochs == epoch])
            parts.append([getattr(draws, field.name) for field in dataclasses.fields(Draws)])
        return Draws(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _permutation(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch; it is cached with that of the previous epoch."""
        with self._lock:
            if epoch not in self._permutations:
                self._permutations = {
                    cached: order
                    for cached, order in self._permutations.items()
                    if cached == epoch - 1
                }
                bits = _bits(self._seed, epoch, _SHUFFLE, 0, self._count)
                self._permutations[epoch] = np.argsort(bits, kind="stable")
            return self._permutations[epoch]

    def _draw_epoch(self, epoch: int, positions: np.ndarray) -> Draws:
        """Return the draws at ascending positions (b,) of one epoch."""
        data = self._data
        index = self._permutation(epoch)[positions] if data.shuffle else positions
        shapes = self._shapes[index]
        chunks = positions // data.crop_chunk * data.crop_chunk  # the first of each image's chunk
        first, last = int(chunks[0]), int(positions[-1]) + 1

        def draw_bits(kind: int) -> np.ndarray:
            """Return, for each position, the bits of the first one in its chunk."""
            bits: np.ndarray = _bits(self._seed, epoch, kind, first, last)[chunks - first]
            return bits

        window = self._draw_windows(shapes, draw_bits)
        offset = self._draw_offsets(shapes, window, draw_bits)
        flip = np.zeros(len(positions), bool)
        if data.flip:
            flip = draw_bits(_FLIP) >> np.uint64(63) == 1
        shift, gain = self._draw_lighting(epoch, positions, first)
        return Draws(index, offset, window, flip, shift, gain)

    def _draw_windows(self, shapes: np.ndarray, draw_bits: DrawBits) -> np.ndarray:
        """Return the heights and widths (b, 2) of the windows in images of some shapes (b, 2)."""
        data = self._data
        if data.scale_jitter:
            smallest, largest = data.scale_jitter
            scale = smallest + _below(largest - smallest + 1, draw_bits(_SCALE) >> np.uint64(32))
            return np.repeat(scale_length(data.crop, scale, self._side)[:, None], 2, axis=1)
        if data.crop_area:
            return _area_windows(data, shapes, draw_bits(_AREA))
        return np.full((len(shapes), 2), data.crop, np.int32)

    def _draw_offsets(
        self, shapes: np.ndarray, window: np.ndarray, draw_bits: DrawBits
    ) -> np.ndarray:
        """Return y and x (b, 2) of the windows (b, 2) in images of some shapes (b, 2)."""
        data = self._data
        square_margin = self._side + 2 * data.padding - window
        if data.crop_positions == "center":
            offset = square_offset(shapes) + square_margin // 2
        elif data.crop_positions == "five":
            chosen = FIVE_POSITIONS[_below(5, _halves(draw_bits(_CROP))[:, 0])]
            offset = square_offset(shapes) + chosen * square_margin // 2
        else:
            margin = shapes + 2 * data.padding - window
            offset = _below(margin + 1, _halves(draw_bits(_CROP)))
        padded: np.ndarray = offset - np.int32(data.padding)
        if data.crop_area:  # its windows may be longer than the central square
            padded = np.clip(padded, 0, shapes - window)
        return padded

    def _draw_lighting(
        self, epoch: int, positions: np.ndarray, first: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return shift and gain, see `Draws`, at positions (b,) of which none is below `first`."""
        data, channels = self._data, len(self._lighting)
        shift = np.zeros((len(positions), channels), np.float32)
        gain = np.ones(len(positions), np.float32)
        if self._lighting.any() and not 0 < data.lighting_end <= epoch + 1:
            span = (first * channels, (int(positions[-1]) + 1) * channels)
            normals = _normals(self._seed, epoch, _LIGHT, *span, self._count * channels)
            normals = normals.reshape(-1, channels)[positions - first]
            # A matrix product could round differently depending on the number of examples.
            shift = sum(normals[:, k, None] * self._lighting[:, k] for k in range(channels))
            gain[:] = 1 / data.lighting_divisor
        return shift.astype(np.float32), gain


def lighting_matrix(covariance: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return the (channels, channels) matrix that turns standard normals into a shift.

    Section 4.1 adds [p1 p2 p3][α1 λ1, α2 λ2, α3 λ3]ᵀ, α ~ N(0, lighting_std), where p and λ are
    the eigenvectors and eigenvalues of the pixels' covariance. data.lighting selects

        "paper": this equation for pixels in [0, 1], with the shift scaled by 255. For pixels in
            0…255, λ would be 65025 times as large, and the shift much larger than the pixels.
        "source2012": √λ, the standard deviation, in place of λ, as in the 2012 program.
        "none": zeros.

    Args:
        covariance: (c, c) covariance of the training split's pixels, in units of 0…255.
        data: config.data.
        channels: number of channels of the model; the shift of gray images is repeated.
    """
    if data.lighting == "none":
        return np.zeros((channels, channels))
    eigenvalues, eigenvectors = principal_components(covariance)
    scales = eigenvalues / 255 if data.lighting == "paper" else np.sqrt(eigenvalues)
    matrix: np.ndarray = eigenvectors * (data.lighting_std * scales)
    if len(matrix) == channels:
        return matrix
    repeated = np.zeros((channels, channels))
    repeated[:, 0] = matrix[0, 0]
    return repeated


def permutation(seed: int, count: int) -> np.ndarray:
    """Return a random permutation of 0 … count - 1, used to select held-out images."""
    return np.argsort(_bits(seed, 0, _SHUFFLE, 0, count), kind="stable")


def _bits(seed: int, epoch: int, kind: int, first: int, last: int) -> np.ndarray:
    """Return the random uint64 with indices `first` … `last` - 1 of a stream."""
    key = np.array([seed % 2**64, epoch * 16 + kind], np.uint64)
    skipped = first % 4  # the generator counts in blocks of four
    return np.random.Philox(key=key, counter=first // 4).random_raw(skipped + last - first)[
        skipped:
    ]


def _halves(bits: np.ndarray) -> np.ndarray:
    """Return the upper and the lower 32 bits of numbers (b,) uint64, as (b, 2) uint64."""
    return np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], axis=1)


def _below(count: int | np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return random int32 in 0 … count - 1 from 32 random bits each, uint64 below 2^32.

    (bits · count) >> 32 is uniform up to a relative error of count · 2^-32.
    """
    return ((bits * np.asarray(count, np.uint64)) >> np.uint64(32)).astype(np.int32)


def _area_windows(data: DataConfig, shapes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the height and width (b, 2) int32 of windows of random area and aspect ratio.

    A side that would be longer than that of the image is cut off.

    Args:
        data: config.data, of which crop_area and crop_aspect are used.
        shapes: (b, 2) heights and widths of the images in pixels.
        bits: (b,) uint64.
    """
    uniform = (_halves(bits) + 0.5) * 2.0**-32
    (low, high), (narrow, wide) = data.crop_area, np.log(data.crop_aspect)
    area = low + (high - low) * uniform[:, 0]
    root_aspect = np.exp((narrow + (wide - narrow) * uniform[:, 1]) / 2)
    root_area = np.sqrt(shapes.prod(axis=1, dtype=np.float64)) * np.sqrt(area)
    sides = root_area[:, None] * np.stack([1 / root_aspect, root_aspect], axis=1)
    windows: np.ndarray = np.clip(np.round(sides), 1, shapes).astype(np.int32)
    return windows


def _normals(seed: int, epoch: int, kind: int, first: int, last: int, count: int) -> np.ndarray:
    """Return the standard normals `first` … `last` - 1 of `count` (Box-Muller transform)."""
    radius_bits, angle_bits = (
        _bits(seed, epoch, kind, start + first, start + last) >> np.uint64(11)
        for start in (0, count)
    )
    radius = np.sqrt(-2 * np.log((radius_bits + np.uint64(1)) * 2.0**-53))
    normals: np.ndarray = radius * np.cos(2 * np.pi * (angle_bits * 2.0**-53))
    return normals
