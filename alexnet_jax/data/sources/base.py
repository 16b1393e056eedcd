"""The interface of all image sources."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """A labeled image before preparation.

    Attributes:
        name: Name of the image, for messages.
        label: Index of the class.
        image: A file, the bytes of one, or (height, width, 1 or 3) uint8 pixels.
    """

    name: str
    label: int
    image: Path | bytes | np.ndarray


class Source(Protocol):
    """A set of labeled images.

    Attributes:
        class_names: Names of the classes in the order of the labels.
        counts: Number of images of each existing split of `SPLITS`.
        shape: (height, width) if all images have the same, else None.
        channels: 1 or 3.
        digest: Hash of the listing, to detect changes of the images that the listing shows.
    """

    class_names: tuple[str, ...]
    counts: dict[str, int]
    shape: tuple[int, int] | None
    channels: int
    digest: str

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """Yield the examples of `split` at `indices`, which ascend."""


def compute_digest(parts: Iterable[bytes]) -> str:
    """Return a hash of the concatenated parts, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
