"""Images on which several modules train."""

from pathlib import Path

import pytest
from helpers.image_sets import write_idx_set


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of IDX files with 120 training images and 20 of the test split."""
    folder = tmp_path_factory.mktemp("images")
    write_idx_set(folder, train=120, test=20)
    return folder
