"""The workdir, the folder of a run: its lock and its config.json."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from alexnet_jax import fields
from alexnet_jax.config import Config, config_from_json, config_to_json
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Difference, differences
from alexnet_jax.files import (
    MAKE_ROOM,
    disk_full_as_input_error,
    exclusive_lock,
    is_locked,
    read_json,
    write_atomically,
    write_errors_as_input_errors,
)

CONFIG = "config.json"
LOCK = ".lock"
FORMAT_VERSION = 2  # version of config.json; version 1 did not record a number
# Entries of config.json besides the config.
ADDED = ("format_version", "changes", "init_step", "source_digest")
MAY_CHANGE = (
    *("parallel.", "max_steps", "epochs", "stop_error", "checkpoint_every"),
    *("data.dir", "data.resident"),
)


@contextmanager
def lock_workdir(directory: Path) -> Iterator[None]:
    """Create the folder, and prevent other processes from training in it at the same time.

    Raises:
        InputError: the folder cannot be written, or another process is training in it.
    """
    with ExitStack() as stack:
        try:
            with disk_full_as_input_error(directory, MAKE_ROOM):
                directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive_lock(directory / LOCK))
        except BlockingIOError:
            raise InputError(
                f"another process is training in --workdir={directory}; "
                "wait for it, or give another --workdir"
            ) from None
        except OSError as error:
            raise InputError(
                f"cannot write to --workdir={directory}: {error.strerror} ({error.filename})"
            ) from None
        try:
            yield
        finally:
            _remove_if_unused(directory)


def _remove_if_unused(directory: Path) -> None:
    """Remove a workdir in which no run has begun; the caller holds its lock.

    Without the right to do so, or if the folder is gone already, nothing is removed.
    """
    with suppress(OSError):  # also if another process has created its lock already
        paths = [*directory.iterdir()]
        if {path.name for path in paths} <= {LOCK, "status.json"}:
            for path in paths:
                path.unlink()
            directory.rmdir()


def check_still_there(directory: Path) -> None:
    """Raise InputError if config.json is gone, with its folder or alone, since the run began.

    A run without it could not be evaluated, and its records would go to a deleted file.
    """
    path = directory / CONFIG
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} is gone: it or its folder was removed during the run. The same command "
            "continues from the newest checkpoint that is left, or starts anew without any"
        ) from None
    except OSError:
        return  # it cannot be looked at now, which does not mean that it is gone


def check_config(directory: Path, config: Config) -> list[Difference]:
    """Return the differences between the config recorded in a workdir and a new one.

    A number of classes of 0, which stands for that of the data, counts as equal to any number.

    Returns:
        (field, recorded value, new value) for each difference; [] if no config is recorded.

    Raises:
        InputError: a field differs that is not in MAY_CHANGE.
    """
    recorded = _read(directory)
    if recorded is None:
        return []
    old, new = map(_json_with_absolute_paths, (_config_of(recorded, directory), config))
    new["model"]["num_classes"] = new["model"]["num_classes"] or old["model"]["num_classes"]
    differing = list(differences(old, new))
    if fixed := [d for d in differing if not d[0].startswith(MAY_CHANGE)]:
        listed = "; ".join(f"{name} was {was!r}, is {value!r}" for name, was, value in fixed)
        raise InputError(
            f"--workdir={directory} was made with another config: {listed}. "
            "Give another --workdir, or the values it was made with"
        )
    return differing


def write_config(
    directory: Path,
    config: Config,
    step: int,
    init_step: int | None = None,
    source_digest: str | None = None,
) -> list[str]:
    """Record the config in config.json.

    The file contains the current config, with absolute paths; under "changes" all earlier changes
    of fields; under "init_step" the step of the checkpoint of `init_from` from which the run
    started; and under "source_digest" the digest of the images on which it is trained.

    Args:
        directory: the workdir.
        config: the new config.
        step: step at which the run begins or continues.
        init_step: step of the checkpoint of another run from which a new run starts; None keeps
            the recorded one.
        source_digest: digest of the images, see `data.pack.Pack`; None for imported weights.

    Returns:
        A line of text for each field that has changed.

    Raises:
        InputError: see `check_config`; or the file cannot be written.
    """
    differing = check_config(directory, config)
    recorded = _read(directory) or {"changes": []}
    init_step = recorded.get("init_step") if init_step is None else init_step
    changes = recorded["changes"]
    changes += [{"step": step, "field": n, "from": old, "to": new} for n, old, new in differing]
    content = {
        **_json_with_absolute_paths(config),
        "format_version": FORMAT_VERSION,
        "changes": changes,
        "init_step": init_step,
        "source_digest": source_digest,
    }
    path = directory / CONFIG
    with write_errors_as_input_errors(path, MAKE_ROOM):
        write_atomically(path, json.dumps(content, indent=2) + "\n")
    return [f"{name} was {old!r}, is now {new!r}" for name, old, new in differing]


def read_config(directory: Path, flag: str = "--workdir") -> Config:
    """Return the config recorded in a workdir.

    Args:
        directory: the workdir.
        flag: flag that gave the directory, for messages.

    Raises:
        InputError: the folder is not that of a run, or of another version of this program.
    """
    return _config_of(read_recorded(directory, flag), directory)


def read_recorded(directory: Path, flag: str = "--workdir") -> fields.Json:
    """Return the content of config.json: the fields of the config and the entries in ADDED.

    Args:
        directory, flag: see `read_config`.

    Raises:
        InputError: see `read_config`.
    """
    recorded = _read(directory, flag)
    if recorded is None:
        raise InputError(
            f"{flag}={directory} has no config.json; expected the folder of a run, "
            "as python -m alexnet_jax.main --workdir=DIR makes it"
        )
    return recorded


def read_source_digest(directory: Path) -> str | None:
    """Return the digest of the images on which a run was trained.

    None if there is no checkpoint, or if the digest was not recorded: for imported weights, and in
    workdirs of earlier versions.
    """
    recorded = _read(directory)
    if recorded is None or not saved_steps(directory):
        return None
    digest: str | None = recorded.get("source_digest")
    return digest


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps that have a checkpoint, oldest first, from the names of their folders.

    A folder gets its name when the checkpoint is complete.

    Raises:
        InputError: the folder of the checkpoints cannot be read.
    """
    folder = workdir / "checkpoints"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from None
    return sorted(int(found[1]) for name in names if (found := re.fullmatch("step_([0-9]+)", name)))


def newest_step(workdir: Path) -> int:
    """Return the step of the newest checkpoint; 0 without any. See `saved_steps`."""
    return max(saved_steps(workdir), default=0)


def is_in_use(workdir: Path) -> bool:
    """Return whether a process holds the lock of a workdir, to train in it or to write it."""
    return is_locked(workdir / LOCK)


def _config_of(recorded: fields.Json, directory: Path) -> Config:
    """Return the config in the content of a config.json."""
    try:
        return config_from_json({n: v for n, v in recorded.items() if n not in ADDED})
    except InputError as error:
        raise InputError(f"{directory / CONFIG} cannot be used: {error}") from None


def _json_with_absolute_paths(config: Config) -> fields.Json:
    """Return the config as JSON, with paths that are independent of the current folder.

    They have no slash at the end. A "~" for the home folder is kept.
    """
    content = config_to_json(config)
    data = content["data"]
    for section, name in ((data, "dir"), (data, "pack_dir"), (content, "init_from")):
        if path := section[name]:
            absolute = os.path.normpath if path.startswith("~") else os.path.abspath
            section[name] = absolute(path)
    return content


def _is_change(entry: object) -> bool:
    """Return whether an entry of "changes" has the fields that `write_config` writes."""
    return isinstance(entry, dict) and {"step", "field", "from", "to"} <= entry.keys()


def _read(directory: Path, flag: str = "--workdir") -> fields.Json | None:
    """Return the content of config.json after a check of its format; None without that file."""
    path = directory / CONFIG
    try:
        recorded = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give another {flag}") from None
    except ValueError as error:
        raise InputError(
            f"{path} is not the config of a run: {error}; give another {flag}"
        ) from None
    if not isinstance(recorded, dict) or "changes" not in recorded:
        raise InputError(f"{path} is not the config of a run; give another {flag}")
    version = recorded.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{flag}={directory} was made by another version of this program (format "
            f"{version!r:.20}; this one reads {FORMAT_VERSION}); go on with that version, or give "
            f"another {flag}"
        )
    changes = recorded["changes"]
    damaged = [
        name
        for name, is_valid in (
            ("changes", isinstance(changes, list) and all(map(_is_change, changes))),
            ("init_step", isinstance(recorded.get("init_step"), int | None)),
            ("source_digest", isinstance(recorded.get("source_digest"), str | None)),
        )
        if not is_valid
    ]
    if damaged:
        raise InputError(
            f"{path} cannot be used: {' and '.join(damaged)} is damaged; restore the file, or give "
            f"another {flag}"
        )
    return recorded
