"""Images on which several modules train, and checkpoints that several modules read."""

import gc
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.image_sets import write_idx_set
from helpers.saved_checkpoints import STEPS, save_content

from alexnet_jax.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of IDX files with 120 training images and 20 of the test split."""
    folder = tmp_path_factory.mktemp("images")
    write_idx_set(folder, train=120, test=20)
    return folder


@pytest.fixture(scope="module")
def saved_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints of STEPS."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, keep=3)
    for step in STEPS:
        save_content(checkpoints, step)
    checkpoints.close()
    return workdir


@pytest.fixture
def failed_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Silence the warnings about coroutines that orbax leaves behind when a read fails."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    gc.collect()


@pytest.fixture
def workdir_copy(saved_workdir: Path, tmp_path: Path, failed_reads: None) -> Path:
    """A copy of `saved_workdir` that a test may damage."""
    return shutil.copytree(saved_workdir, tmp_path / "copy")
