"""Find the splits, the class folders and the files of a folder of images."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.errors import InputError

# Files and folders that operating systems and disk stations leave behind, in lower case. Hidden
# ones, such as .DS_Store and ._IMAGE, need no entry.
_SYSTEM_NAMES = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "icon\r",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}

# Names of splits as in published data sets: train, Training, test_set, seg_train, images-val, …
_AROUND = r"seg|images?|imgs?|data|dataset"
_SPLIT_NAME = re.compile(
    rf"(?:(?:{_AROUND})[\W_]?)?"
    r"(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|dev)|(?P<test>test(?:ing)?))"
    rf"(?:[\W_]?(?:{_AROUND}|set|split|folder))?",
    re.IGNORECASE,
)
# Names of folders of images without labels, as in Kaggle's "Intel Image Classification".
_UNLABELED_NAME = re.compile(r"(?:seg[\W_]?)?pred(?:ict(?:ions?)?)?", re.IGNORECASE)


class File(NamedTuple):
    """A file: its path, its size in bytes (-1 if it cannot be read), its time of change in ns."""

    path: str
    size: int
    changed: int


def find_splits(directory: Path, notes: list[str]) -> dict[str, Path]:
    """Return the folder of each split, which contains class folders.

    A folder whose name is one for a training split is a split if it has subfolders, or if all
    folders beside it have names of splits; otherwise it is a class. Without any training split,
    `directory` itself is that split.

    Args:
        directory: the folder of the data set.
        notes: list to which lines for the user are appended.

    Raises:
        InputError: there are two folders for a split, a folder without class folders, or others
            beside those of the splits.
    """
    names = subfolders(directory)
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _SPLIT_NAME.fullmatch(name):
            found.setdefault(str(match.lastgroup), []).append(name)
    unlabeled = [name for name in names if _UNLABELED_NAME.fullmatch(name)]
    known = [name for name in names if _SPLIT_NAME.fullmatch(name)] + unlabeled
    has_class_folders = any(subfolders(directory / name) for name in found.get("train", []))
    if not has_class_folders and not (len(known) == len(names) > 1 and found):
        return {"train": directory}
    for split, folders in found.items():
        if len(folders) > 1:
            raise InputError(
                f"{directory} has {len(folders)} folders for the {split} split: "
                f"{', '.join(folders)}; one is expected, so merge them or move one away"
            )
    if "train" not in found:
        raise InputError(
            f"{directory} has the folders {', '.join(names)}, but none for training; expected is "
            "train, with validation and test if there are any"
        )
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{directory} has a {found['train'][0]} folder, so the others should be validation and "
            f"test, but there is also {', '.join(unknown)}; rename or move it"
        )
    notes += [
        f"{directory / name} is ignored: images to predict have no labels" for name in unlabeled
    ]
    return {split: _class_root(directory / name, split) for split, (name,) in found.items()}


def _class_root(root: Path, split: str) -> Path:
    """Return the folder of a split with the class folders, such as seg_train/seg_train.

    Raises:
        InputError: there are no class folders.
    """
    folders = subfolders(root)
    while len(folders) == 1 and _is_name_of(folders[0], split):
        root /= folders[0]
        folders = subfolders(root)
    if not folders:
        raise InputError(
            f"{root} holds {_count(root)} and no class folders, so that the labels of the {split} "
            f"images are unknown; sort them into {root.name}/CLASS/, or move that folder away"
        )
    return root


def _is_name_of(name: str, split: str) -> bool:
    """Return whether a folder's name is one for a split."""
    match = _SPLIT_NAME.fullmatch(name)
    return match is not None and match.lastgroup == split


def _count(directory: Path) -> str:
    """Return the number of visible files in a folder as text."""
    with os.scandir(directory) as entries:
        count = sum(_is_visible(entry.name) for entry in entries)
    return f"{count} files" if count != 1 else "1 file"


def class_folders(root: Path) -> list[str]:
    """Return the names of the class folders of a split, sorted as text: "10" comes before "2".

    Raises:
        InputError: there are none, or a name is not UTF-8.
    """
    names = subfolders(root)
    if not names:
        raise InputError(
            f"{root} has no class folders, but {_count(root)}; expected are DIR/CLASS/IMAGE, or "
            "DIR/train/CLASS/IMAGE and the same with validation and test"
        )
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the class folder {os.fsencode(name)!r} in {root} has a name that is not UTF-8; "
                "rename it"
            ) from None
    return names


def subfolders(directory: Path) -> list[str]:
    """Return the names of the visible subfolders and links to folders, sorted as text.

    Packs are left out, since data.pack_dir may be a folder beside the class folders.
    """
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if _is_visible(entry.name))
    folders = [name for name in names if (directory / name).is_dir()]
    return [name for name in folders if not _is_pack(directory / name)]


def _is_pack(folder: Path) -> bool:
    """Return whether a folder is a pack, complete or not; see `alexnet_jax.data.pack`."""
    if folder.name.endswith(".partial"):
        return (folder / "plan.json").exists() or not any(folder.iterdir())
    return all((folder / name).exists() for name in ("manifest.json", "mean_image.npy"))


def list_files(
    directory: Path,
    parents: list[Path],
    notes: list[str],
    on_error: Callable[[OSError], None] | None = None,
) -> list[File]:
    """Return all visible files below a folder, sorted by path as text.

    Links to files and folders are followed, except to a folder around the link. Links that lead
    nowhere are returned, as files that cannot be read, and so are files without permission.

    Args:
        directory: the folder.
        parents: folders around it to which links are not followed.
        notes: list to which lines about what is passed over are appended.
        on_error: called for each folder that cannot be listed, which is then passed over; None
            raises the error.

    Raises:
        OSError: a folder cannot be listed, and `on_error` is None.
    """
    identities = frozenset(_identity(os.stat(parent)) for parent in parents)
    start = _identity(os.stat(directory))
    if start in identities:
        notes.append(f"{directory} is a link to a folder around it; ignored")
        return []
    found, pending = [], [(str(directory), identities | {start})]
    while pending:
        folder, around = pending.pop()
        try:
            entries = _visible_entries(folder)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        for entry in entries:
            status = _stat(entry)
            if status is None:
                found.append(File(entry.path, -1, 0))
            elif stat.S_ISREG(status.st_mode):
                found.append(_to_file(entry.path, status))
            elif not stat.S_ISDIR(status.st_mode):
                notes.append(f"{entry.path} is a pipe, a socket or a device; ignored")
            elif _identity(status) in around:
                notes.append(f"{entry.path} is a link to a folder around it; ignored")
            else:
                pending.append((entry.path, around | {_identity(status)}))
    return sorted(found)


def _visible_entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are neither hidden nor left by the system."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if _is_visible(entry.name)]


def _is_visible(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor left by the system."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_NAMES


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of what an entry is or links to; None if that cannot be reached."""
    try:
        return entry.stat()
    except OSError:
        return None


def _to_file(path: str, status: os.stat_result) -> File:
    """Return a regular file, without its size and time if it may not be read.

    A change of permissions changes neither of these.
    """
    # The mode is known for most files. To ask for each would take a request to a file server.
    everyone = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
    if status.st_mode & everyone == everyone or os.access(path, os.R_OK):
        return File(path, status.st_size, status.st_mtime_ns)
    return File(path, -1, 0)


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Return the device and number of a folder, the same by any path."""
    return status.st_dev, status.st_ino
