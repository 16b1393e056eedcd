"""CIFAR-10 in its official binary version, data_batch_1.bin … test_batch.bin."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.names import read_class_names
from alexnet_jax.data.sources.base import Example, Source
from alexnet_jax.errors import InputError, list_names

FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
NAMES_FILE = "batches.meta.txt"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"  # in the archive
ORIGIN = f"{FOLDER}, unpacked from {ARCHIVE} of https://www.cs.toronto.edu/~kriz/cifar.html"

IMAGES_PER_FILE = 10_000
SIDE, CLASSES = 32, 10
_RECORD = 1 + 3 * SIDE**2  # bytes: the label, then the planes of red, green and blue


class Cifar10BinarySource(Source):
    """A source that reads the binary version of CIFAR-10; see `Source`.

    The images are in the order of the files, and in each file as stored.
    """

    shape = (SIDE, SIDE)
    channels = 3

    def __init__(self, directory: Path):
        """Read all files of `directory` into memory, 184 MB.

        Raises:
            InputError: files are missing, damaged, of another version, or the same twice.
        """
        _check_files(directory)
        digest, digests = hashlib.sha256(), dict[bytes, str]()
        self._records: dict[str, np.ndarray] = {}
        for split, names in FILES.items():
            parts = []
            for name in names:
                parts.append(_read_records(directory / name))
                of_file = hashlib.sha256(parts[-1].data).digest()
                if of_file in digests:
                    raise InputError(
                        f"{directory / name} has the same images as {digests[of_file]}; expected "
                        f"six different files, those of {ARCHIVE}"
                    )
                digests[of_file] = name
                digest.update(of_file)
            self._records[split] = np.concatenate(parts)
        self.class_names = read_class_names(directory / NAMES_FILE, CLASSES, flag="")
        digest.update("\n".join(self.class_names).encode())
        self.counts = {split: len(records) for split, records in self._records.items()}
        self.train_labels = self._records["train"][:, 0].astype(np.int32)
        self.digest = self.stamp = digest.hexdigest()[:16]

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See `Source`."""
        for index in indices.tolist():
            record = self._records[split][index]
            pixels = record[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
            yield Example(f"{split}[{index}]", int(record[0]), pixels)


def _check_files(directory: Path) -> None:
    """Raise InputError if a file is missing."""
    expected = [*FILES["train"], *FILES["test"], NAMES_FILE]
    missing = [name for name in expected if not (directory / name).is_file()]
    if not missing:
        return
    hint = f"unpack {ARCHIVE} and give the folder {FOLDER} that it contains"
    if (directory / FOLDER).is_dir():
        hint = f"give --config.data.dir={directory / FOLDER}"
    elif (directory / "data_batch_1").is_file():
        hint = f"the files there are those of the Python version; {hint}"
    elif len(missing) < len(expected):
        others = sorted({path.name for path in directory.iterdir()} - {*expected})
        found = f"it also has {list_names(others)}; " if others else ""
        hint = f"{found}restore the names that the files have in {ARCHIVE}"
    raise InputError(f"{directory} lacks {', '.join(missing)} of CIFAR-10's binary version; {hint}")


def _read_records(path: Path) -> np.ndarray:
    """Return the records of a file, (images, 3073) uint8.

    Raises:
        InputError: the file is truncated or too long, or has a label that is no class.
    """
    content = path.read_bytes()
    if len(content) != IMAGES_PER_FILE * _RECORD:
        raise InputError(
            f"{path} has {len(content):,} bytes; expected {IMAGES_PER_FILE * _RECORD:,}, for "
            f"{IMAGES_PER_FILE:,} images of {_RECORD:,} bytes. Unpack {ARCHIVE} again"
        )
    records = np.frombuffer(content, np.uint8).reshape(IMAGES_PER_FILE, _RECORD)
    if (records[:, 0] >= CLASSES).any():
        index = int(np.argmax(records[:, 0] >= CLASSES))
        raise InputError(
            f"{path} has label {records[index, 0]} for image {index}; expected 0 to {CLASSES - 1}. "
            f"It is damaged, or not of CIFAR-10; unpack {ARCHIVE} again"
        )
    return records
