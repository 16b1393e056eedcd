"""The manifest of a pack: its fields, their checks, and comparisons with settings and sources."""

from pathlib import Path

from alexnet_jax.data.sources.base import SPLITS, Source
from alexnet_jax.errors import InputError, list_names
from alexnet_jax.fields import Json, differences
from alexnet_jax.files import read_json

FORMAT = "alexnet_jax pack"
VERSION = 2  # 1 had no checksums

# Settings of packs that were made before there was a field for them.
EARLIER_SETTINGS: Json = {"encoding": "auto"}

# Fields of the manifest that are read, and their types.
_MANIFEST: dict[str, type] = dict(
    version=int,
    settings=dict,
    class_names=list,
    side=int,
    channels=int,
    encoding=str,
    arrays=dict,
    splits=dict,
    source_digest=str,
    source_stamp=str,
    source_counts=dict,
)
_MANIFEST_SPLIT: dict[str, type] = dict(shards=list, skipped=list, contents=int)
_MANIFEST_SHARD: dict[str, type] = dict(count=int, bytes=int)


def read_manifest(directory: Path) -> Json | None:
    """Read the manifest of the pack in `directory`; return None if there is no manifest.json.

    Raises:
        InputError: the file is damaged, not a manifest, or of another version of the format.
    """
    path = directory / "manifest.json"
    try:
        manifest: Json = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise damaged(directory, "manifest.json is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a pack's manifest; name another folder in --config.data.pack_dir"
        )
    _check_fields(manifest, {"version": int}, directory)
    if manifest["version"] != VERSION:
        raise InputError(
            f"the pack in {directory} has format version {manifest['version']}, this program "
            f"reads {VERSION}; delete the folder and prepare it again"
        )
    _check_fields(manifest, _MANIFEST, directory)
    checks = dict(
        class_names=all(isinstance(name, str) for name in manifest["class_names"]),
        side=manifest["side"] > 0,
        channels=manifest["channels"] in (1, 3),
        encoding=manifest["encoding"] in ("jpeg", "raw"),
        splits="train" in manifest["splits"] and {*manifest["splits"]} <= {*SPLITS},
    )
    for name, is_valid in checks.items():
        if not is_valid:
            raise _invalid_field(directory, name)
    for split in manifest["splits"].values():
        _check_fields(split, _MANIFEST_SPLIT, directory)
        for shard in split["shards"]:
            _check_fields(shard, _MANIFEST_SHARD, directory)
    return manifest


def _check_fields(content: object, fields: dict[str, type], directory: Path) -> None:
    """Raise InputError if a field is missing or has another type, or a number is negative."""
    for name, kind in fields.items():
        value = content.get(name) if isinstance(content, dict) else None
        is_count = type(value) is int and value >= 0
        if not (is_count if kind is int else isinstance(value, kind)):
            raise _invalid_field(directory, name)


def _invalid_field(directory: Path, name: str) -> InputError:
    """Return the error for a field of the manifest."""
    return damaged(directory, f"{name!r} in manifest.json is missing or has the wrong type")


def damaged(directory: Path, what: str) -> InputError:
    """Return the error for a damaged pack."""
    return InputError(
        f"the pack in {directory} is damaged: {what}; delete the folder and prepare it again"
    )


def find_manifest(directory: Path, settings: Json) -> Json | None:
    """Return the manifest of a complete pack made with `settings`; None if there is no pack.

    Args:
        directory: folder that need not exist.
        settings: settings that must agree; others may differ.

    Raises:
        InputError: the folder contains a pack made with other settings, or other files.
    """
    manifest = read_manifest(directory)
    if manifest is not None:
        check_settings(directory, manifest["settings"], settings)
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"{directory} is neither a pack nor an empty folder; "
            "set --config.data.pack_dir to a folder for the pack alone"
        )
    return manifest


def check_settings(directory: Path, made: Json, settings: Json) -> None:
    """Raise InputError if the pack in `directory`, made with `made`, differs in `settings`."""
    made = EARLIER_SETTINGS | made
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


def describe_changes(manifest: Json, source: Source) -> str:
    """Return how the listing of a source differs from the one that a pack was made from.

    Returns:
        The differences as text, such as "classes added: bird; train images: 36 instead of 24";
        "" if the listings are equal.
    """
    if source.digest == manifest["source_digest"]:
        return ""
    before, now = manifest["class_names"], source.class_names
    changes = [
        f"classes {what}: {list_names(names)}"
        for what, names in (
            ("added", [name for name in now if name not in before]),
            ("removed", [name for name in before if name not in now]),
        )
        if names
    ]
    if sorted(now) == sorted(before) and [*now] != before:
        changes.append("the classes are in another order")
    counts = manifest["source_counts"]
    changes += [
        f"{split} images: {source.counts.get(split, 0)} instead of {counts.get(split, 0)}"
        for split in SPLITS
        if source.counts.get(split) != counts.get(split)
    ]
    return "; ".join(changes) or "names, sizes or permissions of images differ"


def partial_directory(directory: Path) -> Path:
    """Return the folder of a pack that is not complete yet."""
    return directory.with_name(directory.name + ".partial")


def lock_file(directory: Path) -> Path:
    """Return the file whose lock a process holds while it changes a pack."""
    return directory.with_name(directory.name + ".lock")


def shard_path(directory: Path, split: str, number: int) -> Path:
    """Return the path of a shard."""
    return directory / f"{split}-{number:05d}.records"
