"""Where images come from: one interface over folders, IDX files and TensorFlow Datasets.

A source lists its splits and reads the images of one by index. What is done to an image is not
its business; see alexnet_jax/prepare.py.
"""

import dataclasses
import gzip
import hashlib
import math
import os
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data.augment import permutation
from alexnet_jax.errors import InputError

SAMPLE_DIRECTORY = Path(__file__).parent / "sample"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """An image before preparation.

    name: for messages; label: index into the class names;
    image: a file, the bytes of one, or (height, width, 1 or 3) uint8 pixels.
    """

    name: str
    label: int
    image: Path | bytes | np.ndarray


class Source(Protocol):
    """A labelled set of images.

    class_names; counts: images of each split that exists, of SPLITS;
    shape: (height, width) where all images share it, else None; channels: 1 or 3;
    digest: changes when the images change, as far as their listing shows it.
    """

    class_names: tuple[str, ...]
    counts: dict[str, int]
    shape: tuple[int, int] | None
    channels: int
    digest: str

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """The examples at `indices` (ascending) of `split`."""


def open_source(data: ConfigDict) -> Source:
    """The source that config.data names.

    Raises:
      InputError: it does not exist, or its files are not what they should be.
    """
    if data.name == "sample":
        return IdxSource(SAMPLE_DIRECTORY)
    if data.name in ("folder", "idx"):
        directory = Path(data.dir).expanduser()
        if not data.dir or not directory.is_dir():
            raise InputError(
                f"--config.data.dir={data.dir!r} is not a folder; --config.data.name={data.name} "
                "needs the folder where the images are"
            )
        return FolderSource(directory) if data.name == "folder" else IdxSource(directory)
    from alexnet_jax.data.tfds_source import TfdsSource

    return TfdsSource(data.name, data.dir)


def location(data: ConfigDict) -> Path:
    """The folder that config.data's source lies in; relative and default ones made definite."""
    if data.name == "sample":
        return Path()  # the package may move
    if data.name in ("folder", "idx"):
        return Path(data.dir).expanduser().resolve()
    from alexnet_jax.data.tfds_source import data_directory

    return data_directory(data.dir)


def hold_out(source: Source, data: ConfigDict) -> dict[str, tuple[str, np.ndarray]]:
    """The pack's splits: name to (split of the source, ascending indices in it).

    Splits that the source has stay as they are. Without a validation split,
    data.validation_share of the training images become one; where there is nothing but training
    images, data.test_share of them become the test split. Chosen by data.split_seed.

    Raises:
      InputError: no training image is left.
    """
    splits = {name: (name, np.arange(count)) for name, count in source.counts.items()}
    count = source.counts["train"]
    shares = {}
    if "validation" not in source.counts:
        shares["validation"] = data.validation_share
        if "test" not in source.counts:
            shares["test"] = data.test_share
    shuffled = permutation(data.split_seed, count)
    taken = 0
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(f"--config.data.{name}_share={share} is not in [0, 1)")
        size = round(share * count)
        if size:
            splits[name] = ("train", np.sort(shuffled[taken : taken + size]))
        taken += size
    if taken >= count:
        raise InputError(
            f"of {count} training images {taken} would be held out and none left; lower "
            + " and ".join(f"--config.data.{name}_share" for name in shares)
        )
    splits["train"] = ("train", np.sort(shuffled[taken:]))
    return {name: splits[name] for name in SPLITS if name in splits}


class FolderSource(Source):
    """Folders of image files, one for each class; see Source.

    `directory` holds train/, and beside it validation/ and test/ where there are such splits,
    with the class folders in them; or it holds the class folders itself. Classes are those of
    the training split, in the order of their names as text. Files in folders of a class folder
    are the class's too. Hidden files are ignored.

    Raises:
      InputError: there are no images, or a split has a class that the training split has not.
    """

    shape = None  # not known before they are read
    channels = 3

    def __init__(self, directory: Path):
        """List the files below `directory`."""
        self._directory = directory
        roots = _split_folders(directory)
        self.class_names = tuple(_folders(roots["train"]))
        if not self.class_names:
            raise InputError(
                f"{roots['train']} has no class folders; expected are DIR/CLASS/IMAGE, or "
                "DIR/train/CLASS/IMAGE and the same with validation and test"
            )
        self._files = {split: self._list(root) for split, root in roots.items()}
        self.counts = {split: len(files) for split, files in self._files.items()}
        self.digest = _digest(
            f"{split} {label} {name} {_file_size(directory / name)}\n".encode(
                errors="surrogateescape"
            )
            for split, files in self._files.items()
            for label, name in map(files.__getitem__, range(len(files)))
        )

    def _list(self, root: Path) -> "_Files":
        """All files of a split, by class and path."""
        unknown = sorted(set(_folders(root)) - set(self.class_names))
        if unknown:
            raise InputError(
                f"{root} has the class folders {', '.join(unknown)}, which the training split has "
                f"not; its classes are {', '.join(self.class_names[:10])}"
                f"{', …' if len(self.class_names) > 10 else ''}"
            )
        files = _Files(
            (label, os.path.relpath(path, self._directory))
            for label, name in enumerate(self.class_names)
            for path in _visible_files(root / name)
        )
        if not files:
            raise InputError(f"{root} has class folders without any file")
        return files

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See Source; the files are read later, by whoever decodes them."""
        for index in indices.tolist():
            label, name = self._files[split][index]
            yield Example(name, label, self._directory / name)


class _Files:
    """(label, path) of many files: a million paths as strings would take hundreds of megabytes."""

    def __init__(self, files: Iterable[tuple[int, str]]):
        """Keep all of `files`."""
        self._paths, self._ends, self._labels = bytearray(), array("q", [0]), array("i")
        for label, path in files:
            self._paths += os.fsencode(path)
            self._ends.append(len(self._paths))
            self._labels.append(label)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[int, str]:
        """One of them."""
        path = self._paths[self._ends[index] : self._ends[index + 1]]
        return self._labels[index], os.fsdecode(bytes(path))


def _split_folders(directory: Path) -> dict[str, Path]:
    """The folder of each split; a train/ without folders in it is a class called train."""
    if not ((directory / "train").is_dir() and _folders(directory / "train")):
        return {"train": directory}
    unknown = sorted(set(_folders(directory)) - set(SPLITS))
    if unknown:
        raise InputError(
            f"{directory} has a train folder, so the others should be validation and test, but "
            f"there is also {', '.join(unknown)}; rename or move it"
        )
    return {split: directory / split for split in SPLITS if (directory / split).is_dir()}


def _folders(directory: Path) -> list[str]:
    """Names of the visible folders in `directory`, sorted as text: "10" comes before "2"."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _visible_files(directory: Path) -> list[str]:
    """Paths of the files below `directory` that are not hidden, sorted as text."""
    found = []
    for parent, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing; reading it will say so
        return -1


class IdxSource(Source):
    """The IDX files of MNIST and its kin, plain or gzipped, in one folder; see Source.

    Class names come from classes.txt, one a line, or are the numbers.

    Raises:
      InputError: files are missing, truncated, or do not fit together.
    """

    def __init__(self, directory: Path):
        """Read the files of `directory` whole; such sets are small."""
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
        height, width, *rest = next(iter(shapes))
        self.shape = (height, width)
        self.channels = rest[0] if rest else 1
        if len(shapes) > 1 or self.channels not in (1, 3) or not height * width:
            raise InputError(
                f"the images in {directory} have shapes {sorted(shapes)}; one shape is expected, "
                "(height, width) or (height, width, 3)"
            )
        self.counts = {split: len(labels) for split, labels in self._labels.items()}
        self.class_names = self._name_classes(directory / "classes.txt")
        arrays = [*self._images.values(), *self._labels.values()]
        self.digest = _digest(array.tobytes() for array in arrays)

    def _name_classes(self, path: Path) -> tuple[str, ...]:
        classes = 1 + max(int(labels.max()) for labels in self._labels.values())
        if not path.exists():
            return tuple(str(label) for label in range(classes))
        names = tuple(path.read_text(encoding="utf-8").splitlines())
        if len(names) < classes:
            raise InputError(f"{path} names {len(names)} classes, but there are {classes} labels")
        return names

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See Source."""
        images, labels = self._images[split], self._labels[split]
        for index in indices.tolist():
            pixels = np.atleast_3d(images[index])
            yield Example(f"{split}[{index}]", int(labels[index]), pixels)


def _find_idx(directory: Path, prefix: str, kind: str) -> Path | None:
    """The file train-images-idx3-ubyte or the like; also with a dot, as some unpackers do."""
    pattern = re.compile(rf"{prefix}-{kind}[-.]idx\d-ubyte(\.gz)?")
    found = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name))
    return found[0] if found else None


def _read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, height, width[, channels]) uint8 and their labels (n,) int32; n > 0."""
    pixels, classes = _read_idx(images, (3, 4)), _read_idx(labels, (1,))
    if len(pixels) != len(classes) or not len(pixels):
        raise InputError(
            f"{images} has {len(pixels)} images and {labels} has {len(classes)} labels; "
            "the same number is expected, not 0"
        )
    return pixels, classes.astype(np.int32)


def _read_idx(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """The array in an IDX file: 0, 0, 8 for uint8, number of dimensions, their sizes, data."""
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


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
