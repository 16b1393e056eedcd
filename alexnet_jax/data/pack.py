"""The pack: images prepared once, on disk, for reading in any order.

    manifest.json           settings, class names, counts, shards, skipped images; written last
    mean_image.npy          (side, side, channels) float32, over the training split
    covariance.npy          (channels, channels) float64, of the training split's 0-255 pixels
    SPLIT.labels.npy        (count,) int32
    SPLIT.sizes.npy         (count,) int32, bytes of each record
    SPLIT-00000.records …   records one after another, SHARD_IMAGES candidates a shard

A record is a JPEG file or, for small images, raw pixels. Plain files read with pread take a
third of ArrayRecord's time per record at 40 KB and an eighth at 784 bytes.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.statistics import principal_components
from alexnet_jax.errors import InputError

FORMAT = "alexnet_jax pack"
VERSION = 1
SHARD_IMAGES = 8192


class Split:
    """One split of a pack: `name`, `count`, `labels` (count,) int32, and `read`."""

    def __init__(self, directory: Path, name: str, shards: list[dict[str, int]]):
        """Open split `name` of the pack in `directory`.

        Raises:
          InputError: a file is missing or has not the size that the manifest states.
        """
        self.name = name
        self.labels = _load(directory / f"{name}.labels.npy", directory)
        sizes = _load(directory / f"{name}.sizes.npy", directory).astype(np.int64)
        self.count = sum(shard["count"] for shard in shards)
        if len(self.labels) != self.count or len(sizes) != self.count:
            raise _damaged(directory, f"{name}.labels.npy or {name}.sizes.npy is too short")
        self._paths = [_shard_path(directory, name, number) for number in range(len(shards))]
        for path, shard in zip(self._paths, shards, strict=True):
            actual = path.stat().st_size if path.exists() else 0
            if actual != shard["bytes"]:
                raise _damaged(
                    directory, f"{path.name} has {actual} bytes instead of {shard['bytes']}"
                )
        counts = [shard["count"] for shard in shards]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        before = np.concatenate([[0], np.cumsum([shard["bytes"] for shard in shards])])
        self._start = np.cumsum(sizes) - sizes - before[self._shard]
        self._size = sizes
        self._files: dict[int, int] = {}

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The records at `indices` (b,), in that order."""
        places = zip(
            self._shard[indices].tolist(),
            self._size[indices].tolist(),
            self._start[indices].tolist(),
            strict=True,
        )
        return [os.pread(self._file(shard), size, start) for shard, size, start in places]

    def _file(self, shard: int) -> int:
        """The shard's descriptor; opened once, and by setdefault also where two threads race."""
        if shard not in self._files:
            opened = os.open(self._paths[shard], os.O_RDONLY)
            if self._files.setdefault(shard, opened) != opened:
                os.close(opened)
        return self._files[shard]

    def __del__(self):
        """Close the shards' descriptors."""
        for file in getattr(self, "_files", {}).values():
            os.close(file)


class Pack:
    """A complete pack.

    directory; splits: name to Split, of "train", "validation", "test" those that exist;
    class_names; side in pixels; channels 1 or 3; encoding "jpeg" or "raw"; settings: what the
    pack was made from; skipped: split to the names of its unreadable images;
    mean_image (side, side, channels) float32 and covariance (channels, channels) float64 of the
    training split in 0-255 units; eigenvalues (channels,), largest first, and eigenvectors
    (channels, channels), one a column, of the covariance.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]):
        """See `open_pack`."""
        self.directory = directory
        self.settings: dict[str, Any] = manifest["settings"]
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.side: int = manifest["side"]
        self.channels: int = manifest["channels"]
        self.encoding: str = manifest["encoding"]
        self.mean_image: np.ndarray = _load(directory / "mean_image.npy", directory)
        self.covariance: np.ndarray = _load(directory / "covariance.npy", directory)
        self.eigenvalues, self.eigenvectors = principal_components(self.covariance)
        self.splits = {
            name: Split(directory, name, split["shards"])
            for name, split in manifest["splits"].items()
        }
        self.skipped: dict[str, list[str]] = {
            name: split["skipped"] for name, split in manifest["splits"].items()
        }


def open_pack(directory: str | os.PathLike[str]) -> Pack:
    """Open a complete pack; its records are read later, on demand.

    Raises:
      InputError: there is no pack in `directory`, or it is unfinished, damaged, or of another
        version of this program.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest is None:
        if partial_directory(directory).exists():
            raise InputError(
                f"the pack in {directory} is unfinished; run the same command of "
                "python -m alexnet_jax.prepare again, it continues where it stopped"
            )
        raise InputError(
            f"there is no pack in {directory}; make it with "
            "python -m alexnet_jax.prepare --config=…"
        )
    try:
        return Pack(directory, manifest)
    except (KeyError, TypeError) as error:
        raise _damaged(directory, f"manifest.json lacks or garbles {error}") from None


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of the pack in `directory`, None where there is no manifest.json.

    Raises:
      InputError: it is not a manifest of this version.
    """
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise _damaged(directory, "manifest.json is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a pack's manifest; name another folder in --config.data.pack_dir"
        )
    if manifest["version"] != VERSION:
        raise InputError(
            f"the pack in {directory} has format version {manifest['version']}, this program reads "
            f"{VERSION}; delete the folder and prepare it again"
        )
    return manifest


def partial_directory(directory: Path) -> Path:
    """Where a pack lies until it is complete."""
    return directory.with_name(directory.name + ".partial")


@dataclasses.dataclass
class Chunk:
    """Some prepared images, in order.

    records and labels of those that could be read; skipped: names of the others;
    pixel_sum (side, side, channels) and product_sum (channels, channels) int64: over images, and
    over images and pixels, of the values and of their products. Integers, so that the mean does
    not depend on the order of additions.
    """

    records: list[bytes]
    labels: list[int]
    skipped: list[str]
    pixel_sum: np.ndarray
    product_sum: np.ndarray

    @classmethod
    def empty(cls, side: int, channels: int) -> "Chunk":
        """No images of (side, side, channels)."""
        zeros = np.zeros((side, side, channels), np.int64)
        return cls([], [], [], zeros, np.zeros((channels, channels), np.int64))

    def add(self, record: bytes, label: int, pixels: np.ndarray) -> None:
        """Append an image; its pixels (side, side, channels) uint8 go into the sums."""
        self.records.append(record)
        self.labels.append(label)
        self.pixel_sum += pixels
        # float64 is exact here: an image's sums of products stay far below 2^53. Rows of planes,
        # because a matrix three columns wide is multiplied at a third of that speed.
        planes = pixels.transpose(2, 0, 1).astype(np.float64, order="C")
        self.product_sum += np.vecdot(planes[:, None], planes).sum(axis=-1).astype(np.int64)


class PackWriter:
    """A pack in the making, in DIRECTORY.partial, shard by shard.

    A shard counts as finished when its .npz lies beside it: sizes, labels, skipped and sums.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: dict[str, Any],
        class_names: tuple[str, ...],
        side: int,
        channels: int,
        encoding: str,
        candidates: dict[str, int],
        digest: str,
    ):
        """Begin a pack, or go on with one that was begun.

        Args:
          directory: where the complete pack will be; the others are as in Pack, and
          candidates: images of each split, readable or not; digest: of the source's listing.

        Raises:
          InputError: what was begun is another pack.
        """
        self.side, self.channels, self.encoding = side, channels, encoding
        self.candidates = candidates
        self._directory = directory
        self._partial = partial_directory(directory)
        self._plan = dict(
            format=FORMAT,
            version=VERSION,
            settings=settings,
            class_names=list(class_names),
            side=side,
            channels=channels,
            encoding=encoding,
            candidates=candidates,
            shard_images=SHARD_IMAGES,
            source_digest=digest,
        )
        self._partial.mkdir(exist_ok=True)
        path = self._partial / "plan.json"
        if not path.exists():
            _write(path, [_to_json(self._plan)])
        begun = json.loads(path.read_text(encoding="utf-8"))
        different = _differences(begun, self._plan)
        if different:
            raise InputError(
                f"{self._partial} holds an unfinished pack of other settings or of a source that "
                f"has changed since ({', '.join(different)}); delete that folder, or set another "
                "--config.data.pack_dir"
            )

    def finished(self, split: str, number: int) -> list[str] | None:
        """The names of the images skipped in a finished shard; None where it is not finished."""
        if not self._summary_path(split, number).exists():
            return None
        return json.loads(str(self._summary(split, number)["skipped"]))

    def write_shard(self, split: str, number: int, chunks: Iterable[Chunk]) -> None:
        """Write shard `number` of `split`; only chunks under way are in memory."""
        total = Chunk.empty(self.side, self.channels)
        sizes: list[int] = []

        def records() -> Iterator[bytes]:
            for chunk in chunks:
                total.labels += chunk.labels
                total.skipped += chunk.skipped
                total.pixel_sum += chunk.pixel_sum
                total.product_sum += chunk.product_sum
                sizes.extend(map(len, chunk.records))
                yield from chunk.records

        _write(_shard_path(self._partial, split, number), records())
        summary = io.BytesIO()
        np.savez(
            summary,
            sizes=np.array(sizes, np.int32),
            labels=np.array(total.labels, np.int32),
            skipped=json.dumps(total.skipped),
            pixel_sum=total.pixel_sum,
            product_sum=total.product_sum,
        )
        _write(self._summary_path(split, number), [summary.getvalue()])

    def finish(self) -> None:
        """Join the shards' summaries and give the pack its name.

        Raises:
          InputError: no image of a split could be read.
        """
        splits = {}
        for split, candidates in self.candidates.items():
            total = Chunk.empty(self.side, self.channels)
            sizes, labels, shards = [], [], []
            for number in range(-(-candidates // SHARD_IMAGES)):
                summary = self._summary(split, number)
                sizes.append(summary["sizes"])
                labels.append(summary["labels"])
                shards.append(dict(count=len(sizes[-1]), bytes=int(sizes[-1].sum())))
                total.skipped += json.loads(str(summary["skipped"]))
                total.pixel_sum += summary["pixel_sum"]
                total.product_sum += summary["product_sum"]
            count = sum(map(len, labels))
            if not count:
                raise InputError(f"no image of the {split} split could be read")
            _write_array(self._partial / f"{split}.sizes.npy", np.concatenate(sizes))
            _write_array(self._partial / f"{split}.labels.npy", np.concatenate(labels))
            if split == "train":
                self._write_statistics(total, count)
            splits[split] = dict(count=count, shards=shards, skipped=total.skipped)
        _write(self._partial / "manifest.json", [_to_json(self._plan | {"splits": splits})])
        seal(self._directory)

    def _write_statistics(self, total: Chunk, count: int) -> None:
        pixels = count * self.side**2
        mean = total.pixel_sum.sum(axis=(0, 1)) / pixels
        covariance = total.product_sum / pixels - np.outer(mean, mean)
        mean_image = (total.pixel_sum / count).astype(np.float32)
        _write_array(self._partial / "mean_image.npy", mean_image)
        _write_array(self._partial / "covariance.npy", covariance)

    def _summary(self, split: str, number: int) -> dict[str, np.ndarray]:
        with np.load(self._summary_path(split, number)) as summary:
            return dict(summary)

    def _summary_path(self, split: str, number: int) -> Path:
        return self._partial / f"{split}-{number:05d}.npz"


def seal(directory: Path) -> None:
    """Clear up a pack whose manifest is written, and give it its name."""
    partial = partial_directory(directory)
    for path in [*partial.glob("*.npz"), *partial.glob("*.new"), partial / "plan.json"]:
        path.unlink(missing_ok=True)
    partial.rename(directory)


def _differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Names of the entries that differ, of nested ones with a dot."""
    different = []
    for key in left.keys() | right.keys():
        one, other = left.get(key), right.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            different += [f"{key}.{name}" for name in _differences(one, other)]
        elif one != other:
            different.append(key)
    return sorted(different)


def _write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file so that it is there whole or not at all."""
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _write_array(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()  # NumPy's own writing to a full disk raises without an errno
    np.save(content, array)
    _write(path, [content.getvalue()])


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _shard_path(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number:05d}.records"


def _load(path: Path, directory: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        raise _damaged(directory, f"{path.name} is missing or unreadable") from None


def _damaged(directory: Path, what: str) -> InputError:
    return InputError(
        f"the pack in {directory} is damaged: {what}; delete the folder and prepare it again"
    )
