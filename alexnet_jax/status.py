"""Write and read status.json, the machine-readable status of a run."""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.files import (
    MAKE_ROOM,
    read_json,
    write_atomically,
    write_errors_as_input_errors,
)
from alexnet_jax.machine import describe_machine
from alexnet_jax.workdir import newest_step

Status = Literal["running", "finished", "interrupted", "diverged", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """The content of status.json.

    Attributes:
        status: "running" during a run, and after a SIGKILL or without room on the disk, when
            nothing can be written; "finished" after the final evaluation; "interrupted" after a
            signal; "diverged" if training diverged; "failed" after any other exception.
        step: step of the newest checkpoint, from which the same command continues; 0 without any.
        message: reason for the end of the run; empty for "running" and "finished".
        time: time of writing, ISO 8601 in UTC.
        machine: machine of the run, see `describe_machine`; empty in files of former versions.
    """

    status: Status
    step: int
    message: str
    time: str
    machine: str = ""


def write_status(workdir: Path, status: Status, message: str = "") -> None:
    """Write status.json of a workdir.

    Raises:
        InputError: the file cannot be written.
    """
    path = workdir / "status.json"
    time = datetime.now(UTC).isoformat(timespec="seconds")
    step = newest_step(workdir)
    content = dataclasses.asdict(RunStatus(status, step, message, time, describe_machine()))
    with write_errors_as_input_errors(path, MAKE_ROOM):
        write_atomically(path, json.dumps(content) + "\n")


def read_status(workdir: Path) -> RunStatus | None:
    """Return the status of a workdir; None if it has no status.json.

    Raises:
        InputError: it cannot be read, or `write_status` has not written it.
    """
    path = workdir / "status.json"
    try:
        found = RunStatus(**read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:  # not JSON; not an object of these fields
        raise InputError(f"{path} is not the status of a run: {error}; delete it") from None
    types = {"step": int, "message": str, "time": str, "machine": str}
    if wrong := [
        name for name, kind in types.items() if not isinstance(getattr(found, name), kind)
    ]:
        raise InputError(f"{path} is not the status of a run: wrong {', '.join(wrong)}; delete it")
    if found.status not in get_args(Status):
        raise InputError(f"{path} has the unknown status {found.status!r}; delete it")
    return found


def track_status(workdirs: Collection[Path], run: Callable[[], int]) -> int:
    """Call `run` and return its exit status; write status.json before and after it.

    The end of a run that `run` has written itself is left as it is.

    Args:
        workdirs: folders of the runs.
        run: function that returns 0 when finished, and 128 + N when stopped by signal N.
    """
    for workdir in workdirs:
        write_status(workdir, "running")
    try:
        exit_status = run()
    except BaseException as error:
        status: Status = "failed"
        if isinstance(error, DivergedError):
            status = "diverged"
        elif isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        for workdir in workdirs:
            # A failure to write the status must not hide the original exception.
            with contextlib.suppress(OSError, InputError):
                _write_end(workdir, status, str(error).strip() or type(error).__name__)
        raise
    for workdir in workdirs:
        if exit_status:
            name = signal.Signals(exit_status - 128).name
            _write_end(workdir, "interrupted", f"stopped by {name}")
        else:
            _write_end(workdir, "finished")
    return exit_status


def _write_end(workdir: Path, status: Status, message: str = "") -> None:
    """Write the end of a run, unless status.json has it already."""
    found = read_status(workdir)
    if found is None or found.status == "running":
        write_status(workdir, status, message)
