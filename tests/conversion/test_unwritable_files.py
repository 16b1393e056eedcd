"""Models that cannot be written: one message, and no part of a file or of a workdir."""

import os
from pathlib import Path
from resource import RLIMIT_FSIZE

import pytest
from helpers.limits import limited
from helpers.torchvision_files import small_config, write_weights

from alexnet_jax import convert
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel, load_trained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model that can be written in every format."""
    path = tmp_path_factory.mktemp("model") / "net.pth"
    write_weights(path)
    return convert.read_model(path, small_config())


FORMATS = [(".safetensors", ""), (".safetensors", "torchvision"), (".pth", ""), (".onnx", "")]


@pytest.mark.parametrize(("suffix", "names"), FORMATS)
def test_a_full_disk(model: TrainedModel, tmp_path: Path, suffix: str, names: str) -> None:
    """Catches: the traceback of a library that writes the file itself, and raises an error of its
    own for a full disk; a part of a file left behind; an earlier file lost."""
    path = tmp_path / f"model{suffix}"
    path.write_text("earlier")
    (tmp_path / f".model.new{suffix}").symlink_to("/dev/full")  # where the file is written first
    with pytest.raises(InputError, match=rf"^the disk is full: {path}; make room, and run the"):
        convert.write_model(path, model, names=names)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(("suffix", "names"), FORMATS)
def test_a_folder_that_is_missing(
    model: TrainedModel, tmp_path: Path, suffix: str, names: str
) -> None:
    """Catches: a traceback for a folder that does not exist."""
    path = tmp_path / "none" / f"model{suffix}"
    with pytest.raises(InputError, match=rf"^cannot write {path}: No such file or directory; "):
        convert.write_model(path, model, names=names)


def test_a_workdir_that_cannot_be_written(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a part of a workdir left behind, whether its checkpoint or its config could not be
    written, for which the same command is then refused."""
    workdir = tmp_path / "run"
    convert.write_workdir(tmp_path / "other", model)  # compiles, and JAX writes to its cache
    with limited(RLIMIT_FSIZE, 1000), pytest.raises(InputError, match="File too large"):
        convert.write_workdir(workdir, model)
    assert not workdir.exists()

    def fail(*_: object) -> None:
        raise InputError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(convert, "write_config", fail)
        with pytest.raises(InputError, match="no room"):
            convert.write_workdir(workdir, model)
    assert not workdir.exists()
    convert.write_workdir(workdir, model)
    assert load_trained(workdir).class_names == model.class_names


def test_a_workdir_that_a_killed_process_left(model: TrainedModel, tmp_path: Path) -> None:
    """Catches: a folder refused that has no complete checkpoint; its parts kept; a folder taken
    for unused that has a checkpoint or a config."""
    workdir = tmp_path / "run"
    part = workdir / "checkpoints" / "step_0.orbax-checkpoint-tmp" / "variables"
    part.mkdir(parents=True)
    convert.write_workdir(workdir, model)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["step_0"]
    for name in ("config.json", "checkpoints"):
        other = tmp_path / f"only {name}"
        other.mkdir()
        (workdir / name).rename(other / name)
        with pytest.raises(InputError, match="already contains a run; give another folder"):
            convert.check_unused(other)


def test_a_workdir_that_cannot_be_read(tmp_path: Path) -> None:
    """Catches: a traceback for a folder that this user may not enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    user = os.geteuid()
    try:
        if user == 0:  # who may enter every folder
            os.seteuid(65534)
        with pytest.raises(InputError, match=r"cannot read the folder .*: Permission denied"):
            convert.check_unused(closed / "run")
    finally:
        os.seteuid(user)
