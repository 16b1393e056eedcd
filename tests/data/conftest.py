"""Packs of several small files."""

import pytest

from alexnet_jax import prepare as prepare_module
from alexnet_jax.data import pack_writer


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 images in chunks of 4."""
    monkeypatch.setattr(pack_writer, "SHARD_IMAGES", 16)
    monkeypatch.setattr(prepare_module, "_CHUNK", 4)
