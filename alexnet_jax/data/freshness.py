"""Compare packs with the images that they were made from, to notice changes of these.

A pack records the digest of its source's listing, a stamp that also covers the files' times of
change, and a checksum of their contents. Contents are read again only if nothing but times differs.
"""

import contextlib
import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet_jax.data.manifest import (
    describe_changes,
    find_manifest,
    lock_file,
    read_manifest,
)
from alexnet_jax.data.parallel_map import chunked, ordered_map
from alexnet_jax.data.sources import FILE_SOURCES, Example, Source, hold_out, location, open_source
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Json
from alexnet_jax.files import exclusive_lock, write_atomically

_BLOCK = 2**20  # bytes read at once
_FILES = 256  # files per call of a worker thread


def current_source(data: DataConfig) -> Source | None:
    """Return the source with which packs are compared; None if there is none.

    The sample and the sets of TensorFlow Datasets do not change under one name and version. A
    finished pack does not need its source.

    Raises:
        InputError: the source cannot be listed.
    """
    if data.name not in FILE_SOURCES or not data.dir or not location(data).is_dir():
        return None
    return open_source(data)


def is_current(
    directory: Path,
    settings: Json,
    data: DataConfig,
    source: Source | None,
    workers: int,
    replaceable: bool,
    report: Callable[[str], None],
) -> bool:
    """Return whether there is a complete pack, of the source as it is now.

    If the source is gone, its pack is current.

    Args:
        directory: folder of the pack.
        settings: settings in which the pack must agree.
        data: config.data.
        source: result of `current_source`.
        workers: number of threads that read files.
        replaceable: whether the caller may make the pack again.
        report: function that prints what has changed.

    Raises:
        InputError: there is a pack of other settings, or the images have changed and the pack is
            not replaceable.
    """
    found = find_manifest(directory, settings)
    if found is None:
        return False
    if source is None:
        if data.name in FILE_SOURCES and data.dir:
            report(f"{location(data)} does not exist; using the pack that was made from it")
        return True
    if source.stamp == found["source_stamp"]:
        return True
    changes = describe_changes(found, source)
    if not changes:
        report("files have other times of change than when their pack was made; reading them")
        if not _contents_differ(found, source, hold_out(source, data), workers):
            _record_stamp(directory, found, source.stamp)
            return True
        changes = "the contents of files differ"
    if not replaceable:
        remedy = "Prepare them again with python -m alexnet_jax.prepare"
        if data.pack_dir:
            remedy = (
                "Delete the pack's folder to prepare it again, set another --config.data.pack_dir, "
                "or leave --config.data.dir empty to use the pack as it is"
            )
        raise InputError(
            f"the images in {location(data)} have changed since the pack in {directory} was made "
            f"from them: {changes}. {remedy}"
        )
    report(
        f"the images in {location(data)} have changed since their pack was made: {changes}. "
        "Preparing them again"
    )
    return False


def _record_stamp(directory: Path, found: Json, stamp: str) -> None:
    """Record the stamp of a source with which a pack has been compared, if that is possible.

    Another process may have replaced the pack since its manifest was read, or may be about to.

    Args:
        directory: folder of the pack, which may be read-only.
        found: its manifest as it was when the comparison began.
        stamp: stamp of the source.
    """
    with contextlib.suppress(OSError), exclusive_lock(lock_file(directory)):
        if read_manifest(directory) == found:
            text = json.dumps(found | {"source_stamp": stamp}, indent=1) + "\n"
            write_atomically(directory / "manifest.json", text)


def check_digest(
    directory: Path, data: DataConfig, source: Source | None, digest: str | None
) -> None:
    """Raise InputError if the images are not those on which a run was trained.

    Args:
        directory: folder of the pack, which is compared if there is no source.
        data: config.data.
        source: result of `current_source`.
        digest: digest of the images on which the run was trained; None accepts all.
    """
    made = read_manifest(directory)
    made_from = made["source_digest"] if made else None
    actual = made_from if source is None else source.digest
    if digest is None or actual in (None, digest):
        return
    changes = ""
    if source is not None and made is not None and made_from == digest:
        changes = f": {describe_changes(made, source)}"
    raise InputError(
        f"the images of {data.name} {data.dir or directory} are not those on which the run was "
        f"trained{changes}. Restore them, or train on these in another --workdir"
    )


def checksum_of_file(image: Path | bytes | np.ndarray) -> int:
    """Return the CRC-32 of a file; 0 if it cannot be read, or for an image in memory."""
    if not isinstance(image, Path):
        return 0
    total = 0
    try:
        with image.open("rb") as file:
            while block := file.read(_BLOCK):
                total = zlib.crc32(block, total)
    except OSError:  # decoding reports the error
        return 0
    return total


def _contents_differ(
    manifest: Json, source: Source, splits: dict[str, tuple[str, np.ndarray]], workers: int
) -> bool:
    """Return whether files have other contents than when a pack was made from them.

    Args:
        manifest: manifest of the pack.
        source: the source, with the listing that the pack was made from.
        splits: result of `sources.hold_out` for it.
        workers: number of threads that read files.
    """
    return any(
        _checksum_of_split(source, *splits[name], workers) != split["contents"]
        for name, split in manifest["splits"].items()
    )


def _checksum_of_split(source: Source, name: str, indices: np.ndarray, workers: int) -> int:
    """Return the checksum of the checksums of all files of a split."""
    parts = ordered_map(
        _checksums,
        chunked(source.read(name, indices), _FILES),
        workers=workers,
        max_pending=2 * workers,
    )
    return functools.reduce(lambda total, part: zlib.crc32(part, total), parts, 0)


def _checksums(examples: list[Example]) -> bytes:
    """Return the checksums of the files of examples, (n,) uint32, as bytes."""
    return np.array([checksum_of_file(one.image) for one in examples], np.uint32).tobytes()
