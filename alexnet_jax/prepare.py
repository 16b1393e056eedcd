"""Prepare the images of a config: convert any source into a pack with its statistics.

    python -m alexnet_jax.prepare --config=configs/alexnet.py:sample

As in section 2 of the paper, each image is scaled so that its shorter side is
config.data.image_size, its central square is cut out, and the mean image is computed over the
training split. config.data.resize=shorter_side keeps the whole image, with the mean of each channel
in place of the mean image; squash scales both sides, as for Caffe's weights. If all images have the
same, smaller size, they are enlarged only with config.data.enlarge=True.

The pack is written to config.data.pack_dir, or to a folder in the user's cache. After an
interruption the same command continues and produces the same bytes. If the user's files have
changed since, the pack in the cache is prepared again, and one in config.data.pack_dir is refused.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_jax import cache, command
from alexnet_jax.data import freshness, images, manifest, pack_checks, pack_writer, sources
from alexnet_jax.data.pack import Pack, open_pack
from alexnet_jax.data.pack_writer import Chunk, PackWriter
from alexnet_jax.data.parallel_map import chunked, ordered_map
from alexnet_jax.data.sources import Example, Source
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError, list_names
from alexnet_jax.fields import Json
from alexnet_jax.files import exclusive_lock, write_errors_as_input_errors
from alexnet_jax.machine import available_cores

RAW_SIDE = 64  # with data.encoding=auto, images up to this side are stored as raw pixels
_CHUNK = 32  # images per call of a worker thread
_LINE_SECONDS = 30  # time between two lines of progress if stderr is not a terminal

# Fields of config.data that affect a pack, besides the folder of the source.
_FIELDS = (
    "name",
    "image_size",
    "enlarge",
    "resize",
    "encoding",
    "jpeg_quality",
    "jpeg_subsampling",
    "validation_share",
    "test_share",
    "split_seed",
)


def pack_dir(data: DataConfig, channels: int | None = None) -> Path:
    """Return the folder of config.data's pack: data.pack_dir, or one in the user's cache.

    Links are resolved, since a pack in the making lies beside its folder and is renamed to it.

    Args:
        data, channels: see `prepare`.
    """
    if data.pack_dir:
        return Path(os.path.realpath(Path(data.pack_dir).expanduser()))
    settings = _settings(data, channels)
    if data.encoding == "auto":  # packs have the names that they had before there was this field
        del settings["encoding"]
    content = json.dumps([manifest.VERSION, settings], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]", "-", data.name)  # TensorFlow Datasets has names with / and :
    return Path(os.path.realpath(cache.directory() / f"{name}-{fingerprint}"))


def prepare(
    data: DataConfig,
    *,
    progress: bool = True,
    workers: int | None = None,
    source_digest: str | None = None,
    channels: int | None = None,
    make: bool = True,
) -> Pack:
    """Open the pack of config.data; make it first if it is missing, unfinished or outdated.

    Two processes may call this at the same time; the second waits for the first.

    Args:
        data: config.data.
        progress: report progress on stderr. Other messages are printed in any case.
        workers: number of threads that decode and scale; None for one per core. It does not
            affect the pack.
        source_digest: digest of the images on which a run was trained, see `Pack.source_digest`;
            None accepts any images.
        channels: channels of the pack, 1 or 3; None for those of the source.
        make: make the pack if necessary; False raises InputError instead.

    Raises:
        InputError: the source, the settings or the pack's folder cannot be used, the images have
            changed, more than data.max_bad_share of a split is unreadable, or the pack cannot be
            written.
    """
    directory = pack_dir(data, channels)
    settings = _required_settings(data, channels)
    # Refuse another pack, or a folder that cannot become one, before listing the source.
    if manifest.find_manifest(directory, settings) is None:
        pack_checks.check_folder(directory)
    source = freshness.current_source(data)
    freshness.check_digest(directory, data, source, source_digest)
    workers = workers or available_cores()
    replaceable = make and not data.pack_dir
    is_current = functools.partial(
        freshness.is_current, directory, settings, data, source, workers, replaceable
    )
    if not make:
        is_current(_print)  # raises InputError if the images have changed
    elif pack_writer.replaced_directory(directory).exists() or not is_current(_print):
        with write_errors_as_input_errors(
            manifest.partial_directory(directory),
            "the finished shards in it are kept. Make room and run the same command again",
            otherwise="set --config.data.pack_dir to a folder that can be written",
        ):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory):
                pack_writer.remove_replaced(directory)
                # Another process may have made it meanwhile, or only the last rename is missing.
                if not (
                    is_current(lambda _: None)
                    or pack_writer.complete_partial(directory, settings, source)
                ):
                    _make(directory, data, channels, source, progress, workers)
    freshness.check_digest(directory, data, source, source_digest)
    return open_pack(directory)


def _settings(data: DataConfig, channels: int | None) -> Json:
    """Return the settings that affect the pack, which its manifest records."""
    settings = {field: getattr(data, field) for field in _FIELDS}
    settings["dir"] = str(sources.location(data))
    return settings if channels is None else {**settings, "channels": channels}


def _required_settings(data: DataConfig, channels: int | None) -> Json:
    """Return the settings in which an existing pack must agree with config.data.

    A finished pack does not need its source, so data.dir need not be given.
    """
    settings = _settings(data, channels)
    if not data.dir or data.name not in sources.FILE_SOURCES:
        del settings["dir"]
    return settings


def _lock(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a pack; wait for it, with a message, if another process holds it."""
    return exclusive_lock(
        manifest.lock_file(directory),
        on_wait=lambda: _print(f"waiting for another process, which is preparing {directory}"),
    )


def _make(
    directory: Path,
    data: DataConfig,
    channels: int | None,
    source: Source | None,
    progress: bool,
    workers: int,
) -> None:
    """Write the pack, except for the shards that are finished."""
    source = source or sources.open_source(data)
    source.channels = channels or source.channels
    for note in source.notes:
        _print(note)
    splits = sources.hold_out(source, data)
    smallest = data.image_size if source.shape is None else min(source.shape)
    side = data.image_size if data.enlarge else min(smallest, data.image_size)
    encoding = "raw" if data.encoding == "raw" or side <= RAW_SIDE else "jpeg"
    if encoding == "jpeg":
        pack_checks.check_jpeg_sides(data, side)
    candidates = {name: len(indices) for name, (_, indices) in splits.items()}
    total = sum(candidates.values())
    if data.encoding == "raw":  # before a plan is written, which would keep to this encoding
        size = total * side**2 * source.channels
        pack_checks.check_room(directory, size)
        _print(f"the pixels of the images take {size / 1e9:.1f} GB")
    writer = PackWriter(
        directory,
        settings=_settings(data, channels),
        source=source,
        side=side,
        encoding=encoding,
        candidates=candidates,
        discard=not data.pack_dir,
    )
    if writer.discarded:
        _print(f"starting the unfinished pack anew: {writer.discarded}")
    with _Progress(total, progress) as report:
        for name, (source_split, indices) in splits.items():
            unreadable = _UnreadableImages(name, data.max_bad_share, len(indices))
            for number, start in enumerate(range(0, len(indices), pack_writer.SHARD_IMAGES)):
                shard_indices = indices[start : start + pack_writer.SHARD_IMAGES]
                finished = writer.finished(name, number)
                if finished is not None:
                    unreadable.add(finished)
                    report.add(len(shard_indices))
                    continue
                examples = source.read(source_split, shard_indices)
                with contextlib.closing(_prepare_chunks(examples, writer, data, workers)) as chunks:
                    writer.write_shard(name, number, _report_chunks(chunks, unreadable, report))
            unreadable.summarize()
    writer.finish()
    for warning in _missing_classes(open_pack(directory)):
        _print(warning)


def _missing_classes(made: Pack) -> Iterator[str]:
    """Yield a line for each split that has no image of some classes."""
    for split in made.splits.values():
        counts = np.bincount(split.labels, minlength=len(made.class_names))
        missing = [made.class_names[label] for label in np.flatnonzero(counts == 0)]
        if missing:
            names = list_names(missing)
            yield f"{split.name}: no images of {len(missing)} of the classes: {names}"


def _print(text: str) -> None:
    """Print a line on stderr, above the progress bar if there is one."""
    tqdm.write(f"prepare: {text}", file=sys.stderr)


def _prepare_chunks(
    examples: Iterator[Example], writer: PackWriter, data: DataConfig, workers: int
) -> Generator[Chunk, None, None]:
    """Yield the prepared images of examples in their order, made by several threads."""
    return ordered_map(
        functools.partial(_prepare_chunk, writer=writer, data=data),
        chunked(examples, _CHUNK),
        workers=workers,
        max_pending=2 * workers,
    )


def _prepare_chunk(examples: list[Example], *, writer: PackWriter, data: DataConfig) -> Chunk:
    """Decode, resize and encode some images, in a worker thread."""
    side, channels = writer.side, writer.channels
    chunk = Chunk.empty(writer.sum_shape)
    for example in examples:
        chunk.contents.append(freshness.checksum_of_file(example.image))
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


def _report_chunks(
    chunks: Iterator[Chunk], unreadable: "_UnreadableImages", report: "_Progress"
) -> Iterator[Chunk]:
    """Yield the chunks, after reporting their images."""
    for chunk in chunks:
        for name in chunk.skipped:
            _print(f"{unreadable.split}: cannot read {name}; skipped")
        unreadable.add(chunk.skipped)
        report.add(len(chunk.labels) + len(chunk.skipped))
        yield chunk


class _UnreadableImages:
    """Collect the unreadable images of a split, and raise InputError if there are too many."""

    def __init__(self, split: str, share: float, candidates: int):
        self.split = split
        self._share = share
        self._candidates = candidates
        self._names: list[str] = []

    def add(self, names: list[str]) -> None:
        """Add names of unreadable images.

        Raises:
            InputError: there are more than the allowed share.
        """
        self._names += names
        if len(self._names) > self._share * self._candidates:
            first = "\n    ".join(self._names[:10])
            raise InputError(
                f"{len(self._names)} of the {self._candidates} images of the {self.split} split "
                f"cannot be read, more than --config.data.max_bad_share={self._share}; repair or "
                f"remove them, or allow more. They are\n    {first}"
                + ("\n    …" if len(self._names) > 10 else "")
            )

    def summarize(self) -> None:
        """Print how many images were skipped, if any."""
        if self._names:
            _print(
                f"{self.split}: {len(self._names)} of {self._candidates} images could not be read "
                "and were skipped; the pack's manifest.json lists them"
            )


class _Progress:
    """Progress on stderr: a bar on a terminal, elsewhere a line every `_LINE_SECONDS`."""

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
            _print(f"{self._done} of {self._total} images")

    def add(self, count: int) -> None:
        """Count images, and show the progress."""
        self._done += count
        self._bar.update(count)
        if self._lines and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            _print(f"{self._done} of {self._total} images")


def main(_: list[str]) -> None:
    """Prepare the pack of --config and print a summary."""
    images.ignore_pillow_warnings()
    made = prepare(command.validated_config().data)
    counts = ", ".join(f"{split.count} {name}" for name, split in made.splits.items())
    splits = made.splits.values()
    is_square = all((split.shapes == made.side).all() for split in splits)
    other_side = str(made.side) if is_square else f"{max(s.shapes.max() for s in splits)} or less"
    print(
        f"{made.directory}: {counts} images, {len(made.class_names)} classes, "
        f"{made.side}×{other_side}×{made.channels}, {made.encoding}"
    )


if __name__ == "__main__":
    command.define_config()
    command.run(main)
