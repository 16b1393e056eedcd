"""Image files in one folder per class."""

import hashlib
import os
import unicodedata
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.sources import layout
from alexnet_jax.data.sources.base import Example, Source
from alexnet_jax.errors import InputError, list_names


class FolderSource(Source):
    """A source that reads image files in one folder per class; see `Source`.

    `directory` contains train/ and optionally validation/ and test/, or other usual names of
    these, each with class folders; or it contains the class folders itself. The class names are
    those of the training split, sorted as text. Files in subfolders of a class folder belong to
    that class. Hidden files, and those that operating systems leave, are ignored.
    """

    shape = None  # unknown until the images are read
    channels = 3

    def __init__(self, directory: Path):
        """List the files below `directory`.

        Raises:
            InputError: there are no images, or of one class only; or a split has a class that the
                training split lacks; or the names of the folders are ambiguous.
        """
        self._directory = directory = directory.absolute()
        prefix = len(os.path.join(directory, ""))
        has_own_files = False  # whether a class folder has files outside of subfolders
        notes: list[str] = []
        roots = layout.find_splits(directory, notes)
        folders = layout.class_folders(roots["train"])
        listing, times = hashlib.sha256(), hashlib.sha256()
        self._files: dict[str, _Files] = {}
        for split, root in roots.items():
            self._files[split] = files = _Files()
            _check_classes(root, folders)
            for label, name in enumerate(folders):
                if not (root / name).is_dir():
                    continue
                for file in layout.list_files(root / name, [directory, root], notes):
                    has_own_files |= os.path.dirname(file.path) == str(root / name)
                    path = os.fsencode(file.path[prefix:])
                    files.append(label, path)
                    listing.update(b"%s %s %d\n" % (split.encode(), path, file.size))
                    times.update(b"%d\n" % file.changed)
            if not len(files):
                raise InputError(f"{root} has class folders without any file")
        self.class_names = self._drop_empty_classes(folders, notes)
        if len(self.class_names) < 2:
            raise _single_class(roots["train"], self.class_names[0])
        if not has_own_files and all(
            len(layout.subfolders(roots["train"] / name)) > 1 for name in self.class_names
        ):
            notes.append(
                f"the class folders {list_names(self.class_names)} in {roots['train']} hold only "
                "folders; if these are the classes, --config.data.dir is one level too high"
            )
        self.counts = {split: len(files) for split, files in self._files.items()}
        self.digest = listing.hexdigest()[:16]
        self.stamp = f"{self.digest} {times.hexdigest()[:16]}"
        self.train_labels = self._files["train"].labels()
        self.notes = tuple(notes)

    def _drop_empty_classes(self, folders: list[str], notes: list[str]) -> tuple[str, ...]:
        """Return the names of the classes that have files, and number the labels by them."""
        counts = sum(
            np.bincount(files.labels(), minlength=len(folders)) for files in self._files.values()
        )
        has_files = np.asarray(counts) > 0
        if empty := [name for name, has in zip(folders, has_files, strict=True) if not has]:
            notes.append(
                f"class folders without images, which do not become classes: {', '.join(empty)}"
            )
            for files in self._files.values():
                files.renumber(np.cumsum(has_files) - 1)
        return tuple(name for name, has in zip(folders, has_files, strict=True) if has)

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See `Source`. Yields paths; decoding reads the files."""
        for index in indices.tolist():
            label, name = self._files[split][index]
            yield Example(name, label, self._directory / name)


class _Files:
    """A compact list of (label, path); a million `str` would take hundreds of megabytes."""

    def __init__(self) -> None:
        """Begin without files."""
        self._paths, self._ends, self._labels = bytearray(), array("q", [0]), array("i")

    def append(self, label: int, path: bytes) -> None:
        """Append a file."""
        self._paths += path
        self._ends.append(len(self._paths))
        self._labels.append(label)

    def labels(self) -> np.ndarray:
        """Return the labels, (count,) int32."""
        return np.array(self._labels, np.int32)

    def renumber(self, labels: np.ndarray) -> None:
        """Replace each label by `labels[label]`."""
        self._labels = array("i", labels[self.labels()].tolist())

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[int, str]:
        """Return the label and path of a file."""
        path = self._paths[self._ends[index] : self._ends[index + 1]]
        return self._labels[index], os.fsdecode(bytes(path))


def _check_classes(root: Path, classes: list[str]) -> None:
    """Raise InputError for class folders of a split that the training split lacks."""
    unknown = sorted(set(layout.subfolders(root)) - set(classes))
    if not unknown:
        return
    composed = {unicodedata.normalize("NFC", name) for name in classes}
    alike = [name for name in unknown if unicodedata.normalize("NFC", name) in composed]
    hint = (
        f". {list_names(alike)} differ from classes only in how Unicode composes accents, as in "
        "archives from macOS; rename these folders to the names in the training split"
    )
    raise InputError(
        f"{root} has the class folders {list_names(unknown)}, which the training split lacks; its "
        f"classes are {list_names(classes)}{hint if alike else ''}"
    )


def _single_class(root: Path, name: str) -> InputError:
    """Return the error for a training split with one class."""
    inside = layout.subfolders(root / name)
    advice = "expected are two or more class folders"
    if inside:
        advice = (
            f"it holds the folders {list_names(inside)}. If these are the classes, "
            f"--config.data.dir is one level too high: give --config.data.dir={root / name}"
        )
    return InputError(f"{root} has images of one class only, {name}; {advice}")
