"""Packs: prepared images on disk, which can be read in any order.

    manifest.json           settings, class names, counts, shards, checksums; written last
    mean_image.npy          (side, side, channels) float32, of the training split; the mean of each
                            channel in all places if images differ in shape
    covariance.npy          (channels, channels) float64, of the training split's 0-255 pixels
    SPLIT.labels.npy        (count,) int32
    SPLIT.shapes.npy        (count, 2) int32, height and width of each image; without it all are
                            side × side
    SPLIT.sizes.npy         (count,) int32, bytes of each record
    SPLIT.crc32.npy         (count,) uint32, checksum of each record
    SPLIT-00000.records …   concatenated records, one file per shard

A record is a JPEG file or, for small images and with data.encoding=raw, raw pixels. Reading plain
files with pread takes a third of the time of ArrayRecord for records of 40 KB, and an eighth for
784 bytes.
"""

import errno
import os
import weakref
import zlib
from pathlib import Path

import numpy as np

from alexnet_jax.data.images import MAX_ASPECT
from alexnet_jax.data.manifest import damaged, partial_directory, read_manifest, shard_path
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json
from alexnet_jax.files import DamagedArrayError, parse_array


class Split:
    """A split of a pack.

    The files of the records stay open, so that a pack that another process replaces is still read
    to the end. A record is compared with its checksum when it is read for the first time.

    Attributes:
        name: name of the split.
        count: number of images.
        labels: (count,) int32.
        shapes: (count, 2) int32, height and width of the images.
    """

    def __init__(self, directory: Path, name: str, manifest: Json):
        """Open split `name` of the pack in `directory`.

        Raises:
            InputError: a file is missing, or does not have the content stated in the manifest.
        """
        shards = manifest["splits"][name]["shards"]
        self.name = name
        self.count = sum(shard["count"] for shard in shards)
        self._directory = directory
        self.labels, sizes, self._crc32 = (
            _load_array(directory, f"{name}.{kind}.npy", manifest["arrays"], (self.count,), dtype)
            for kind, dtype in (("labels", np.int32), ("sizes", np.int32), ("crc32", np.uint32))
        )
        if self.count and not 0 <= self.labels.min() <= self.labels.max() < len(
            manifest["class_names"]
        ):
            raise damaged(directory, f"{name}.labels.npy has labels without a class")
        self._shard = np.repeat(np.arange(len(shards)), [shard["count"] for shard in shards])
        shard_bytes = [shard["bytes"] for shard in shards]
        sums = np.bincount(self._shard, sizes, minlength=len(shards))
        if (self.count and sizes.min() < 0) or (sums != shard_bytes).any():
            raise damaged(directory, f"{name}.sizes.npy does not fit the shards")
        self.shapes = _load_shapes(directory, name, manifest, self.count)
        areas = self.shapes.prod(axis=1, dtype=np.int64)
        if manifest["encoding"] == "raw" and (sizes != areas * manifest["channels"]).any():
            raise damaged(directory, f"{name}.sizes.npy does not fit the shapes of the images")
        self._size = sizes.astype(np.int64)
        shard_starts = np.concatenate([[0], np.cumsum(shard_bytes)])
        self._start = np.cumsum(self._size) - self._size - shard_starts[self._shard]
        self._verified = np.zeros(self.count, bool)
        self._descriptors: list[int] = []
        weakref.finalize(self, _close_all, self._descriptors).atexit = False
        for number, size in enumerate(shard_bytes):
            self._descriptors.append(_open_shard(directory, shard_path(directory, name, number)))
            actual = os.fstat(self._descriptors[-1]).st_size
            if actual != size:
                path = shard_path(directory, name, number)
                raise damaged(directory, f"{path.name} has {actual} bytes instead of {size}")

    def read(self, indices: np.ndarray) -> list[bytes]:
        """Return the records at `indices` (b,), in that order; thread-safe.

        Raises:
            InputError: a record is damaged.
        """
        locations = zip(
            self._shard[indices].tolist(),
            self._size[indices].tolist(),
            self._start[indices].tolist(),
            strict=True,
        )
        records = [
            os.pread(self._descriptors[shard], size, start) for shard, size, start in locations
        ]
        if not self._verified[indices].all():
            sums = np.fromiter(map(zlib.crc32, records), np.uint32, len(records))
            if (wrong := np.flatnonzero(sums != self._crc32[indices])).size:
                shard = shard_path(self._directory, self.name, self._shard[indices[wrong[0]]])
                raise damaged(
                    self._directory,
                    f"image {indices[wrong[0]]} of the {self.name} split, in {shard.name}, is not "
                    "as it was written",
                )
            self._verified[indices] = True
        return records


def _open_shard(directory: Path, path: Path) -> int:
    """Return the file descriptor of a shard."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise damaged(directory, f"{path.name} is missing") from None
    except OSError as error:
        advice = "; raise the limit of open files with ulimit -n" * (error.errno == errno.EMFILE)
        raise InputError(f"cannot open {path}: {error.strerror}{advice}") from None


def _close_all(descriptors: list[int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


class Pack:
    """A complete pack.

    Attributes:
        directory: folder of the pack.
        splits: `Split` by name, for those of "train", "validation" and "test" that exist.
        class_names: names of the classes in the order of the labels.
        side: length of the shorter side of the images in pixels.
        channels: 1 or 3.
        encoding: "jpeg" or "raw".
        mean_image: mean image of the training split, (side, side, channels) float32, 0…255; the
            mean of each channel in all places if images may differ in shape.
        covariance: covariance of the training split's pixels, (channels, channels) float64.
        source_digest: hash of the listing of the source that the pack was made from.
    """

    def __init__(self, directory: Path, manifest: Json):
        """See `open_pack`; `manifest` is as `read_manifest` returns it."""
        self.directory = directory
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.side: int = manifest["side"]
        self.channels: int = manifest["channels"]
        self.encoding: str = manifest["encoding"]
        self.source_digest: str = manifest["source_digest"]
        self.mean_image, self.covariance = (
            _load_array(directory, f"{name}.npy", manifest["arrays"], shape, dtype)
            for name, shape, dtype in (
                ("mean_image", (self.side, self.side, self.channels), np.float32),
                ("covariance", (self.channels, self.channels), np.float64),
            )
        )
        self.splits = {name: Split(directory, name, manifest) for name in manifest["splits"]}


def open_pack(directory: str | os.PathLike[str]) -> Pack:
    """Open a complete pack; its records are read later, on demand.

    Raises:
        InputError: there is no pack in `directory`, or it is unfinished, damaged, or of another
            version of the format.
    """
    directory = Path(directory)
    while (manifest := read_manifest(directory)) is not None:
        try:
            return Pack(directory, manifest)
        except InputError:
            if manifest == read_manifest(directory):
                raise
            # Another process has replaced the pack while this one opened it.
    if partial_directory(directory).exists():
        raise InputError(
            f"the pack in {directory} is unfinished; run the same command of "
            "python -m alexnet_jax.prepare again, it continues where it stopped"
        )
    raise InputError(
        f"there is no pack in {directory}; make it with python -m alexnet_jax.prepare --config=…"
    )


def _load_shapes(directory: Path, name: str, manifest: Json, count: int) -> np.ndarray:
    """Return the heights and widths of a split's images, (count, 2) int32."""
    side = manifest["side"]
    if manifest["settings"].get("resize") != "shorter_side":
        return np.broadcast_to(np.int32(side), (count, 2))
    file = f"{name}.shapes.npy"
    shapes = _load_array(directory, file, manifest["arrays"], (count, 2), np.int32)
    if (shapes.min(axis=1) != side).any() or (shapes > MAX_ASPECT * side).any():
        raise damaged(
            directory,
            f"{file} has shapes other than {side} pixels on the shorter side and at most "
            f"{MAX_ASPECT * side} on the longer one",
        )
    return shapes


def _load_array(
    directory: Path, name: str, checksums: Json, shape: tuple[int, ...], dtype: type
) -> np.ndarray:
    """Return the array in a file of a pack, with finite numbers of that shape and type."""
    try:
        content = (directory / name).read_bytes()
        array = parse_array(content)
    except (OSError, DamagedArrayError):
        raise damaged(directory, f"{name} is missing or unreadable") from None
    if array.shape != shape or array.dtype != dtype:
        shorter = array.ndim == len(shape) == 1 and len(array) < shape[0]
        what = "is too short" if shorter else f"has shape {array.shape} and type {array.dtype}"
        raise damaged(directory, f"{name} {what}; expected {shape} and {np.dtype(dtype)}")
    if not np.isfinite(array).all():
        raise damaged(directory, f"{name} has numbers that are not finite")
    if zlib.crc32(content) != checksums.get(name):
        raise damaged(directory, f"{name} is not as it was written")
    return array
