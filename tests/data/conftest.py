"""Packs of several small files, and packs of which several modules read batches."""

import numpy as np
import pytest
from helpers.image_sets import data_config, smooth_pixels, write_folder, write_idx_set
from helpers.image_shapes import shapes_config
from PIL import Image

from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import pack_writer
from alexnet_jax.data.pack import Pack
from alexnet_jax.data_config import DataConfig
from alexnet_jax.prepare import prepare


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 images in chunks of 4."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 16)
    monkeypatch.setattr(prepare_module, "_CHUNK", 4)


@pytest.fixture(scope="module")
def numbered(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[DataConfig, Pack, dict[str, np.ndarray]]:
    """Raw pack of class folders 1, 2 and 10; returns (config.data, pack, source files' pixels)."""
    path = tmp_path_factory.mktemp("numbered")
    files = write_folder(path / "images", {"1": 12, "2": 9, "10": 16})
    changes = dict(image_size=32, crop=24, lighting="source2012")
    data = data_config("folder", path / "images", pack_dir=str(path / "pack"), **changes)
    return data, prepare(data, progress=False), files


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, Pack]:
    """JPEG pack of 30 smooth images in two classes, 80 pixels; returns (config.data, pack)."""
    path = tmp_path_factory.mktemp("photos")
    for index in range(30):
        folder = path / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_pixels(80, 100, seed=index)).save(folder / f"{index:02d}.png")
    changes = dict(image_size=80, crop=64, lighting="paper")
    data = data_config("folder", path / "images", pack_dir=str(path / "pack"), **changes)
    pack = prepare(data, progress=False)
    assert pack.encoding == "jpeg"
    return data, pack


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, Pack]:
    """Raw gray pack of an IDX set; returns (config.data, pack)."""
    path = tmp_path_factory.mktemp("gray")
    write_idx_set(path / "idx", train=50, test=10)
    data = data_config("idx", path / "idx", pack_dir=str(path / "pack"))
    return data, prepare(data, progress=False)


@pytest.fixture(scope="module", params=[20, 72], ids=["raw", "jpeg"])
def prepared_shapes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, Pack]:
    """Images of many shapes, prepared as raw pixels or as JPEG."""
    data = shapes_config(tmp_path_factory.mktemp("shapes"), request.param)
    made = prepare(data, progress=False)
    assert made.encoding == ("raw" if request.param == 20 else "jpeg")
    return data, made
