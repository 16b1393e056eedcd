"""Check whether a pack can be written, before hours are spent on its images."""

import os
import shutil
from pathlib import Path

from alexnet_jax.data.images import JPEG_MAX_SIDE, MAX_ASPECT
from alexnet_jax.data.manifest import partial_directory
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError


def check_folder(directory: Path) -> None:
    """Raise InputError if the folder of a pack to be made is a mount point.

    A pack is made beside its folder and then renamed, which a mount point cannot be.
    """
    if os.path.ismount(directory):
        raise InputError(
            f"{directory} is a mount point, which cannot be a pack's folder itself; name a folder "
            f"inside it, such as --config.data.pack_dir={directory / 'pack'}"
        )


def check_room(directory: Path, size: int) -> None:
    """Raise InputError if the disk has no room for the pixels of a pack.

    Args:
        directory: folder of the pack. The finished shards of an unfinished one count as room.
        size: bytes of all images if they are square; others take more.
    """
    written = sum(path.stat().st_size for path in partial_directory(directory).glob("*.records"))
    free = shutil.disk_usage(directory.parent).free
    if size > written + free:
        raise InputError(
            f"the pixels of the images take {size / 1e9:.1f} GB, and {directory.parent} has room "
            f"for {(written + free) / 1e9:.1f} GB; make room, set "
            "--config.data.pack_dir to a folder on another disk, or store JPEGs with "
            "--config.data.encoding=auto"
        )


def check_jpeg_sides(data: DataConfig, side: int) -> None:
    """Raise InputError if scaled images may be too long for JPEG.

    Args:
        data: config.data.
        side: length of the shorter side of the images in pixels.
    """
    aspect = MAX_ASPECT if data.resize == "shorter_side" else 1
    if aspect * side > JPEG_MAX_SIDE:
        raise InputError(
            f"with --config.data.image_size={data.image_size} and --config.data.resize="
            f"{data.resize}, images of up to {aspect * side} pixels would be stored, and JPEG has "
            f"at most {JPEG_MAX_SIDE}; set an image_size of {JPEG_MAX_SIDE // aspect} or less, or "
            "store raw pixels with --config.data.encoding=raw"
        )
