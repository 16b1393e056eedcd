"""The folder of a run: its lock, and config.json."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from alexnet_jax import config as configs
from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Difference, differences
from alexnet_jax.files import exclusive_lock, write_atomically

FORMAT_VERSION = 2  # of config.json; 1 had no number
ADDED = ("format_version", "changes", "init_step")  # in config.json, beside the config's fields
MAY_CHANGE = ("parallel.", "max_steps", "epochs", "checkpoint_every", "data.dir")


@contextmanager
def lock_workdir(directory: Path) -> Iterator[None]:
    """Make the folder, and keep a second process from training in it at the same time.

    Raises:
        InputError: the folder cannot be written, or another process trains in it.
    """
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(directory / ".lock"))
        except BlockingIOError:
            raise InputError(
                f"another process is training in --workdir={directory}; "
                "wait for it, or give another --workdir"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write to --workdir={directory}: {error.strerror}") from None
        try:
            yield
        finally:
            _remove_if_unused(directory)


def _remove_if_unused(directory: Path) -> None:
    """Remove a workdir in which no run has begun; the caller holds its lock."""
    left = [path for path in directory.iterdir() if path.name in (".lock", "status.json")]
    if len(left) == len([*directory.iterdir()]):
        for path in left:
            path.unlink()
        with suppress(OSError):  # another process may wait for it already
            directory.rmdir()


def check_config(directory: Path, config: Config) -> list[Difference]:
    """Return what differs from the config recorded there before: (field, was, is).

    A number of classes left at 0, to be taken from the data, differs from none.

    Raises:
        InputError: a field differs that a run cannot change (MAY_CHANGE are those it can).
    """
    path = directory / "config.json"
    if not path.exists():
        return []
    old, new = _read(path), configs.to_json(config)
    for name in ADDED:
        old.pop(name, None)
    new["model"]["num_classes"] = new["model"]["num_classes"] or old["model"]["num_classes"]
    differing = list(differences(old, new))
    if fixed := [d for d in differing if not d[0].startswith(MAY_CHANGE)]:
        listed = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in fixed)
        raise InputError(
            f"--workdir={directory} was made with another config: {listed}. "
            "Give another --workdir, or the values it was made with"
        )
    return differing


def write_config(
    directory: Path, config: Config, step: int, init_step: int | None = None
) -> list[str]:
    """Record the config; return what it changes in the one recorded before, a line each.

    config.json is the config as it last ran, under "changes" what was changed on the way, and
    under "init_step" at which step of the run `init_from` its parameters were taken.

    Args:
        step: at which the run continues.
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
    recorded = {
        **configs.to_json(config),
        "format_version": FORMAT_VERSION,
        "changes": changes,
        "init_step": init_step,
    }
    write_atomically(path, json.dumps(recorded, indent=2) + "\n")
    return [f"{name} was {was!r}, is now {now!r}" for name, was, now in differing]


def read_config(directory: Path, flag: str = "--workdir") -> Config:
    """Return the config of a run.

    Args:
        flag: which gave the directory, for messages.

    Raises:
        InputError: no run there, or one of another version of this program.
    """
    content = read_recorded(directory, flag)
    try:
        return configs.from_json({n: v for n, v in content.items() if n not in ADDED})
    except InputError as error:
        raise InputError(f"{directory / 'config.json'} cannot be used: {error}") from None


def read_recorded(directory: Path, flag: str = "--workdir") -> fields.Json:
    """Return the content of a run's config.json: the config's fields, and those of ADDED.

    Raises:
        InputError: as `read_config`.
    """
    path = directory / "config.json"
    if not path.exists():
        raise InputError(
            f"{flag}={directory} has no config.json; expected the folder of a run, "
            "as python -m alexnet_jax.main --workdir=DIR makes it"
        )
    return _read(path, flag)


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps that have a checkpoint, oldest first, without opening any.

    Processes would open them together.
    """
    names = (path.name.removeprefix("step_") for path in workdir.glob("checkpoints/step_*"))
    return sorted(int(name) for name in names if name.isdigit())


def _read(path: Path, flag: str = "--workdir") -> fields.Json:
    try:
        recorded = json.loads(path.read_text())
    except (ValueError, OSError):
        recorded = None
    if not isinstance(recorded, dict) or "changes" not in recorded:
        raise InputError(f"{path} is not the config of a run; give another {flag}")
    version = recorded.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{flag}={path.parent} was made by another version of this program (format {version}; "
            f"this one reads {FORMAT_VERSION}); go on with that version, or give another {flag}"
        )
    return recorded
