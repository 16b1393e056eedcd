"""Prepare the images of a config: any source to a pack and its statistics.

    python -m alexnet_jax.prepare --config=configs/alexnet.py:sample

As in section 2 of the paper, images are scaled so that the shorter side is
config.data.image_size and cut to the central square (config.data.resize=squash makes a square of
the whole image, as for Caffe), and their mean is taken over the training split. Sets whose images
all have one smaller size keep it. The pack lies in config.data.pack_dir, or in a folder of the
user's cache. After an interruption the same command continues where it stopped, to the same bytes.
A finished pack does not follow later changes of its source: delete the pack's folder to have it
made again.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax import cache, command
from alexnet_jax.data import images, pack, sources
from alexnet_jax.data.pack import Chunk, Pack, PackWriter
from alexnet_jax.data.parallel_map import available_cores, ordered_map
from alexnet_jax.data.sources import Example
from alexnet_jax.errors import InputError

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
RESIZES = ("crop", "squash")
RAW_SIDE = 64  # images up to this side are stored as raw pixels, larger ones as JPEG
# Permission denied, read-only, not permitted, and a file where a folder should be.
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_CHUNK = 32  # images that a worker takes at once
_LINE_SECONDS = 30  # between two lines of progress where there is no terminal

# The fields of config.data that shape a pack, beside the source's folder.
_FIELDS = (
    "name",
    "image_size",
    "resize",
    "jpeg_quality",
    "jpeg_subsampling",
    "validation_share",
    "test_share",
    "split_seed",
)


def pack_dir(data: ConfigDict) -> Path:
    """Where the pack of config.data lies: data.pack_dir, or a folder of the user's cache."""
    if data.pack_dir:
        return Path(data.pack_dir).expanduser().absolute()
    content = json.dumps([pack.VERSION, _settings(data)], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]", "-", data.name)  # TensorFlow Datasets has names with / and :
    return cache.directory() / f"{name}-{fingerprint}"


def prepare(data: ConfigDict, *, progress: bool = True, workers: int | None = None) -> Pack:
    """Open the pack of config.data; where it is not there or unfinished, make it first.

    Two processes may call this at once: the second waits for the first.

    Args:
      data: config.data.
      progress: report on stderr; unreadable images are named there in any case.
      workers: threads that decode and scale, None for one per core. No effect on the pack.

    Raises:
      InputError: the source, the settings or the pack's folder cannot be used, more than
        data.max_bad_share of a split is unreadable, or the disk is full.
    """
    directory = pack_dir(data)
    if not _is_there(directory, data):
        partial = pack.partial_directory(directory)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory):
                if not _is_there(directory, data):
                    _make(directory, data, progress, workers or available_cores())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"the disk is full: {partial}; the finished shards in it are kept. Make room "
                    "and run the same command again"
                ) from error
            if error.errno in _UNWRITABLE:
                raise InputError(
                    f"cannot write the pack: {error}; set --config.data.pack_dir to a folder "
                    "that can be written"
                ) from error
            raise
    return pack.open_pack(directory)


def _settings(data: ConfigDict) -> dict[str, Any]:
    """What shapes the pack; kept in its manifest."""
    return {field: data[field] for field in _FIELDS} | {"dir": str(sources.location(data))}


def _is_there(directory: Path, data: ConfigDict) -> bool:
    """Whether `directory` holds a complete pack of these settings.

    Raises:
      InputError: it holds a pack of others, or something else.
    """
    manifest = pack.read_manifest(directory)
    if manifest is not None:
        _check_same(directory, manifest["settings"], data)
        return True
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"{directory} is neither a pack nor an empty folder; "
            "set --config.data.pack_dir to a folder for the pack alone"
        )
    return False


def _check_same(directory: Path, made: dict[str, Any], data: ConfigDict) -> None:
    wanted = _settings(data)
    if not data.dir or data.name not in ("folder", "idx"):
        wanted["dir"] = made["dir"]  # a pack needs its source no more, and may be used without
    different = [
        f"config.data.{field} is {wanted[field]!r}, there it is {made.get(field)!r}"
        for field in wanted
        if made.get(field) != wanted[field]
    ]
    if different:
        raise InputError(
            f"the pack in {directory} was made with other settings: {'; '.join(different)}. "
            "Set the same, or another --config.data.pack_dir, or delete the folder"
        )


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Hold DIRECTORY.lock; another process that wants it waits, and says so."""
    path = directory.with_name(directory.name + ".lock")
    file = _locked_file(path, directory)
    while file is None:
        file = _locked_file(path, directory)
    try:
        yield
    finally:
        path.unlink()
        os.close(file)


def _locked_file(path: Path, directory: Path) -> int | None:
    """The lock's descriptor; None if who held it before has removed the file meanwhile."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"waiting for another process, which is preparing {directory}")
        fcntl.flock(file, fcntl.LOCK_EX)
    if os.fstat(file).st_nlink:
        return file
    os.close(file)
    return None


def _make(directory: Path, data: ConfigDict, progress: bool, workers: int) -> None:
    """Write the pack, or what is missing of it."""
    partial = pack.partial_directory(directory)
    if (manifest := pack.read_manifest(partial)) is not None:  # interrupted in the last steps
        _check_same(partial, manifest["settings"], data)
        pack.seal(directory)
        return
    _check_fields(data)
    # Broken EXIF data and the like; it does not hurt the pixels.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        source = sources.open_source(data)
    except OSError as error:
        raise InputError(f"cannot read the images of --config.data.dir: {error}") from error
    splits = sources.hold_out(source, data)
    keeps_size = source.shape is not None and min(source.shape) < data.image_size
    side = min(source.shape) if source.shape and keeps_size else data.image_size
    writer = PackWriter(
        directory,
        settings=_settings(data),
        class_names=source.class_names,
        side=side,
        channels=source.channels,
        encoding="raw" if side <= RAW_SIDE else "jpeg",
        candidates={name: len(indices) for name, (_, indices) in splits.items()},
        digest=source.digest,
    )
    total = sum(writer.candidates.values())
    with _Progress(total, progress) as report:
        for name, (source_split, indices) in splits.items():
            bad = _BadImages(name, data.max_bad_share, len(indices))
            for number, start in enumerate(range(0, len(indices), pack.SHARD_IMAGES)):
                some = indices[start : start + pack.SHARD_IMAGES]
                finished = writer.finished(name, number)
                if finished is not None:
                    bad.add(finished)
                    report.add(len(some))
                    continue
                chunks = ordered_map(
                    functools.partial(_prepare_chunk, writer=writer, data=data),
                    _chunks(source.read(source_split, some)),
                    workers=workers,
                    ahead=2 * workers,
                )
                with contextlib.closing(chunks):
                    writer.write_shard(name, number, _watched(chunks, bad, report))
            bad.summarise()
    writer.finish()


def _say(text: str) -> None:
    tqdm.write(f"prepare: {text}", file=sys.stderr)  # above the bar, if there is one


def _check_fields(data: ConfigDict) -> None:
    for field, good, expected in (
        ("image_size", data.image_size >= 1, "1 or more"),
        ("resize", data.resize in RESIZES, " or ".join(RESIZES)),
        ("jpeg_quality", 1 <= data.jpeg_quality <= 100, "1 to 100"),
        ("jpeg_subsampling", data.jpeg_subsampling in SUBSAMPLINGS, ", ".join(SUBSAMPLINGS)),
        ("max_bad_share", 0 <= data.max_bad_share <= 1, "0 to 1"),
    ):
        if not good:
            raise InputError(f"--config.data.{field}={data[field]} should be {expected}")


def _chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while chunk := list(itertools.islice(examples, _CHUNK)):
        yield chunk


def _prepare_chunk(examples: list[Example], *, writer: PackWriter, data: ConfigDict) -> Chunk:
    """Read, scale, cut and encode some images; runs in a worker."""
    side, channels = writer.side, writer.channels
    chunk = Chunk.empty(side, channels)
    for example in examples:
        try:
            pixels = images.load(example.image, side=side, channels=channels, resize=data.resize)
        except images.UnreadableImageError as error:
            chunk.skipped.append(f"{example.name} ({error})")
            continue
        if writer.encoding == "raw":
            record = pixels.tobytes()
        else:
            record = images.to_jpeg(pixels, data.jpeg_quality, data.jpeg_subsampling)
        chunk.add(record, example.label, pixels)
    return chunk


def _watched(chunks: Iterator[Chunk], bad: "_BadImages", report: "_Progress") -> Iterator[Chunk]:
    for chunk in chunks:
        for name in chunk.skipped:
            _say(f"{bad.split}: cannot read {name}; skipped")
        bad.add(chunk.skipped)
        report.add(len(chunk.labels) + len(chunk.skipped))
        yield chunk


class _BadImages:
    """Counts the unreadable images of a split and stops when they are too many."""

    def __init__(self, split: str, share: float, candidates: int):
        self.split = split
        self._share = share
        self._candidates = candidates
        self._names: list[str] = []

    def add(self, names: list[str]) -> None:
        self._names += names
        if len(self._names) > self._share * self._candidates:
            first = "\n    ".join(self._names[:10])
            raise InputError(
                f"{len(self._names)} of the {self._candidates} images of the {self.split} split "
                f"cannot be read, more than --config.data.max_bad_share={self._share}; mend or "
                f"remove them, or allow more. They are\n    {first}"
                + ("\n    …" if len(self._names) > 10 else "")
            )

    def summarise(self) -> None:
        if self._names:
            _say(
                f"{self.split}: {len(self._names)} of {self._candidates} images could not be read "
                "and were skipped; the pack's manifest.json lists them"
            )


class _Progress:
    """A bar on a terminal, a line now and then elsewhere; on stderr."""

    def __init__(self, total: int, shown: bool):
        self._total = total
        self._done = 0
        self._lines = shown and not sys.stderr.isatty()
        self._next = time.monotonic() + _LINE_SECONDS
        self._bar = tqdm(
            total=total, unit=" images", desc="prepare", disable=not shown or self._lines
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._lines:
            _say(f"{self._done} of {self._total} images")

    def add(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._lines and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            _say(f"{self._done} of {self._total} images")


def main(_: list[str]) -> None:
    """Prepare the pack of --config and print what it holds."""
    made = prepare(flags.FLAGS.config.data)
    counts = ", ".join(f"{split.count} {name}" for name, split in made.splits.items())
    print(
        f"{made.directory}: {counts} images, {len(made.class_names)} classes, "
        f"{made.side}×{made.side}×{made.channels}, {made.encoding}"
    )


if __name__ == "__main__":
    command.define_config()
    command.run(main)
