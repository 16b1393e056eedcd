"""Packs: prepared images on disk, which can be read in any order.

    manifest.json           settings, class names, counts, shards, skipped images; written last
    mean_image.npy          (side, side, channels) float32, of the training split
    covariance.npy          (channels, channels) float64, of the training split's 0-255 pixels
    SPLIT.labels.npy        (count,) int32
    SPLIT.sizes.npy         (count,) int32, bytes of each record
    SPLIT-00000.records …   concatenated records, one file per shard

A record is a JPEG file or, for small images, raw pixels. Reading plain files with pread takes a
third of the time of ArrayRecord for records of 40 KB, and an eighth for 784 bytes.
"""

import io
import json
import os
import weakref
from pathlib import Path

import numpy as np

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json, differences

FORMAT = "alexnet_jax pack"
VERSION = 1

# Fields of the manifest that are read, and their types.
_MANIFEST: dict[str, type] = dict(
    settings=dict, class_names=list, side=int, channels=int, encoding=str, splits=dict
)
_MANIFEST_SPLIT: dict[str, type] = dict(shards=list, skipped=list)
_MANIFEST_SHARD: dict[str, type] = dict(count=int, bytes=int)


class Split:
    """A split of a pack.

    Attributes:
        name: Name of the split.
        count: Number of images.
        labels: (count,) int32.
    """

    def __init__(self, directory: Path, name: str, shards: list[dict[str, int]]):
        """Open split `name` of the pack in `directory`.

        Raises:
            InputError: A file is missing or does not have the size stated in the manifest.
        """
        self.name = name
        self.labels = _load_array(directory / f"{name}.labels.npy", directory)
        sizes = _load_array(directory / f"{name}.sizes.npy", directory).astype(np.int64)
        self.count = sum(shard["count"] for shard in shards)
        if len(self.labels) != self.count or len(sizes) != self.count:
            raise _damaged(directory, f"{name}.labels.npy or {name}.sizes.npy is too short")
        self._paths = [shard_path(directory, name, number) for number in range(len(shards))]
        for path, shard in zip(self._paths, shards, strict=True):
            actual = path.stat().st_size if path.exists() else 0
            if actual != shard["bytes"]:
                raise _damaged(
                    directory, f"{path.name} has {actual} bytes instead of {shard['bytes']}"
                )
        counts = [shard["count"] for shard in shards]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        shard_starts = np.concatenate([[0], np.cumsum([shard["bytes"] for shard in shards])])
        self._start = np.cumsum(sizes) - sizes - shard_starts[self._shard]
        self._size = sizes
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close_all, self._descriptors).atexit = False

    def read(self, indices: np.ndarray) -> list[bytes]:
        """Return the records at `indices` (b,), in that order; thread-safe."""
        locations = zip(
            self._shard[indices].tolist(),
            self._size[indices].tolist(),
            self._start[indices].tolist(),
            strict=True,
        )
        return [os.pread(self._descriptor(shard), size, start) for shard, size, start in locations]

    def _descriptor(self, shard: int) -> int:
        """Return the file descriptor of a shard, which two threads may open at the same time."""
        if shard not in self._descriptors:
            opened = os.open(self._paths[shard], os.O_RDONLY)
            if self._descriptors.setdefault(shard, opened) != opened:
                os.close(opened)
        return self._descriptors[shard]


def _close_all(descriptors: dict[int, int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors.values():
        os.close(descriptor)


class Pack:
    """A complete pack.

    Attributes:
        directory: Folder of the pack.
        splits: `Split` by name, for those of "train", "validation" and "test" that exist.
        class_names: Names of the classes in the order of the labels.
        side: Side of the images in pixels.
        channels: 1 or 3.
        encoding: "jpeg" or "raw".
        mean_image: Mean image of the training split, (side, side, channels) float32, 0…255.
        covariance: Covariance of the training split's pixels, (channels, channels) float64.
    """

    def __init__(self, directory: Path, manifest: Json):
        """See `open_pack`; `manifest` is as `read_manifest` returns it."""
        self.directory = directory
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.side: int = manifest["side"]
        self.channels: int = manifest["channels"]
        self.encoding: str = manifest["encoding"]
        self.mean_image: np.ndarray = _load_array(directory / "mean_image.npy", directory)
        self.covariance: np.ndarray = _load_array(directory / "covariance.npy", directory)
        self.splits = {
            name: Split(directory, name, split["shards"])
            for name, split in manifest["splits"].items()
        }


def open_pack(directory: str | os.PathLike[str]) -> Pack:
    """Open a complete pack; its records are read later, on demand.

    Raises:
        InputError: There is no pack in `directory`, or it is unfinished, damaged, or of another
            version of the format.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest is not None:
        return Pack(directory, manifest)
    if partial_directory(directory).exists():
        raise InputError(
            f"the pack in {directory} is unfinished; run the same command of "
            "python -m alexnet_jax.prepare again, it continues where it stopped"
        )
    raise InputError(
        f"there is no pack in {directory}; make it with python -m alexnet_jax.prepare --config=…"
    )


def contains_pack(directory: Path, settings: Json) -> bool:
    """Return whether `directory` contains a complete pack made with `settings`.

    Args:
        directory: Folder that need not exist.
        settings: Settings that must agree; others may differ.

    Raises:
        InputError: The folder contains a pack made with other settings, or other files.
    """
    manifest = read_manifest(directory)
    if manifest is not None:
        check_settings(directory, manifest["settings"], settings)
        return True
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"{directory} is neither a pack nor an empty folder; "
            "set --config.data.pack_dir to a folder for the pack alone"
        )
    return False


def check_settings(directory: Path, made: Json, settings: Json) -> None:
    """Raise InputError if the pack in `directory`, made with `made`, differs in `settings`."""
    pack_settings = {field: made.get(field) for field in settings}
    different = [
        f"config.data.{field} is {value!r}, there it is {pack_value!r}"
        for field, pack_value, value in differences(pack_settings, settings)
    ]
    if different:
        raise InputError(
            f"the pack in {directory} was made with other settings: {'; '.join(different)}. "
            "Set the same, or another --config.data.pack_dir, or delete the folder"
        )


def read_manifest(directory: Path) -> Json | None:
    """Read the manifest of the pack in `directory`; return None if there is no manifest.json.

    Raises:
        InputError: The file is damaged, not a manifest, or of another version of the format.
    """
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise _damaged(directory, "manifest.json is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a pack's manifest; name another folder in --config.data.pack_dir"
        )
    if manifest.get("version") != VERSION:
        raise InputError(
            f"the pack in {directory} has format version {manifest.get('version')}, this program "
            f"reads {VERSION}; delete the folder and prepare it again"
        )
    _check_fields(manifest, _MANIFEST, directory)
    for split in manifest["splits"].values():
        _check_fields(split, _MANIFEST_SPLIT, directory)
        for shard in split["shards"]:
            _check_fields(shard, _MANIFEST_SHARD, directory)
    return manifest


def _check_fields(content: object, fields: dict[str, type], directory: Path) -> None:
    """Raise InputError if a field of the manifest is missing or has another type."""
    for name, kind in fields.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise _damaged(directory, f"manifest.json lacks or garbles {name!r}")


def partial_directory(directory: Path) -> Path:
    """Return the folder of a pack that is not complete yet."""
    return directory.with_name(directory.name + ".partial")


def shard_path(directory: Path, split: str, number: int) -> Path:
    """Return the path of a shard."""
    return directory / f"{split}-{number:05d}.records"


def _load_array(path: Path, directory: Path) -> np.ndarray:
    """Return the array in a file of a pack."""
    try:
        # From memory, since np.fromfile turns a KeyboardInterrupt into a TypeError (NumPy 2.4).
        array: np.ndarray = np.load(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError, EOFError):
        raise _damaged(directory, f"{path.name} is missing or unreadable") from None
    return array


def _damaged(directory: Path, what: str) -> InputError:
    """Return the error for a damaged pack."""
    return InputError(
        f"the pack in {directory} is damaged: {what}; delete the folder and prepare it again"
    )
