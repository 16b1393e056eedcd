"""Write packs shard by shard, and continue after interruptions."""

import dataclasses
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.manifest import (
    EARLIER_SETTINGS,
    FORMAT,
    VERSION,
    check_settings,
    partial_directory,
    read_manifest,
    shard_path,
)
from alexnet_jax.data.sources import Source
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json, differences
from alexnet_jax.files import DamagedArrayError, parse_arrays, read_json, write_atomically

SHARD_IMAGES = 8192  # images per shard, including unreadable ones
_FILES = ("manifest.json", "plan.json", "*.records", "*.npy", "*.npz", ".*.new*")
_SUMMARY = {
    *("sizes", "labels", "shapes", "crc32", "contents", "skipped", "pixel_sum", "product_sum")
}


@dataclasses.dataclass
class Chunk:
    """Consecutive prepared images and their sums.

    The sums are integers, so that the mean does not depend on the order of additions.

    Attributes:
        records: records of the readable images.
        labels: labels of the readable images.
        shapes: heights and widths of the readable images.
        skipped: names of the unreadable images.
        contents: checksums of the files of all images, in their order.
        pixel_sum: sum of the images, (side, side, channels) int64; of their pixels, (1, 1,
            channels), if they differ in shape.
        product_sum: sum of the products of channels over all pixels, (channels, channels) int64.
    """

    records: list[bytes]
    labels: list[int]
    shapes: list[tuple[int, int]]
    skipped: list[str]
    contents: list[int]
    pixel_sum: np.ndarray
    product_sum: np.ndarray

    @classmethod
    def empty(cls, sum_shape: tuple[int, int, int]) -> "Chunk":
        """Return a chunk without images, whose `pixel_sum` has a shape."""
        *_, channels = sum_shape
        products = np.zeros((channels, channels), np.int64)
        return cls([], [], [], [], [], np.zeros(sum_shape, np.int64), products)

    def add(self, record: bytes, label: int, pixels: np.ndarray) -> None:
        """Append an image and add its pixels, (height, width, channels) uint8, to the sums."""
        height, width, _ = pixels.shape
        self.records.append(record)
        self.labels.append(label)
        self.shapes.append((height, width))
        is_image = pixels.shape == self.pixel_sum.shape
        self.pixel_sum += pixels if is_image else pixels.sum(axis=(0, 1), dtype=np.int64)
        # float64 is exact, since an image's sums of products are far below 2^53. The layout is
        # (channels, pixels), since the product of (pixels, channels) takes three times as long.
        planes = pixels.transpose(2, 0, 1).astype(np.float64, order="C")
        self.product_sum += np.vecdot(planes[:, None], planes).sum(axis=-1).astype(np.int64)


class PackWriter:
    """Write a pack to DIRECTORY.partial, shard by shard.

    A shard is finished when its summary exists, an .npz file with the sizes, labels, checksums and
    shapes of its records, the names of skipped images, the checksums of the images' files, and the
    sums.

    Attributes:
        side, channels, encoding, candidates: see the constructor.
        sum_shape: shape of the sums of images, see `Chunk`.
        discarded: why the unfinished pack found there was discarded; "" if it was not.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Json,
        source: Source,
        side: int,
        encoding: str,
        candidates: dict[str, int],
        discard: bool,
    ):
        """Begin a pack, or continue an unfinished one.

        Args:
            directory: folder of the complete pack.
            settings: settings with which the pack is made.
            source: the source of the images.
            side: length of the shorter side of the images in pixels.
            encoding: "jpeg" or "raw".
            candidates: number of images of each split, including unreadable ones.
            discard: discard an unfinished pack of other settings or of another source.

        Raises:
            InputError: the unfinished pack has other settings or another source, and `discard` is
                False.
        """
        self.side, self.channels, self.encoding = side, source.channels, encoding
        self.candidates = candidates
        self._keeps_shapes = settings["resize"] == "shorter_side"
        sum_side = 1 if self._keeps_shapes else side
        self.sum_shape = sum_side, sum_side, self.channels
        self._directory = directory
        self._partial = partial_directory(directory)
        self._plan: Json = dict(
            format=FORMAT,
            version=VERSION,
            settings=settings,
            class_names=list(source.class_names),
            side=side,
            channels=source.channels,
            encoding=encoding,
            candidates=candidates,
            shard_images=SHARD_IMAGES,
            source_digest=source.digest,
            source_stamp=source.stamp,
            source_counts=source.counts,
        )
        path = self._partial / "plan.json"
        self.discarded = self._discard_other_plan(path, allowed=discard)
        self._partial.mkdir(exist_ok=True)
        if not path.exists():
            write_atomically(path, _to_json(self._plan))

    def _discard_other_plan(self, path: Path, *, allowed: bool) -> str:
        """Delete an unfinished pack whose plan is another one; return why, or "" if there is none.

        Args:
            path: file with its plan.
            allowed: it may be deleted although its plan can be read.

        Raises:
            InputError: it may not be deleted.
        """
        different = self._compare_plan(path) if self._partial.is_dir() else []
        if not different:
            return ""
        if not (allowed or different == ["plan.json"]):
            raise InputError(
                f"{self._partial} holds an unfinished pack of other settings or of a source that "
                f"has changed since ({', '.join(different)}); delete that folder, or set another "
                "--config.data.pack_dir"
            )
        _delete(self._partial)
        return f"{', '.join(different)} differ or cannot be read"

    def _compare_plan(self, path: Path) -> list[str]:
        """Return the fields in which the plan of an unfinished pack differs from this one's.

        A plan that cannot be read differs in "plan.json"; without any, nothing was begun.
        """
        try:
            begun = read_json(path)
        except FileNotFoundError:
            return ["plan.json"] if any(self._partial.iterdir()) else []
        except ValueError:
            begun = None
        if not isinstance(begun, dict) or not isinstance(begun.get("settings"), dict):
            return ["plan.json"]
        made, order = EARLIER_SETTINGS | begun["settings"], self._plan["settings"]
        begun["settings"] = {field: made[field] for field in order if field in made} | made
        return sorted(path for path, _, _ in differences(begun, self._plan))

    def finished(self, split: str, number: int) -> list[str] | None:
        """Return the names of the images skipped in a shard, or None if it is not finished."""
        summary = self._summary(split, number)
        if summary is None:
            return None
        skipped: list[str] = json.loads(str(summary["skipped"]))
        return skipped

    def write_shard(self, split: str, number: int, chunks: Iterable[Chunk]) -> None:
        """Write a shard, with one chunk in memory at a time."""
        total = Chunk.empty(self.sum_shape)
        sizes: list[int] = []
        sums: list[int] = []

        def records() -> Iterator[bytes]:
            for chunk in chunks:
                total.labels += chunk.labels
                total.shapes += chunk.shapes
                total.skipped += chunk.skipped
                total.contents += chunk.contents
                total.pixel_sum += chunk.pixel_sum
                total.product_sum += chunk.product_sum
                sizes.extend(map(len, chunk.records))
                sums.extend(map(zlib.crc32, chunk.records))
                yield from chunk.records

        write_atomically(shard_path(self._partial, split, number), records())
        summary = io.BytesIO()
        np.savez(
            summary,
            sizes=np.array(sizes, np.int32),
            crc32=np.array(sums, np.uint32),
            contents=np.array(total.contents, np.uint32),
            labels=np.array(total.labels, np.int32),
            shapes=np.array(total.shapes, np.int32).reshape(-1, 2),
            skipped=json.dumps(total.skipped),
            pixel_sum=total.pixel_sum,
            product_sum=total.product_sum,
        )
        write_atomically(self._summary_path(split, number), summary.getvalue())

    def finish(self) -> None:
        """Merge the shards' summaries and rename the folder to the pack's name.

        Raises:
            InputError: no image of a split could be read.
        """
        splits: Json = {}
        arrays: dict[str, np.ndarray] = {}
        for split, candidates in self.candidates.items():
            splits[split], merged = self._merge_summaries(split, candidates)
            arrays |= merged
        sums = {
            f"{name}.npy": _write_array(self._partial / f"{name}.npy", array)
            for name, array in arrays.items()
        }
        manifest = self._plan | {"arrays": sums, "splits": splits}
        write_atomically(self._partial / "manifest.json", _to_json(manifest))
        seal(self._directory)

    def _merge_summaries(self, split: str, candidates: int) -> tuple[Json, dict[str, np.ndarray]]:
        """Return the entry of a split in the manifest, and its arrays by the names of their files.

        Args:
            split: name of the split.
            candidates: number of its images, including unreadable ones.

        Raises:
            InputError: no image could be read.
        """
        total = Chunk.empty(self.sum_shape)
        parts: dict[str, list[np.ndarray]] = {
            kind: [] for kind in ("labels", "sizes", "crc32", "shapes")
        }
        shards, contents = [], 0
        for number in range(-(-candidates // SHARD_IMAGES)):
            summary = self._summary(split, number)
            assert summary is not None, "all shards have been written"
            for kind, part in parts.items():
                part.append(summary[kind])
            sizes = summary["sizes"]
            shards.append(dict(count=len(sizes), bytes=int(sizes.sum())))
            contents = zlib.crc32(summary["contents"].tobytes(), contents)
            total.skipped += json.loads(str(summary["skipped"]))
            total.pixel_sum += summary["pixel_sum"]
            total.product_sum += summary["product_sum"]
        merged = {kind: np.concatenate(part) for kind, part in parts.items()}
        count = len(merged["labels"])
        if not count:
            raise InputError(f"no image of the {split} split could be read")
        entry = dict(count=count, shards=shards, skipped=total.skipped, contents=contents)
        statistics = self._compute_statistics(total, merged["shapes"]) if split == "train" else {}
        if not self._keeps_shapes:
            del merged["shapes"]  # all are side × side
        return entry, {f"{split}.{kind}": array for kind, array in merged.items()} | statistics

    def _compute_statistics(self, total: Chunk, shapes: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean image and the covariance of the training split.

        Args:
            total: sums over the split.
            shapes: (count, 2) heights and widths of its images.
        """
        pixels = int(shapes.prod(axis=1, dtype=np.int64).sum())
        mean = total.pixel_sum.sum(axis=(0, 1)) / pixels
        covariance = total.product_sum / pixels - np.outer(mean, mean)
        mean_image = mean if self._keeps_shapes else total.pixel_sum / len(shapes)
        shape = (self.side, self.side, self.channels)
        mean_image = np.broadcast_to(mean_image.astype(np.float32), shape)
        return {"mean_image": mean_image, "covariance": covariance}

    def _summary(self, split: str, number: int) -> dict[str, np.ndarray] | None:
        """Return the arrays of a shard's summary; None if the shard is unfinished or damaged."""
        try:
            summary = parse_arrays(self._summary_path(split, number).read_bytes())
            size = shard_path(self._partial, split, number).stat().st_size
        except (FileNotFoundError, DamagedArrayError):
            return None
        is_complete = {*summary} == _SUMMARY and int(summary["sizes"].sum()) == size
        return summary if is_complete else None

    def _summary_path(self, split: str, number: int) -> Path:
        """Return the path of a shard's summary."""
        return self._partial / f"{split}-{number:05d}.npz"


def complete_partial(directory: Path, settings: Json, source: Source | None) -> bool:
    """Rename the folder of a pack that is complete but for that; return whether there was one.

    A pack that was made from another listing of the source is deleted instead. A damaged manifest
    is deleted, too, so that the pack counts as unfinished.

    Raises:
        InputError: the pack was made with other settings; see `manifest.find_manifest`.
    """
    partial = partial_directory(directory)
    try:
        manifest = read_manifest(partial)
    except InputError:
        (partial / "manifest.json").unlink()  # the shards may be whole
        return False
    if manifest is None:
        return False
    check_settings(partial, manifest["settings"], settings)
    if source is not None and source.stamp != manifest["source_stamp"]:
        _delete(partial)
        return False
    seal(directory)
    return True


def replaced_directory(directory: Path) -> Path:
    """Return the folder to which a pack is moved while another one takes its place."""
    return directory.with_name(directory.name + ".replaced")


def seal(directory: Path) -> None:
    """Remove the temporary files of a pack whose manifest is written, and rename its folder.

    A pack in that place is moved away first and then deleted. After an interruption in between,
    the new one is complete but for its name.
    """
    partial = partial_directory(directory)
    for path in [*partial.glob("*.npz"), *partial.glob(".*.new.*"), partial / "plan.json"]:
        path.unlink(missing_ok=True)
    if (directory / "manifest.json").exists():
        remove_replaced(directory)
        directory.rename(replaced_directory(directory))
    partial.rename(directory)
    remove_replaced(directory)


def remove_replaced(directory: Path) -> None:
    """Delete a pack that another one has replaced; the caller holds the lock."""
    if replaced_directory(directory).exists():
        _delete(replaced_directory(directory))


def _delete(directory: Path) -> None:
    """Delete the folder of a pack.

    Raises:
        InputError: the folder holds other files, too, which are kept.
    """
    for path in {file for pattern in _FILES for file in directory.glob(pattern)}:
        path.unlink()
    try:
        directory.rmdir()
    except OSError as error:
        raise InputError(
            f"{directory} is not the folder of a pack alone ({error.strerror}); move it away"
        ) from None


def _write_array(path: Path, array: np.ndarray) -> int:
    """Write an array as .npy file and return the file's checksum."""
    content = io.BytesIO()  # since np.save to a file raises an OSError without errno on full disks
    np.save(content, array)
    write_atomically(path, content.getvalue())
    return zlib.crc32(content.getvalue())


def _to_json(content: Json) -> str:
    """Return a JSON object as text."""
    return json.dumps(content, indent=1) + "\n"
