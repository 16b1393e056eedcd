"""Deterministic random augmentation, keyed by (seed, epoch, position).

Order, crop, flip and lighting of a training example are a function of the seed, the epoch and the
position in the epoch, so the stream is the same for any number of processes and workers, and any
step can be computed directly. The draws are raw bits of the Philox counter generator, whose
stream NumPy keeps across versions.
"""

import dataclasses
import threading

import numpy as np

from alexnet_jax.config import DataConfig
from alexnet_jax.data.crops import center_offset
from alexnet_jax.data.statistics import principal_components

# Each kind of draw has its own stream: turning one off leaves the others unchanged.
# The images held out for validation are drawn once, from the first.
_ORDER, _CROP, _FLIP, _LIGHT = range(4)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is drawn for some examples, in their order.

    Attributes:
        index: (b,) int64, which image of the split.
        offset: (b, 2) int32, first row and column of the crop.
        flip: (b,) bool.
        shift: (b, channels) float32, added to every pixel, in units of 0…255.
        gain: (b,) float32, the factor of the pixels, mean subtracted and shift added.
    """

    index: np.ndarray
    offset: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    gain: np.ndarray


class Augmentation:
    """The draws of all epochs over a split; safe to use from several threads.

    Args:
        seed: any integer.
        count: images in the split.
        image_size: pixels a side of the images; offsets are 0 … image_size - crop, both included.
        data: its crop, random_crop, flip, crop_chunk, lighting_divisor and lighting_end are read.
        lighting: (channels, channels), shift = lighting @ normals; see `lighting_matrix`.
    """

    def __init__(
        self, *, seed: int, count: int, image_size: int, data: DataConfig, lighting: np.ndarray
    ) -> None:
        """See the class."""
        assert count > 0
        assert image_size >= data.crop
        self._seed, self._count, self._image_size = seed, count, image_size
        self._data, self._lighting = data, lighting
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def draw(self, epochs: np.ndarray, positions: np.ndarray) -> Draws:
        """Return the draws of examples, ascending by epoch and by position in it.

        Only an epoch's order is drawn as a whole; the rest for the examples asked for, so that
        a large split takes no more memory and an epoch begins with a pause for its order only.

        Args:
            epochs: (b,), from 0; positions: (b,), in the order of their epoch.
        """
        parts = []
        for epoch in np.unique(epochs):
            draws = self._draw(int(epoch), positions[epochs == epoch])
            parts.append([getattr(draws, field.name) for field in dataclasses.fields(Draws)])
        return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch; it is kept with that of the epoch before."""
        with self._lock:
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
                bits = _bits(self._seed, epoch, _ORDER, 0, self._count)
                self._orders[epoch] = np.argsort(bits, kind="stable")
            return self._orders[epoch]

    def _draw(self, epoch: int, positions: np.ndarray) -> Draws:
        """Return the draws at ascending positions (b,) of one epoch."""
        data, channels = self._data, len(self._lighting)
        chunks = positions // data.crop_chunk * data.crop_chunk  # the first of each image's chunk
        first, last = int(chunks[0]), int(positions[-1]) + 1
        center = center_offset(self._image_size, data.crop)
        offset = np.full((len(positions), 2), center, np.int32)
        if data.random_crop:
            # Multiplying 32 random bits spreads them over the offsets evenly to one part in 2^26.
            bits = _bits(self._seed, epoch, _CROP, first, last)[chunks - first]
            halves = np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], axis=1)
            offsets = np.uint64(self._image_size - data.crop + 1)
            offset = ((halves * offsets) >> np.uint64(32)).astype(np.int32)
        flip = np.zeros(len(positions), bool)
        if data.flip:
            flip = (
                _bits(self._seed, epoch, _FLIP, first, last)[chunks - first] >> np.uint64(63) == 1
            )
        shift = np.zeros((len(positions), channels), np.float32)
        gain = np.ones(len(positions), np.float32)
        if self._lighting.any() and not 0 < data.lighting_end <= epoch + 1:
            span = (first * channels, last * channels)
            normals = _normals(self._seed, epoch, _LIGHT, *span, self._count * channels)
            normals = normals.reshape(-1, channels)[positions - first]
            # Not a product of matrices, whose last bits may depend on the number of rows.
            shift = sum(normals[:, k, None] * self._lighting[:, k] for k in range(channels))
            gain[:] = 1 / data.lighting_divisor
        return Draws(self._order(epoch)[positions], offset, flip, shift.astype(np.float32), gain)


def lighting_matrix(covariance: np.ndarray, data: DataConfig, channels: int) -> np.ndarray:
    """Return the (channels, channels) matrix that turns standard normals into a shift.

    Section 4.1 adds [p1 p2 p3][α1 λ1, α2 λ2, α3 λ3]ᵀ, α ~ N(0, lighting_std), with p and λ the
    eigenvectors and eigenvalues of the pixels' covariance. data.lighting chooses

        "paper": literally so, for pixels in [0, 1]; the shift is then scaled by 255. For
            0-255 pixels λ would be 65025 times as large and the shift would drown the image.
        "source2012": with √λ, the standard deviation, in place of λ, as the 2012 program has it.
        "none": zeros.

    Args:
        covariance: (c, c) of the training split's pixels, 0-255 units.
        channels: of the model; the one shift of gray images is repeated.
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
    """Return a permutation of `count` things, for use outside training: held-out images."""
    return np.argsort(_bits(seed, 0, _ORDER, 0, count), kind="stable")


def _bits(seed: int, epoch: int, kind: int, first: int, last: int) -> np.ndarray:
    """Return random uint64: the numbers `first` … `last` - 1 of a stream."""
    key = np.array([seed % 2**64, epoch * 16 + kind], np.uint64)
    skipped = first % 4  # the generator counts in blocks of four
    return np.random.Philox(key=key, counter=first // 4).random_raw(skipped + last - first)[
        skipped:
    ]


def _normals(seed: int, epoch: int, kind: int, first: int, last: int, count: int) -> np.ndarray:
    """Return standard normals (Box and Muller): the numbers `first` … `last` - 1 of `count`."""
    radius, turn = (
        _bits(seed, epoch, kind, start + first, start + last) >> np.uint64(11)
        for start in (0, count)
    )
    length = np.sqrt(-2 * np.log((radius + np.uint64(1)) * 2.0**-53))
    normals: np.ndarray = length * np.cos(2 * np.pi * (turn * 2.0**-53))
    return normals
