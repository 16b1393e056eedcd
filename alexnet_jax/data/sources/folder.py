"""Image files in one folder per class."""

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.sources.base import SPLITS, Example, Source, compute_digest
from alexnet_jax.errors import InputError


class FolderSource(Source):
    """A source that reads image files in one folder per class; see `Source`.

    `directory` contains train/ and optionally validation/ and test/, each with class folders; or
    it contains the class folders itself. The class names are those of the training split, sorted
    as text. Files in subfolders of a class folder belong to that class. Hidden files are ignored.
    """

    shape = None  # unknown until the images are read
    channels = 3

    def __init__(self, directory: Path):
        """List the files below `directory`.

        Raises:
            InputError: There are no images, or a split has a class that the training split lacks.
        """
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
        self.digest = compute_digest(
            f"{split} {label} {name} {_file_size(directory / name)}\n".encode(
                errors="surrogateescape"
            )
            for split, files in self._files.items()
            for label, name in map(files.__getitem__, range(len(files)))
        )

    def _list(self, root: Path) -> "_Files":
        """List all files of a split, by class and path."""
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
        """See `Source`. Yields paths; decoding reads the files."""
        for index in indices.tolist():
            label, name = self._files[split][index]
            yield Example(name, label, self._directory / name)


class _Files:
    """A compact list of (label, path); a million `str` would take hundreds of megabytes."""

    def __init__(self, files: Iterable[tuple[int, str]]):
        """Store all of `files`."""
        self._paths, self._ends, self._labels = bytearray(), array("q", [0]), array("i")
        for label, path in files:
            self._paths += os.fsencode(path)
            self._ends.append(len(self._paths))
            self._labels.append(label)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[int, str]:
        """Return the label and path of a file."""
        path = self._paths[self._ends[index] : self._ends[index + 1]]
        return self._labels[index], os.fsdecode(bytes(path))


def _split_folders(directory: Path) -> dict[str, Path]:
    """Return the folder of each split; train/ without subfolders is a class named "train"."""
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
    """Return the names of visible subfolders, sorted as text: "10" comes before "2"."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _visible_files(directory: Path) -> list[str]:
    """Return the paths of all visible files below `directory`, sorted as text."""
    found = []
    for parent, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes; -1 for a broken link."""
    try:
        return path.stat().st_size
    except OSError:  # decoding reports the error
        return -1
