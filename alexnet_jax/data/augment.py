"""What chance decides for a training example: its place in the epoch, crop, flip and light.

Everything is a function of (seed, epoch, position in the epoch) and nothing else, so the stream
is the same for any number of processes and workers, and any step can be computed directly.
The draws are raw bits of the Philox counter generator, whose stream NumPy keeps across versions.
"""

import dataclasses
import threading

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data.pack import Pack
from alexnet_jax.data.statistics import principal_components
from alexnet_jax.errors import InputError

LIGHTING = ("paper", "source2012", "none")

# Each kind of draw has a stream of its own: turning one off leaves the others as they were.
# What is held out for validation is drawn once, from the first.
_ORDER, _CROP, _FLIP, _LIGHT = range(4)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The draws of some examples, in their order.

    index (b,) int64: which image of the split; offset (b, 2) int32: top and left of the crop;
    flip (b,) bool; shift (b, channels) float32: added to every pixel, 0-255 units; gain (b,)
    float32: the pixels, mean subtracted and shift added, are multiplied by it.
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
      margin: pack side - crop; offsets are 0 … margin, both included.
      random_crop: False takes the central crop.
      flip: False never mirrors.
      chunk: so many images that follow one another share a crop and a flip, counted from the
        first of the epoch; 1 for each its own.
      lighting: (channels, channels), shift = lighting @ normals; see `lighting_matrix`.
      lighting_divisor: the gain is 1 / lighting_divisor while there is lighting.
      lighting_end: the epoch, counted from 1, at whose start lighting and divisor end; 0 never.
    """

    def __init__(
        self,
        *,
        seed: int,
        count: int,
        margin: int,
        random_crop: bool,
        flip: bool,
        chunk: int,
        lighting: np.ndarray,
        lighting_divisor: float,
        lighting_end: int,
    ):
        """See the class."""
        if count < 1 or margin < 0:
            raise ValueError(f"count {count} must be positive and margin {margin} not negative")
        self._seed = seed
        self._count = count
        self._margin = margin
        self._random_crop = random_crop
        self._flip = flip
        self._chunk = chunk
        self._lighting = lighting
        self._lighting_divisor = lighting_divisor
        self._lighting_end = lighting_end
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def rows(self, examples: np.ndarray) -> Rows:
        """The draws of examples (b,), numbered from the start of training, ascending.

        Only an epoch's order is drawn as a whole; the rest for the examples asked for, so that
        a large split takes no more memory and an epoch begins with a pause for its order only.
        """
        epochs, positions = np.divmod(examples, self._count)
        parts = []
        for epoch in np.unique(epochs):
            draws = self._draw(int(epoch), positions[epochs == epoch])
            parts.append([getattr(draws, field.name) for field in dataclasses.fields(Rows)])
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _order(self, epoch: int) -> np.ndarray:
        """The order of one epoch, kept with that of the epoch before for batches in between."""
        with self._lock:
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
                bits = _bits(self._seed, epoch, _ORDER, 0, self._count)
                self._orders[epoch] = np.argsort(bits, kind="stable")
            return self._orders[epoch]

    def _draw(self, epoch: int, positions: np.ndarray) -> Rows:
        """The draws at ascending positions (b,) of one epoch."""
        channels = len(self._lighting)
        chunks = positions // self._chunk * self._chunk  # the first of each image's chunk
        first, last = int(chunks[0]), int(positions[-1]) + 1
        offset = np.full((len(positions), 2), self._margin // 2, np.int32)
        if self._random_crop:
            # Multiplying 32 random bits spreads them over the offsets evenly to one part in 2^26.
            bits = _bits(self._seed, epoch, _CROP, first, last)[chunks - first]
            halves = np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], axis=1)
            offset = ((halves * np.uint64(self._margin + 1)) >> np.uint64(32)).astype(np.int32)
        flip = np.zeros(len(positions), bool)
        if self._flip:
            flip = (
                _bits(self._seed, epoch, _FLIP, first, last)[chunks - first] >> np.uint64(63) == 1
            )
        shift = np.zeros((len(positions), channels), np.float32)
        gain = np.ones(len(positions), np.float32)
        if self._lighting.any() and not 0 < self._lighting_end <= epoch + 1:
            span = (first * channels, last * channels)
            normals = _normals(self._seed, epoch, _LIGHT, *span, self._count * channels)
            normals = normals.reshape(-1, channels)[positions - first]
            # Not a product of matrices, whose last bits may depend on the number of rows.
            shift = sum(normals[:, k, None] * self._lighting[:, k] for k in range(channels))
            gain[:] = 1 / self._lighting_divisor
        return Rows(self._order(epoch)[positions], offset, flip, shift.astype(np.float32), gain)


def margin(pack: Pack, data: ConfigDict, channels: int) -> int:
    """By how much an image is larger than the crop, in pixels.

    Args:
      pack: the images.
      data: config.data; crop is read.
      channels: of the network.

    Raises:
      InputError: the images are smaller than the crop or have other channels than the network.
    """
    if not 1 <= data.crop <= pack.side:
        raise InputError(
            f"images smaller than the crop: those of the pack in {pack.directory} have "
            f"{pack.side} × {pack.side} pixels, --config.data.crop={data.crop}; set it to at most "
            f"{pack.side}, or prepare larger images with --config.data.image_size"
        )
    if channels not in (pack.channels, 3):
        raise InputError(
            f"the images of the pack in {pack.directory} have {pack.channels} channels, the "
            f"network {channels}; set --config.model.channels={pack.channels}"
        )
    return pack.side - data.crop


def check_draws(data: ConfigDict) -> None:
    """Raise InputError for fields of config.data that say how to draw, and are wrong."""
    check_lighting(data.lighting)
    for name, least in (("crop_chunk", 1), ("lighting_divisor", 1), ("lighting_end", 0)):
        if data[name] < least:
            raise InputError(f"--config.data.{name}={data[name]}; expected {least} or more")


def check_lighting(rule: str) -> None:
    """Raise InputError for a rule that is not one of LIGHTING."""
    if rule not in LIGHTING:
        raise InputError(f"--config.data.lighting={rule} is unknown; it is {', '.join(LIGHTING)}")


def lighting_matrix(covariance: np.ndarray, *, rule: str, std: float, channels: int) -> np.ndarray:
    """The (channels, channels) matrix that turns standard normals into a shift of 0-255 pixels.

    Section 4.1 adds [p1 p2 p3][α1 λ1, α2 λ2, α3 λ3]ᵀ, α ~ N(0, std), with p and λ the
    eigenvectors and eigenvalues of the pixels' covariance:

      "paper": literally so, for pixels in [0, 1]; the shift is then scaled by 255. For
        0-255 pixels λ would be 65025 times as large and the shift would drown the image.
      "source2012": with √λ, the standard deviation, in place of λ, as the 2012 program has it.
      "none": zeros.

    Args:
      covariance: (c, c) of the training split's pixels, 0-255 units.
      rule: one of LIGHTING.
      std: of α.
      channels: of the network; a grey split's one shift is repeated.

    Raises:
      InputError: an unknown rule.
    """
    check_lighting(rule)
    if rule == "none":
        return np.zeros((channels, channels))
    eigenvalues, eigenvectors = principal_components(covariance)
    scales = eigenvalues / 255 if rule == "paper" else np.sqrt(eigenvalues)
    matrix = eigenvectors * (std * scales)
    if len(matrix) == channels:
        return matrix
    repeated = np.zeros((channels, channels))
    repeated[:, 0] = matrix[0, 0]
    return repeated


def permutation(seed: int, count: int) -> np.ndarray:
    """A permutation of `count` things for use outside of training, such as holding out a split."""
    return np.argsort(_bits(seed, 0, _ORDER, 0, count), kind="stable")


def _bits(seed: int, epoch: int, kind: int, first: int, last: int) -> np.ndarray:
    """Random uint64, numbers `first` … `last` - 1 of a stream."""
    key = np.array([seed % 2**64, epoch * 16 + kind], np.uint64)
    skipped = first % 4  # the generator counts in blocks of four
    return np.random.Philox(key=key, counter=first // 4).random_raw(skipped + last - first)[
        skipped:
    ]


def _normals(seed: int, epoch: int, kind: int, first: int, last: int, count: int) -> np.ndarray:
    """Standard normals by the method of Box and Muller, numbers `first` … `last` - 1 of `count`."""
    radius, turn = (
        _bits(seed, epoch, kind, start + first, start + last) >> np.uint64(11)
        for start in (0, count)
    )
    return np.sqrt(-2 * np.log((radius + np.uint64(1)) * 2.0**-53)) * np.cos(
        2 * np.pi * (turn * 2.0**-53)
    )
