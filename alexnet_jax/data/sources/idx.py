"""IDX files, the format of MNIST."""

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.names import read_class_names
from alexnet_jax.data.sources.base import Example, Source
from alexnet_jax.errors import InputError


class IdxSource(Source):
    """A source that reads IDX files in one folder, plain or gzipped; see `Source`.

    The class names are the lines of classes.txt if it exists, else the labels as text.
    """

    def __init__(self, directory: Path, *, names_in_digest: bool = True):
        """Read all files of `directory` into memory; such sets are small.

        Args:
            directory: the folder.
            names_in_digest: whether the names in classes.txt belong to the digest.

        Raises:
            InputError: files are missing or damaged, or do not belong together.
        """
        self._images: dict[str, np.ndarray] = {}
        self._labels: dict[str, np.ndarray] = {}
        for split, prefix in (("train", "train"), ("test", "(t10k|test)")):
            images = _find_idx(directory, prefix, "images")
            labels = _find_idx(directory, prefix, "labels")
            if images is None and labels is None and split == "test":
                continue
            if images is None or labels is None:
                raise InputError(
                    f"{directory} lacks the IDX file of the {split} "
                    f"{'labels' if images else 'images'}; the usual names are "
                    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
                    "t10k-labels-idx1-ubyte, also with .gz"
                )
            self._images[split], self._labels[split] = _read_pair(images, labels)
        shapes = {pixels.shape[1:] for pixels in self._images.values()}
        height, width, *channels = next(iter(shapes))
        self.shape = (height, width)
        self.channels = channels[0] if channels else 1
        if len(shapes) > 1 or self.channels not in (1, 3) or not height * width:
            raise InputError(
                f"the images in {directory} have shapes {sorted(shapes)}; one shape is expected, "
                "(height, width) or (height, width, 3)"
            )
        self.counts = {split: len(labels) for split, labels in self._labels.items()}
        self.train_labels = self._labels["train"]
        classes = 1 + max(int(labels.max()) for labels in self._labels.values())
        names_file = directory / "classes.txt"
        has_names = names_file.exists()
        self.class_names = tuple(map(str, range(classes)))
        if has_names:
            self.class_names = read_class_names(names_file, classes, flag="", allow_more=True)
        digest = hashlib.sha256()
        for array in (*self._images.values(), *self._labels.values()):
            digest.update(array.tobytes())
        if has_names and names_in_digest:
            digest.update("\n".join(self.class_names).encode())
        self.digest = self.stamp = digest.hexdigest()[:16]

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See `Source`."""
        images, labels = self._images[split], self._labels[split]
        for index in indices.tolist():
            pixels = np.atleast_3d(images[index])
            yield Example(f"{split}[{index}]", int(labels[index]), pixels)


def _find_idx(directory: Path, prefix: str, kind: str) -> Path | None:
    """Return the path of a file such as train-images-idx3-ubyte or train-images.idx3-ubyte."""
    pattern = re.compile(rf"{prefix}-{kind}[-.]idx\d-ubyte(\.gz)?")
    found = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name))
    return found[0] if found else None


def _read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, height, width[, channels]) uint8 images and (n,) int32 labels; n > 0."""
    pixels, classes = _read_idx(images, (3, 4)), _read_idx(labels, (1,))
    if len(pixels) != len(classes) or not len(pixels):
        raise InputError(
            f"{images} has {len(pixels)} images and {labels} has {len(classes)} labels; "
            "the same number is expected, not 0"
        )
    return pixels, classes.astype(np.int32)


def _read_idx(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file: 0, 0, 8 for uint8, the number of dimensions, their sizes, the data."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if len(content) < start or content[:3] != b"\0\0\x08" or content[3] not in dimensions:
        raise InputError(
            f"{path} is not an IDX file of bytes in {' or '.join(map(str, dimensions))} dimensions"
        )
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) != start + math.prod(shape):
        raise InputError(
            f"{path} has {len(content)} bytes; its header announces {start + math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
