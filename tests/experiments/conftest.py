"""A config whose runs several modules report on."""

import pytest
from helpers.reported_runs import make_reported_config

from alexnet_jax.config import Config


@pytest.fixture(scope="module")
def reported_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a small model on a folder of noise, whose pack is made."""
    return make_reported_config(tmp_path_factory.mktemp("images"))
