"""Sources of labeled images with a common interface: folders, other files, TensorFlow Datasets.

A source lists its splits and reads images by index. alexnet_jax/prepare.py resizes and stores
them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet_jax.data.augmentation import permutation
from alexnet_jax.data.sources import cifar10_binary
from alexnet_jax.data.sources.base import SPLITS, Example, Source
from alexnet_jax.data.sources.folder import FolderSource
from alexnet_jax.data.sources.idx import IdxSource
from alexnet_jax.data.sources.tfds import TfdsSource, data_directory
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError

__all__ = [
    "FILE_SOURCES",
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

# Sources that read the user's files in config.data.dir, by their name.
FILE_SOURCES: dict[str, Callable[[Path], Source]] = {
    "folder": FolderSource,
    "idx": IdxSource,
    "cifar10_binary": cifar10_binary.Cifar10BinarySource,
}

# Number of classes of data sets for which it is known without reading them.
NUM_CLASSES = {
    "imagenet2012": 1000,
    "imagenette": 10,
    "cifar10": 10,
    "cifar10_binary": 10,
    "fashion_mnist": 10,
    "sample": 10,
}


def open_source(data: DataConfig) -> Source:
    """Open the source that config.data names.

    Raises:
        InputError: the source does not exist, its files are damaged or have another format, they
            cannot be read, or all images are of one class.
    """
    try:
        source = _open_source(data)
    except OSError as error:
        raise InputError(f"cannot read the images of --config.data.dir: {error}") from error
    if len(source.class_names) < 2:
        raise InputError(
            f"the images of --config.data.name={data.name} are of one class only, "
            f"{source.class_names[0]}; expected are two classes or more"
        )
    return source


def _open_source(data: DataConfig) -> Source:
    """Open the source; see `open_source`."""
    if data.name == "sample":
        # Its names do not change, and runs have recorded the digest without them.
        return IdxSource(SAMPLE_DIRECTORY, names_in_digest=False)
    if data.name in FILE_SOURCES:
        directory = Path(data.dir).expanduser()
        if not data.dir or not directory.is_dir():
            origin = f": {cifar10_binary.ORIGIN}" if data.name == "cifar10_binary" else ""
            problem = f"={data.dir} is not a folder" if data.dir else " is missing"
            raise InputError(
                f"--config.data.dir{problem}; --config.data.name={data.name} needs the folder "
                f"where the images are{origin}"
            )
        return FILE_SOURCES[data.name](directory)
    return TfdsSource(data.name, data.dir, ("sample", *FILE_SOURCES))


def location(data: DataConfig) -> Path:
    """Return the absolute path of the source's folder, with defaults filled in."""
    if data.name == "sample":
        return Path()  # independent of where the package is installed
    if data.name in FILE_SOURCES:
        return Path(data.dir).expanduser().resolve()
    return data_directory(data.dir)


def hold_out(source: Source, data: DataConfig) -> dict[str, tuple[str, np.ndarray]]:
    """Divide a source into the splits of the pack.

    The splits of the source are kept. If it has no validation split, `data.validation_share` of
    the training images become one; if it has neither a validation nor a test split,
    `data.test_share` of them become the test split. `data.split_seed` selects these images.

    Of the user's files, each class gives its share, and at least one image to each split if the
    split is large enough and two are left. For the sample and the sets of TensorFlow Datasets, the
    selection does not depend on the classes: their labels are known only by reading them, and
    published results depend on the selection.

    Returns:
        For each split of the pack, the name of the source's split and ascending indices in it.

    Raises:
        InputError: no training image would remain.
    """
    splits = {name: (name, np.arange(count)) for name, count in source.counts.items()}
    count = source.counts["train"]
    shares = {}
    if "validation" not in source.counts:
        shares["validation"] = data.validation_share
        if "test" not in source.counts:
            shares["test"] = data.test_share
    sizes = {name: round(share * count) for name, share in shares.items()}
    if sum(sizes.values()) >= count:
        raise InputError(
            f"of {count} training images {sum(sizes.values())} would be held out and none left; "
            "lower " + " and ".join(f"--config.data.{name}_share" for name in shares)
        )
    labels = None if data.name == "sample" else source.train_labels
    remaining = permutation(data.split_seed, count)
    for name, size in sizes.items():
        is_taken = _select(remaining, size, labels)
        if is_taken.any():
            splits[name] = ("train", np.sort(remaining[is_taken]))
            remaining = remaining[~is_taken]
    splits["train"] = ("train", np.sort(remaining))
    return {name: splits[name] for name in SPLITS if name in splits}


def _select(candidates: np.ndarray, size: int, labels: np.ndarray | None) -> np.ndarray:
    """Return which candidates to hold out, (n,) bool: the first ones, of each class if labeled.

    Args:
        candidates: (n,) indices of images, in random order.
        size: number of images to hold out.
        labels: (count,) label of each image; None selects without regard to classes.
    """
    if labels is None:
        return np.arange(len(candidates)) < size
    candidate_labels = labels[candidates]
    available = np.bincount(candidate_labels)
    order = np.argsort(candidate_labels, kind="stable")  # by class, each in the random order
    rank = np.empty(len(candidates), np.int64)  # the place of a candidate in its class
    rank[order] = np.arange(len(candidates)) - np.repeat(
        np.cumsum(available) - available, available
    )
    selected: np.ndarray = rank < _share_out(size, available)[candidate_labels]
    return selected


def _share_out(size: int, available: np.ndarray) -> np.ndarray:
    """Return how many images of each class to hold out, in proportion to its images.

    A class with three or more images gives at least one, as far as `size` allows, and every class
    keeps at least one. Without that, these are the proportions rounded by largest remainders.

    Args:
        size: number of images to hold out, which is less than their number.
        available: (classes,) number of images of each class.
    """
    exact = size * available / available.sum()
    least, most = np.where(available > 2, 1, 0), np.maximum(available - 1, 0)
    counts: np.ndarray = np.clip(np.floor(exact).astype(np.int64), least, most)
    while counts.sum() > size:
        can_give = counts > (least if (counts > least).any() else 0)
        counts[np.argmax(np.where(can_give, counts - exact, -np.inf))] -= 1
    while counts.sum() < min(size, most.sum()):
        counts[np.argmax(np.where(counts < most, exact - counts, -np.inf))] += 1
    return counts
