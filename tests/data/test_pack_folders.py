"""Folders of packs that are links or mount points."""

import os
from pathlib import Path

import pytest
from helpers.image_sets import idx_data, write_idx_set

from alexnet_jax.data import freshness
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pack_dir, prepare


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_the_folder_of_a_pack(tmp_path: Path, exists: bool) -> None:
    """Catches: a pack that is prepared beside the link, on another disk, and cannot be renamed to
    it in the end."""
    write_idx_set(tmp_path / "idx")
    (tmp_path / "large").mkdir()
    if exists:
        (tmp_path / "large" / "pack").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large" / "pack")
    data = idx_data(tmp_path, pack_dir=str(tmp_path / "link"))
    for _ in range(2):
        assert prepare(data, progress=False).directory == tmp_path / "large" / "pack"
    assert {path.name for path in tmp_path.iterdir()} == {"idx", "large", "link"}
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["pack"]


def test_a_link_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a pack in the cache that was moved to another disk, with a link in its place, and
    whose link is taken for the folder when its images have changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = idx_data(tmp_path, pack_dir="")
    link = pack_dir(data)
    prepare(data, progress=False)
    moved = link.rename(tmp_path / "moved")
    link.symlink_to(moved)
    assert pack_dir(data) == moved
    write_idx_set(tmp_path / "idx", train=90)
    assert prepare(data, progress=False).splits["train"].count == 81
    assert link.readlink() == moved
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "idx", "moved"}


def test_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: hours of preparation until the pack cannot be renamed to its folder, "Device or
    resource busy"; a finished pack refused where it is mounted."""
    (tmp_path / "pack").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "pack")
    listed: list[int] = []
    monkeypatch.setattr(freshness, "current_source", lambda _: listed.append(1))
    with pytest.raises(InputError, match=r"pack is a mount point, .*pack_dir=.*/pack/pack$"):
        prepare(idx_data(tmp_path), progress=False)
    assert listed == []
    monkeypatch.undo()
    prepare(idx_data(tmp_path), progress=False)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "pack")
    assert prepare(idx_data(tmp_path), progress=False).splits["train"].count == 90
