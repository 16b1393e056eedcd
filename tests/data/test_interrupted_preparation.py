"""Preparation that is interrupted, killed, started twice or out of disk space."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from helpers.image_sets import (
    files_in,
    idx_data,
    write_idx_set,
)
from helpers.interruption import Stop, stop

from alexnet_jax.data import images, pack, pack_writer
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare


@pytest.mark.parametrize("calls", [0, 17, 50, 95, 119])
def test_interrupted_and_resumed_is_the_same(tmp_path, monkeypatch, small_shards, calls):
    """Mutation: sums or skipped images of finished shards lost; a half-written shard kept."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    load, made = images.load, list[int]()

    def failing(*arguments, **options):
        if len(made) == calls:
            raise Stop
        made.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(images, "load", failing)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False, workers=1)
    assert not (tmp_path / "pack").exists()
    with pytest.raises(InputError, match="is unfinished; run the same command"):
        pack.open_pack(tmp_path / "pack")
    made.clear()
    calls = 10_000
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)
    assert {p.name for p in tmp_path.iterdir()} == {"idx", "whole", "pack"}


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch, small_shards):
    """Mutation: resuming that starts over."""
    load, made = images.load, list[int]()

    def failing(*arguments, **options):
        made.append(1)
        if len(made) == 60:
            raise Stop
        return load(*arguments, **options)

    monkeypatch.setattr(images, "load", failing)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False, workers=1)
    made.append(1)
    before = len(made)
    prepare(idx_data(tmp_path), progress=False)
    assert len(made) - before == 120 - 48  # three shards of 16 had been finished


def test_killed_in_the_last_steps(tmp_path, monkeypatch):
    """Mutation: a pack whose manifest is written, but which has not its name yet, made again or
    mistaken for an unfinished one.
    """
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    monkeypatch.setattr(pack_writer, "seal", stop)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    (tmp_path / "pack.partial" / "train-00000.npz").unlink()
    assert files_in(prepare(idx_data(tmp_path)).directory) == files_in(expected_pack.directory)


SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import images, pack_writer
pack_writer.SHARD_IMAGES, prepare_module._CHUNK = 16, 4
load = images.load
def slow(*arguments, **options):
    import time
    time.sleep({delay})
    return load(*arguments, **options)
images.load = slow
from helpers.image_sets import idx_data
prepare_module.prepare(idx_data(Path({path!r})))
"""


def start(tmp_path, delay):
    script = SCRIPT.format(
        root=str(ROOT), tests=str(ROOT / "tests"), delay=delay, path=str(tmp_path)
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_is_the_same(tmp_path, small_shards, how):
    """Mutation: files that are renamed before they are written; Ctrl-C that waits for the rest."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    process = start(tmp_path, 0.02)
    wait_for(tmp_path / "pack.partial" / "train-00002.npz", process)
    process.send_signal(how)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert not (tmp_path / "pack").exists()
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)


def test_two_at_once(tmp_path, small_shards):
    """Mutation: no lock: both write the same files, and the second finds its folder renamed."""
    idx_data(tmp_path)
    first = start(tmp_path, 0.05)
    wait_for(tmp_path / "pack.partial" / "train-00000.npz", first)
    second = start(tmp_path, 0.01)
    assert first.wait(timeout=60) == 0, first.communicate()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert "waiting for another process" in errors
    first.communicate()
    made = pack.open_pack(tmp_path / "pack")
    assert {n: s.count for n, s in made.splits.items()} == dict(train=90, validation=10, test=20)
    assert {p.name for p in tmp_path.iterdir()} == {"idx", "pack"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"disk is full: .*pack\.partial; the finished shards"),
        (errno.EDQUOT, r"disk is full: .*pack\.partial; the finished shards"),
        (
            errno.EIO,
            r"cannot write .*pack\.partial: Input/output error; set --config\.data\.pack_dir",
        ),
    ],
)
def test_failing_disk(tmp_path, monkeypatch, small_shards, code, message):
    """Mutation: a traceback, or a half-written shard that the next try takes for a whole one."""
    expected_pack = prepare(idx_data(tmp_path, pack_dir=str(tmp_path / "whole")), progress=False)
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(1)
        if len(calls) == 8:
            raise OSError(code, os.strerror(code))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=message):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 16)
    partial = tmp_path / "pack.partial"
    assert (partial / "train-00002.npz").exists()
    assert not list(partial.glob("*.new*"))
    resumed = prepare(idx_data(tmp_path), progress=False)
    assert files_in(resumed.directory) == files_in(expected_pack.directory)


def test_unfinished_pack_of_another_source(tmp_path, monkeypatch):
    """Mutation: shards of two versions of a source mixed."""
    monkeypatch.setattr(pack_writer.PackWriter, "finish", stop)
    with pytest.raises(Stop):
        prepare(idx_data(tmp_path), progress=False)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"unfinished pack .* \(settings\.split_seed\)"):
        prepare(idx_data(tmp_path, split_seed=3), progress=False)
    write_idx_set(tmp_path / "idx", train=100, test=20, seed=5)
    with pytest.raises(
        InputError, match=r"unfinished pack .* changed since \(source_digest, source_stamp\)"
    ):
        prepare(idx_data(tmp_path), progress=False)
