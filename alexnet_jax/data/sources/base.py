"""The interface of all image sources."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """A labeled image before preparation.

    Attributes:
        name: name of the image, for messages.
        label: index of the class.
        image: a file, the bytes of one, or (height, width, 1 or 3) uint8 pixels.
    """

    name: str
    label: int
    image: Path | bytes | np.ndarray


class Source(Protocol):
    """A set of labeled images.

    Attributes:
        class_names: names of the classes in the order of the labels.
        counts: number of images of each existing split of `SPLITS`.
        shape: (height, width) if all images have the same, else None.
        channels: 1 or 3.
        digest: hash of the listing: the names and sizes of files (-1 for those that cannot be
            read), or the pixels, labels and class names. It does not depend on where the source is.
        stamp: hash that changes with `digest` and with the files' times of change.
        train_labels: labels of the training images, (count,) int32; None if listing them would
            mean to read the images.
        notes: lines for the user about the listing, such as what is ignored.
    """

    class_names: tuple[str, ...]
    counts: dict[str, int]
    shape: tuple[int, int] | None
    channels: int
    digest: str
    stamp: str
    train_labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """Yield the examples of `split` at `indices`, which ascend."""
