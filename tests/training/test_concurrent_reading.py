"""Checkpoints that are read while another process saves and deletes them, and failed reads."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax.checkpoint import Checkpoints, DamagedCheckpointError
from alexnet_jax.config import with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.pytree import PyTree
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import is_in_use, lock_workdir, write_config
from configs.alexnet import get_config

ARRAYS = 12  # enough for several reads at a time


def variables_of(step: int) -> PyTree:
    """Return arrays of which no two steps have the same."""
    draw = np.random.default_rng(step).normal
    return {f"conv{i}": jnp.asarray(draw(size=(2, 100, 50)), jnp.float32) for i in range(ARRAYS)}


def save(checkpoints: Checkpoints, step: int) -> None:
    """Save a checkpoint of `variables_of` a step."""
    mean = np.zeros((6, 6, 1), np.float32)
    checkpoints.save(step, variables_of(step), {"step": jnp.int32(step)}, mean, {"step": step})


def newest(workdir: Path) -> tuple[int, PyTree] | None:
    """Read the metadata and variables of the newest checkpoint."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), variables_of(0)
    )
    with Checkpoints(workdir) as checkpoints:

        def read(step: int) -> PyTree:
            assert checkpoints.metadata(step)["step"] == step
            return checkpoints.variables(step, template)

        return checkpoints.newest(read)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A workdir with the checkpoints of steps 1 and 2."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    return tmp_path


@contextmanager
def running_writer(workdir: Path) -> Iterator[None]:
    """Save checkpoints without a pause, and keep only the newest, in a thread with the lock."""
    stop = threading.Event()

    def write() -> None:
        with lock_workdir(workdir), Checkpoints(workdir, keep=1) as checkpoints:
            step = 3
            while not stop.is_set():
                save(checkpoints, step)
                step += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_every_read_beside_a_writer_is_right(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: a healthy checkpoint called damaged, or an exception, since its files are deleted
    while they are listed or read; the steps of an earlier listing; arrays of another step."""
    steps = []
    with running_writer(saved):
        for _ in range(25):
            found = newest(saved)
            assert found is not None
            step, variables = found
            steps.append(step)
            jax.tree.map(np.testing.assert_array_equal, variables, variables_of(step))
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]
    assert capfd.readouterr().err == ""


def test_a_checkpoint_that_is_deleted_while_it_is_read(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: the checkpoint before the deleted one in place of the one after it."""
    folder = saved / "checkpoints"
    read_steps = []
    with Checkpoints(saved) as checkpoints:

        def read(step: int) -> int:
            read_steps.append(step)
            if step == 2:
                (folder / "step_2").rename(folder / "step_3")
            checkpoints.metadata(step)
            return step

        assert checkpoints.newest(read) == (3, 3)
    assert read_steps[0] == 2
    assert capfd.readouterr().err == ""


def test_a_checkpoint_that_is_deleted_at_the_last_try(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: damage that is reported though the folder is gone."""
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0.0)
    with Checkpoints(saved) as checkpoints:

        def read(step: int) -> int:
            if step == 2:
                shutil.rmtree(saved / "checkpoints" / "step_2")
            checkpoints.metadata(step)
            return step

        assert checkpoints.newest(read) == (1, 1)
    assert capfd.readouterr().err == ""


def damage(workdir: Path) -> None:
    """Remove the metadata of every checkpoint."""
    for folder in (workdir / "checkpoints").iterdir():
        shutil.rmtree(folder / "metadata")


def test_nothing_readable_beside_a_writer_is_no_reason_to_move_the_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: the advice to move away the folder of a run that is training."""
    damage(saved)
    with pytest.raises(InputError, match="move that folder away"):
        newest(saved)
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0.2)
    with lock_workdir(saved):
        with pytest.raises(InputError, match="another process saves and deletes them; try again"):
            newest(saved)
        with (
            Checkpoints(saved, keep=1) as own,
            pytest.raises(InputError, match="move that folder away"),
        ):
            own.newest(own.metadata)


def test_a_checkpoint_that_becomes_readable(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: one try only; damage that is reported though a later try succeeds."""
    part = saved / "checkpoints" / "step_2" / "metadata"
    monkeypatch.setattr("time.sleep", lambda _: (saved / "part").rename(part))
    part.rename(saved / "part")
    with lock_workdir(saved):
        found = newest(saved)
    assert found is not None
    assert found[0] == 2
    assert capfd.readouterr().err == ""


def test_a_run_that_has_not_saved_yet(tmp_path: Path) -> None:
    """Catches: the advice to train a model that is training."""
    write_config(tmp_path, with_changes(get_config("sample"), {"model.num_classes": 10}), 0)
    with pytest.raises(InputError, match="has no checkpoint yet; train it first"):
        load_trained(tmp_path)
    with (
        lock_workdir(tmp_path),
        pytest.raises(InputError, match="has no checkpoint yet; wait for its first one"),
    ):
        load_trained(tmp_path)


def test_whether_a_workdir_is_in_use(tmp_path: Path) -> None:
    """Catches: the lock file of a killed process taken for a running one; a lock file that is made
    or kept by the question."""
    assert not is_in_use(tmp_path)
    (tmp_path / ".lock").touch()
    assert not is_in_use(tmp_path)
    with lock_workdir(tmp_path):
        assert is_in_use(tmp_path)
        assert is_in_use(tmp_path)
        (tmp_path / "config.json").touch()
    assert not is_in_use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_failed_read_waits_for_the_others(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: "Event loop is closed" of the reads in progress when another one failed."""
    others: list[str] = []

    def answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[str]) -> None:
        try:  # from a thread, as TensorStore does
            loop.call_soon_threadsafe(future.set_result, "read")
        except RuntimeError as error:
            others.append(str(error))

    async def read() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.1, answer, (loop, future)).start()
        others.append(await future)

    async def fail() -> None:
        raise ValueError("damaged")

    async def both() -> None:
        await asyncio.gather(read(), fail())

    def restore(*_: object, **__: object) -> None:  # as orbax_checkpoint._src.asyncio_utils does
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(both())
        finally:
            loop.close()

    policy = asyncio.get_event_loop_policy()
    with Checkpoints(saved) as checkpoints:
        monkeypatch.setattr(checkpoints._reader, "restore", restore)
        with pytest.raises(DamagedCheckpointError, match="ValueError: damaged"):
            checkpoints.metadata(2)
    assert others == ["read"]
    assert asyncio.get_event_loop_policy() is policy


def test_a_missing_file_prints_no_tracebacks(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: the same with orbax and TensorStore themselves."""
    folder = saved / "checkpoints" / "step_2" / "variables"
    for path in (folder / "manifest.ocdbt", *(folder / "d").iterdir()):
        sound = path.read_bytes()
        path.unlink()
        found = newest(saved)
        assert found is not None
        assert found[0] == 1
        path.write_bytes(sound)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("step_2 is damaged" in line for line in lines)


def test_errors_of_orbax_are_hidden_only_while_it_is_used(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: errors that orbax logs elsewhere in the program hidden; those of a failed read or
    save printed beside the message; those of a save printed once something was read."""
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "filters", [])
    place = "/site-packages/orbax/checkpoint/future.py"

    def is_hidden(path: str = place) -> bool:
        return not logger.filter(logging.LogRecord("absl", logging.ERROR, path, 1, "", (), None))

    hidden = []

    def restore(*_: object, **__: object) -> None:
        hidden.append((is_hidden(), is_hidden("/alexnet_jax/train.py")))
        raise ValueError("damaged")

    with Checkpoints(saved) as reader:
        monkeypatch.setattr(reader._reader, "restore", restore)
        assert not is_hidden()
        writer = Checkpoints(saved, keep=3)
        with writer:
            assert is_hidden()
            with pytest.raises(DamagedCheckpointError):
                reader.metadata(2)
            assert is_hidden()
        assert not is_hidden()
        with pytest.raises(DamagedCheckpointError):
            reader.metadata(2)
        assert not is_hidden()
    assert hidden == [(True, False)] * 2


@pytest.mark.parametrize("text", ["the disk is full", "other images than before"])
def test_a_failed_save_is_printed_beside_another_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    """Catches: a failed save that nobody learns of since wrong input ended the run, too; the
    message of a save that ended the run printed twice."""
    checkpoints = Checkpoints(saved)

    def close() -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(checkpoints, "close", close)
    with pytest.raises(InputError, match=text), checkpoints:
        raise InputError(text)
    assert capfd.readouterr().err == ("" if text == "the disk is full" else "the disk is full\n")
