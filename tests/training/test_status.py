"""status.json: how a run stands, for other programs."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.machine import describe_machine
from alexnet_jax.status import RunStatus, read_status, track_status, write_status


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Catches: a field lost on the way; local time; the oldest checkpoint, or one that is being
    written, for the newest."""
    for name in ("step_9", "step_10", "step_11.orbax-checkpoint-tmp-1", "damaged_step_12"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    write_status(tmp_path, "interrupted", "stopped by SIGTERM")
    found = read_status(tmp_path)
    assert found is not None
    assert (found.status, found.step, found.message) == ("interrupted", 10, "stopped by SIGTERM")
    age = datetime.now(UTC) - datetime.fromisoformat(found.time)
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)
    assert found.machine == describe_machine()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoints", "status.json"}


def test_no_run_has_no_status(tmp_path: Path) -> None:
    """Catches: an exception where no run has begun."""
    assert read_status(tmp_path) is None
    assert read_status(tmp_path / "none") is None


def test_a_status_of_a_former_version_is_read(tmp_path: Path) -> None:
    """Catches: finished runs that are refused since their machine was not recorded."""
    write_status(tmp_path, "finished")
    path = tmp_path / "status.json"
    former = json.loads(path.read_text())
    del former["machine"]
    path.write_text(json.dumps(former))
    assert read_status(tmp_path) == RunStatus(**former, machine="")


def test_the_machine_is_that_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: the processor named for a run on an accelerator; a processor without its cores."""
    assert re.fullmatch(r".+, \d+ cores", describe_machine())
    device = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert describe_machine.__wrapped__() == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"status": "running"}', "well"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    """Catches: a foreign status.json taken for a status, or a traceback for it."""
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(InputError, match="is not the status of a run"):
        read_status(tmp_path)


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    """Catches: a word passed on that no reader expects."""
    write_status(tmp_path, "running")
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "done"}))
    with pytest.raises(InputError, match="unknown status 'done'"):
        read_status(tmp_path)


@pytest.mark.parametrize(
    ("exit_status", "status", "message"),
    [(0, "finished", ""), (128 + signal.SIGTERM, "interrupted", "stopped by SIGTERM")],
)
def test_a_run_that_returns(tmp_path: Path, exit_status: int, status: str, message: str) -> None:
    """Catches: a run that is not "running" meanwhile; an interruption taken for the end; another
    exit status than the run's."""
    seen: list[RunStatus | None] = []

    def run() -> int:
        seen.append(read_status(tmp_path))
        return exit_status

    assert track_status([tmp_path], run) == exit_status
    assert [now and now.status for now in seen] == ["running"]
    found = read_status(tmp_path)
    assert found is not None
    assert (found.status, found.message) == (status, message)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (DivergedError("not finite"), "diverged", "not finite"),
        (InputError("no room"), "failed", "no room"),
        (TypeError(), "failed", "TypeError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_raises(tmp_path: Path, error: BaseException, status: str, message: str) -> None:
    """Catches: an exception that leaves "running", or that does not reach the caller; a
    divergence taken for a failure."""

    def run() -> int:
        raise error

    with pytest.raises(type(error)) as raised:
        track_status([tmp_path], run)
    assert raised.value is error
    found = read_status(tmp_path)
    assert found is not None
    assert (found.status, found.message) == (status, message)


def test_a_status_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    """Catches: the error of a full or read-only disk in place of what the run ended by."""
    workdir = tmp_path / "run"
    workdir.mkdir()

    def run() -> int:
        (workdir / "status.json").unlink()
        workdir.rmdir()
        raise DivergedError("not finite")

    with pytest.raises(DivergedError, match="not finite"):
        track_status([workdir], run)
