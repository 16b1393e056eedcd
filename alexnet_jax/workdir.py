"""The folder of a run: config.json, metrics.jsonl, checkpoints/, TensorBoard events."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import InputError

ADDED = ("changes", "init_step")  # in config.json, beside the config's own fields
MAY_CHANGE = ("parallel.", "max_steps", "epochs", "checkpoint_every", "data.dir")


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Make the folder, and keep a second process from training in it at the same time."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write to --workdir={directory}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process is training in --workdir={directory}; "
                "wait for it, or give another --workdir"
            ) from None
        try:
            yield
        finally:
            if [path.name for path in directory.iterdir()] == [".lock"]:  # nothing came of it
                shutil.rmtree(directory)


def check_config(directory: Path, config: ConfigDict) -> list[tuple[str, Any, Any]]:
    """What differs from the config recorded there before: (field, was, is).

    A number of classes left at 0, to be taken from the data, differs from none.

    Raises:
        InputError: a field differs that a run cannot change (MAY_CHANGE are those it can).
    """
    path = directory / "config.json"
    if not path.exists():
        return []
    old, new = _read(path), json.loads(config.to_json())
    for name in ADDED:
        old.pop(name, None)
    new["model"]["classes"] = new["model"]["classes"] or old["model"]["classes"]
    differing = list(differences(old, new))
    if fixed := [d for d in differing if not d[0].startswith(MAY_CHANGE)]:
        listed = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in fixed)
        raise InputError(
            f"--workdir={directory} was made with another config: {listed}. "
            "Give another --workdir, or the values it was made with"
        )
    return differing


def write_config(
    directory: Path, config: ConfigDict, step: int, init_step: int | None = None
) -> list[str]:
    """Record the config; returns what it changes in the one recorded before, a line each.

    config.json is the config as it last ran, under "changes" what was changed on the way, and
    under "init_step" at which step of the run `init_from` its parameters were taken.

    Args:
        step: at which the run goes on.
        init_step: where the run begins with parameters of another.

    Raises:
        InputError: as `check_config`.
    """
    path = directory / "config.json"
    differing = check_config(directory, config)
    before = _read(path) if path.exists() else {"changes": []}
    init_step = before.get("init_step") if init_step is None else init_step
    changes = before["changes"]
    changes += [{"step": step, "field": n, "from": was, "to": now} for n, was, now in differing]
    temporary = path.with_suffix(".tmp")
    recorded = {**json.loads(config.to_json()), "changes": changes, "init_step": init_step}
    temporary.write_text(json.dumps(recorded, indent=2) + "\n")
    os.replace(temporary, path)
    return [f"{name} was {was!r}, is now {now!r}" for name, was, now in differing]


def read_config(directory: Path, flag: str = "--workdir") -> ConfigDict:
    """The config of a run, with tuples as config files have them.

    Args:
        flag: which gave the directory, for messages.

    Raises:
        InputError: no run there.
    """
    path = directory / "config.json"
    if not path.exists():
        raise InputError(
            f"{flag}={directory} has no config.json; expected the folder of a run, "
            "as python -m alexnet_jax.main --workdir=DIR makes it"
        )
    recorded = {name: value for name, value in _read(path, flag).items() if name not in ADDED}
    return ConfigDict(_tuples(recorded))


def _read(path: Path, flag: str = "--workdir") -> dict[str, Any]:
    try:
        recorded: dict[str, Any] = json.loads(path.read_text())
        recorded["changes"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not the config of a run; give another {flag}") from None
    return recorded


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, the only sequences that flags can set."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, old, new) of every leaf in which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            where = f"{name}.{key}" if name else key
            yield from differences(old.get(key), new.get(key), where)
    elif old != new:
        yield name, old, new
