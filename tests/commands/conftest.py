"""A small config on few images."""

from pathlib import Path

import pytest
from helpers import processes
from helpers.image_sets import write_idx_set

from alexnet_jax import command
from alexnet_jax.config import Config


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small config, on images whose pack is made once."""
    folder = tmp_path_factory.mktemp("wrong_use")
    write_idx_set(folder / "data", train=120, test=20)
    return processes.write_config(folder, folder / "data")


@pytest.fixture
def config(config_file: Path) -> Config:
    """The same config in this process, neither checked nor sealed."""
    return command.load_config(str(config_file))
