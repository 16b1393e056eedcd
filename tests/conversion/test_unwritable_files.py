"""Models that cannot be written: one message, and no part of a file."""

from pathlib import Path

import pytest
from helpers.torchvision_files import small_config, write_weights

from alexnet_jax import convert
from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel


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
