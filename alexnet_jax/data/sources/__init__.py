"""Sources of labeled images with a common interface: folders, IDX files, TensorFlow Datasets.

A source lists its splits and reads images by index. alexnet_jax/prepare.py resizes and stores
them.
"""

from pathlib import Path

import numpy as np

from alexnet_jax.config import DataConfig
from alexnet_jax.data.augmentation import permutation
from alexnet_jax.data.sources.base import SPLITS, Example, Source
from alexnet_jax.data.sources.folder import FolderSource
from alexnet_jax.data.sources.idx import IdxSource
from alexnet_jax.data.sources.tfds import TfdsSource, data_directory
from alexnet_jax.errors import InputError

__all__ = [
    "NUM_CLASSES",
    "SAMPLE_DIRECTORY",
    "SPLITS",
    "Example",
    "Source",
    "hold_out",
    "location",
    "open_source",
]

SAMPLE_DIRECTORY = Path(__file__).parents[1] / "sample"

# Number of classes of data sets for which it is known without reading them.
NUM_CLASSES = {
    "imagenet2012": 1000,
    "imagenette": 10,
    "cifar10": 10,
    "fashion_mnist": 10,
    "sample": 10,
}


def open_source(data: DataConfig) -> Source:
    """Open the source that config.data names.

    Raises:
        InputError: The source does not exist, or its files are damaged or have another format.
    """
    if data.name == "sample":
        return IdxSource(SAMPLE_DIRECTORY)
    if data.name in ("folder", "idx"):
        directory = Path(data.dir).expanduser()
        if not data.dir or not directory.is_dir():
            raise InputError(
                f"--config.data.dir={data.dir!r} is not a folder; --config.data.name={data.name} "
                "needs the folder where the images are"
            )
        return FolderSource(directory) if data.name == "folder" else IdxSource(directory)
    return TfdsSource(data.name, data.dir)


def location(data: DataConfig) -> Path:
    """Return the absolute path of the source's folder, with defaults filled in."""
    if data.name == "sample":
        return Path()  # independent of where the package is installed
    if data.name in ("folder", "idx"):
        return Path(data.dir).expanduser().resolve()
    return data_directory(data.dir)


def hold_out(source: Source, data: DataConfig) -> dict[str, tuple[str, np.ndarray]]:
    """Divide a source into the splits of the pack.

    The splits of the source are kept. If it has no validation split, `data.validation_share` of
    the training images become one; if it has neither a validation nor a test split,
    `data.test_share` of them become the test split. `data.split_seed` selects these images.

    Returns:
        For each split of the pack, the name of the source's split and ascending indices in it.

    Raises:
        InputError: No training image would remain.
    """
    splits = {name: (name, np.arange(count)) for name, count in source.counts.items()}
    count = source.counts["train"]
    shares = {}
    if "validation" not in source.counts:
        shares["validation"] = data.validation_share
        if "test" not in source.counts:
            shares["test"] = data.test_share
    shuffled = permutation(data.split_seed, count)
    taken = 0
    for name, share in shares.items():
        size = round(share * count)
        if size:
            splits[name] = ("train", np.sort(shuffled[taken : taken + size]))
        taken += size
    if taken >= count:
        raise InputError(
            f"of {count} training images {taken} would be held out and none left; lower "
            + " and ".join(f"--config.data.{name}_share" for name in shares)
        )
    splits["train"] = ("train", np.sort(shuffled[taken:]))
    return {name: splits[name] for name in SPLITS if name in splits}
