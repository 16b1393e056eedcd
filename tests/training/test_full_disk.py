"""Failing disks: one message, nothing half written, and the same run once there is room."""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RLIMIT_FSIZE, RLIMIT_NOFILE

import jax
import numpy as np
import pytest
import tensorstore as ts
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.limits import limited
from helpers.runs import newest_state

from alexnet_jax import command, fields
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.files import AppendOnlyFile, write_errors_as_input_errors
from alexnet_jax.status import track_status

SIZES = ("8k", "16k", "24k", "60k", "140k", "260k")  # a checkpoint takes about 200 kB


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a tiny model with three checkpoints, on a few images of noise."""
    folder = tmp_path_factory.mktemp("full")
    write_idx_set(folder / "data", train=120, test=20)
    config = command.load_config(str(processes.write_config(folder, folder / "data")))
    return fields.replace(config, {"max_steps": 30})


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of the run with room enough."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train_here(config, workdir) == 0
    return workdir


def train_with_status(config: Config, workdir: Path) -> int:
    """Train as alexnet_jax.main does, with status.json."""
    workdir.mkdir(exist_ok=True)
    return track_status([workdir], lambda: train_here(config, workdir))


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Assert that two runs have the same records, and the same state to the last bit."""
    assert processes.records(workdir) == processes.records(expected)
    (step, state), (again, other) = newest_state(workdir), newest_state(expected)
    assert step == again
    for one, reference in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(one, reference)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Function that mounts a disk of a size in memory, or changes its size."""
    disk = tmp_path / "disk"

    def mount(size: str) -> Path:
        option = f"size={size}" if not disk.exists() else f"remount,size={size}"
        disk.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", option, "none", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this user cannot mount a small disk: {error}")
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)], capture_output=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_and_then_room(
    config: Config, whole: Path, mount: Callable[[str], Path], size: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Catches: a traceback in place of the message, or printed by a thread; a thread that goes on;
    a file left empty or half; a run that cannot go on afterwards, or ends with other numbers."""
    disk = mount(size)
    with pytest.raises(InputError, match="the disk is full: "):
        train_with_status(config, disk / "run")
    assert "Traceback" not in capfd.readouterr().err
    running = [type(thread).__module__ for thread in threading.enumerate()]
    assert not any(name.startswith("orbax.") for name in running)
    empty = [path.name for path in disk.rglob("*") if path.is_file() and not path.stat().st_size]
    assert set(empty) <= {"metrics.jsonl"}
    mount("4m")
    assert train_with_status(config, disk / "run") == 0
    assert "damaged" not in capfd.readouterr().err
    assert_same_run(disk / "run", whole)


@pytest.mark.parametrize("record", [0, 1, 3])
def test_logs_on_a_disk_that_fills_up(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: int
) -> None:
    """Catches: half of a record left, an error at closing the logs in place of the message, and
    other numbers once there is room. This disk is simulated."""
    write, count = os.write, 0

    def fill_up(descriptor: int, content: bytes) -> int:
        nonlocal count
        if content.startswith(b'{"step"'):
            count += 1
            if count == record + 1:
                return write(descriptor, content[:7])
        if count > record:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    workdir = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fill_up)
        with pytest.raises(InputError, match=r"^the disk is full: .*run; make room, and run the"):
            train_here(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes().count(b"\n") == record
    assert (workdir / "metrics.jsonl").read_bytes()[-2:] in (b"", b"}\n")
    assert train_here(config, workdir) == 0
    assert_same_run(workdir, whole)


def test_a_damaged_checkpoint_that_cannot_be_renamed(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a traceback where the folder of the checkpoints cannot be written to."""
    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "step_30" / "variables")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match=r"^cannot write .*run/checkpoints: Permission denied"):
        train_here(config, workdir)


def test_a_record_is_appended_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a record cut off after the first part that the system writes, or a part left where
    the rest does not fit."""
    write, room = os.write, 10

    def write_some(descriptor: int, content: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "full")
        written = write(descriptor, content[: min(3, room)])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write_some)
    file = AppendOnlyFile(tmp_path / "log")
    file.append(b"1234567\n")
    with pytest.raises(OSError, match="full"):
        file.append(b"89\n")
    room = 10
    file.append(b"ab\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"1234567\nab\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, ""), "^the disk is full: /some/where; make room$"),
        (OSError(errno.EROFS, ""), "^cannot write /some/where: Read-only file system; "),
        (PermissionError(errno.EACCES, ""), "^cannot write /some/where: Permission denied; "),
        (
            OSError(errno.EIO, ""),
            "^cannot write /some/where: Input/output error; check the disk and the permission to "
            "write there$",
        ),
        (
            ValueError('FAILED_PRECONDITION: "x": open failed [OS error 30: EROFS Read-only file]'),
            "^cannot write /some/where: Read-only file system; ",
        ),
        (ValueError("UNKNOWN: [OS error 28: ENOSPC No space]"), "^the disk is full: /some/where"),
    ],
)
def test_errors_of_writing_are_messages(error: Exception, message: str) -> None:
    """Catches: a traceback for a disk that fails otherwise than by being full; the system's error
    in TensorStore's text passed over."""
    with (
        pytest.raises(InputError, match=message),
        write_errors_as_input_errors(Path("/some/where"), "make room"),
    ):
        raise error


def write_with_tensorstore(folder: Path) -> None:
    """Write 100 kB to a file in a folder, with messages for errors."""
    with write_errors_as_input_errors(folder, "make room"):
        ts.KvStore.open(f"file://{folder}/").result().write("key", b"x" * 100_000).result()


@pytest.mark.parametrize(
    ("resource", "limit", "message"),
    [
        (RLIMIT_FSIZE, 5000, "cannot write .*: File too large; "),
        (RLIMIT_NOFILE, 0, "cannot write .*: Too many open files; "),
    ],
)
def test_errors_of_the_installed_tensorstore(
    tmp_path: Path, resource: int, limit: int, message: str
) -> None:
    """Catches: a text of TensorStore in which the number of the system's error is not found, and
    everything that it calls exhausted taken for a full disk."""
    write_with_tensorstore(tmp_path)
    with pytest.raises(InputError, match=message), limited(resource, limit):
        write_with_tensorstore(tmp_path)


def test_a_full_disk_in_the_installed_tensorstore(mount: Callable[[str], Path]) -> None:
    """Catches: a text of TensorStore in which a full disk is not found."""
    with pytest.raises(InputError, match=r"the disk is full: .*; make room$"):
        write_with_tensorstore(mount("16k"))


def test_a_checkpoint_larger_than_files_may_be(tmp_path: Path) -> None:
    """Catches: the traceback of TensorStore, and a part of the checkpoint left behind."""
    large = {"params": {"fc8": np.random.default_rng(0).normal(size=9000).astype(np.float32)}}

    def save(step: int) -> None:
        mean = np.zeros((6, 6, 1), np.float32)
        checkpoints.save(step, large, {"step": np.int32(step)}, mean, {"config": {}})
        checkpoints.wait()

    checkpoints = Checkpoints(tmp_path, keep=2)
    save(1)
    with (
        limited(RLIMIT_FSIZE, 8192),
        pytest.raises(InputError, match=": File too large; check the"),
    ):
        save(2)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step_1"]
    save(2)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_a_bug_while_writing_keeps_its_traceback() -> None:
    """Catches: every ValueError taken for a failing disk."""
    with (
        pytest.raises(ValueError, match="shape"),
        write_errors_as_input_errors(Path("/some/where"), "make room"),
    ):
        raise ValueError("shape")


def test_checkpoints_that_is_a_file(config: Config, tmp_path: Path) -> None:
    """Catches: training up to the first checkpoint, and threads that then wait for ever."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    with pytest.raises(InputError, match=r"^cannot write .*run/checkpoints: File exists"):
        train_here(config, tmp_path / "run")


def test_a_checkpoint_folder_that_cannot_be_made(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: threads of orbax that wait 20 minutes for a folder that could not be created, so
    that the program does not end."""
    makedirs = os.makedirs

    def refuse(path: str, *arguments: object, **keywords: object) -> None:
        if "step_10" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        makedirs(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(InputError, match=r"^cannot write .*run/checkpoints: Read-only file system"):
        train_here(config, tmp_path / "run")
    running = [type(thread).__module__ for thread in threading.enumerate()]
    assert not any(name.startswith("orbax.") for name in running)


def test_a_lock_that_is_a_folder(config: Config, tmp_path: Path) -> None:
    """Catches: a traceback, or a message that does not name the lock."""
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write to --workdir=.*: Is a directory .*\.lock"):
        train_here(config, tmp_path / "run")
