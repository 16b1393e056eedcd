"""Write packs shard by shard, and continue after interruptions."""

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.pack import (
    FORMAT,
    VERSION,
    check_settings,
    partial_directory,
    read_manifest,
    shard_path,
)
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json, differences
from alexnet_jax.files import write_atomically

SHARD_IMAGES = 8192  # images per shard, including unreadable ones


@dataclasses.dataclass
class Chunk:
    """Consecutive prepared images and their sums.

    The sums are integers, so that the mean does not depend on the order of additions.

    Attributes:
        records: Records of the readable images.
        labels: Labels of the readable images.
        skipped: Names of the unreadable images.
        pixel_sum: Sum of the images, (side, side, channels) int64.
        product_sum: Sum of the products of channels over all pixels, (channels, channels) int64.
    """

    records: list[bytes]
    labels: list[int]
    skipped: list[str]
    pixel_sum: np.ndarray
    product_sum: np.ndarray

    @classmethod
    def empty(cls, side: int, channels: int) -> "Chunk":
        """Return a chunk without images, for images of (side, side, channels)."""
        zeros = np.zeros((side, side, channels), np.int64)
        return cls([], [], [], zeros, np.zeros((channels, channels), np.int64))

    def add(self, record: bytes, label: int, pixels: np.ndarray) -> None:
        """Append an image and add its pixels, (side, side, channels) uint8, to the sums."""
        self.records.append(record)
        self.labels.append(label)
        self.pixel_sum += pixels
        # float64 is exact, since an image's sums of products are far below 2^53. The layout is
        # (channels, pixels), since the product of (pixels, channels) takes three times as long.
        planes = pixels.transpose(2, 0, 1).astype(np.float64, order="C")
        self.product_sum += np.vecdot(planes[:, None], planes).sum(axis=-1).astype(np.int64)


class PackWriter:
    """Writes a pack to DIRECTORY.partial, shard by shard.

    A shard is finished when its summary exists, an .npz file with the sizes and labels of its
    records, the names of skipped images, and the sums.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Json,
        class_names: tuple[str, ...],
        side: int,
        channels: int,
        encoding: str,
        candidates: dict[str, int],
        digest: str,
    ):
        """Begin a pack, or continue an unfinished one.

        Args:
            directory: Folder of the complete pack.
            settings: Settings with which the pack is made.
            class_names: Names of the classes in the order of the labels.
            side: Side of the images in pixels.
            channels: 1 or 3.
            encoding: "jpeg" or "raw".
            candidates: Number of images of each split, including unreadable ones.
            digest: Hash of the source's listing.

        Raises:
            InputError: The unfinished pack has other settings or another source.
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
            write_atomically(path, _to_json(self._plan))
        begun = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(path for path, _, _ in differences(begun, self._plan))
        if different:
            raise InputError(
                f"{self._partial} holds an unfinished pack of other settings or of a source that "
                f"has changed since ({', '.join(different)}); delete that folder, or set another "
                "--config.data.pack_dir"
            )

    def finished(self, split: str, number: int) -> list[str] | None:
        """Return the names of the images skipped in a shard, or None if it is not finished."""
        if not self._summary_path(split, number).exists():
            return None
        skipped: list[str] = json.loads(str(self._summary(split, number)["skipped"]))
        return skipped

    def write_shard(self, split: str, number: int, chunks: Iterable[Chunk]) -> None:
        """Write a shard, with one chunk in memory at a time."""
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

        write_atomically(shard_path(self._partial, split, number), records())
        summary = io.BytesIO()
        np.savez(
            summary,
            sizes=np.array(sizes, np.int32),
            labels=np.array(total.labels, np.int32),
            skipped=json.dumps(total.skipped),
            pixel_sum=total.pixel_sum,
            product_sum=total.product_sum,
        )
        write_atomically(self._summary_path(split, number), summary.getvalue())

    def finish(self) -> None:
        """Merge the shards' summaries and rename the folder to the pack's name.

        Raises:
            InputError: No image of a split could be read.
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
        write_atomically(self._partial / "manifest.json", _to_json(self._plan | {"splits": splits}))
        seal(self._directory)

    def _write_statistics(self, total: Chunk, count: int) -> None:
        """Write the mean image and the covariance of the training split."""
        pixels = count * self.side**2
        mean = total.pixel_sum.sum(axis=(0, 1)) / pixels
        covariance = total.product_sum / pixels - np.outer(mean, mean)
        mean_image = (total.pixel_sum / count).astype(np.float32)
        _write_array(self._partial / "mean_image.npy", mean_image)
        _write_array(self._partial / "covariance.npy", covariance)

    def _summary(self, split: str, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of a shard's summary."""
        with np.load(self._summary_path(split, number)) as summary:
            return dict(summary)

    def _summary_path(self, split: str, number: int) -> Path:
        """Return the path of a shard's summary."""
        return self._partial / f"{split}-{number:05d}.npz"


def complete_partial(directory: Path, settings: Json) -> bool:
    """Rename the folder of a pack that is complete but for that; return whether there was one.

    Raises:
        InputError: The pack was made with other settings; see `pack.contains_pack`.
    """
    partial = partial_directory(directory)
    manifest = read_manifest(partial)
    if manifest is None:
        return False
    check_settings(partial, manifest["settings"], settings)
    seal(directory)
    return True


def seal(directory: Path) -> None:
    """Remove the temporary files of a pack whose manifest is written, and rename its folder."""
    partial = partial_directory(directory)
    for path in [*partial.glob("*.npz"), *partial.glob(".*.new.*"), partial / "plan.json"]:
        path.unlink(missing_ok=True)
    partial.rename(directory)


def _write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy file."""
    content = io.BytesIO()  # since np.save to a file raises an OSError without errno on full disks
    np.save(content, array)
    write_atomically(path, content.getvalue())


def _to_json(content: Json) -> str:
    """Return a JSON object as text."""
    return json.dumps(content, indent=1) + "\n"
