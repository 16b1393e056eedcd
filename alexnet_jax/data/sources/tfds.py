"""Image classification data sets of TensorFlow Datasets."""

import difflib
import logging
import os
import socket
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.sources.base import SPLITS, Example, Source
from alexnet_jax.errors import InputError
from alexnet_jax.extras import check_installed

_IMAGENET_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def data_directory(directory: str) -> Path:
    """Return `directory`, or if it is empty the default `data_dir` of TensorFlow Datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(directory or default).expanduser().absolute()


class TfdsSource(Source):
    """A source that reads a data set of TensorFlow Datasets; see `Source`.

    Images are returned in their stored encoding. Splits without labels, such as ImageNet's test
    split, and splits with names other than train, validation and test are omitted.
    """

    def __init__(self, name: str, directory: str, other_names: Sequence[str]):
        """Open the data set; download it first if necessary and possible.

        Args:
            name: name in TensorFlow Datasets, such as "cifar10" or "imagenet2012:5.1.0".
            directory: `data_dir` of TensorFlow Datasets; "" selects the default.
            other_names: names of the sources outside TensorFlow Datasets, for messages about an
                unknown name.

        Raises:
            InputError: the data set does not exist, does not consist of labeled images, or is
                not prepared and cannot be downloaded.
        """
        self._builder = _open_builder(name, data_directory(directory), other_names)
        features = self._builder.info.features
        self._image, self._label = _supervised_keys(name, self._builder)
        with _hide_warnings():
            is_prepared = self._builder.is_prepared()
        if not is_prepared:
            _download(name, self._builder, data_directory(directory))
        self._features = [self._image, self._label]
        if "file_name" in features:
            self._features.append("file_name")
        *shape, channels = features[self._image].shape
        self.shape = None if None in shape else (shape[0], shape[1])
        self.channels = 1 if channels == 1 else 3
        self.class_names = tuple(features[self._label].names)
        counts = {split: info.num_examples for split, info in self._builder.info.splits.items()}
        self.counts = {
            split: counts[split]
            for split in SPLITS
            if counts.get(split) and next(self.read(split, np.arange(1))).label >= 0
        }
        if "train" not in self.counts:
            raise InputError(
                f"{name} has no labeled train split (but {', '.join(counts) or 'none at all'})"
            )
        self.digest = self.stamp = f"{self._builder.info.full_name} {self.counts}"

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """See `Source`."""
        import tensorflow_datasets as tfds

        wanted = set(indices.tolist())
        first, last = int(indices[0]), int(indices[-1])
        partial = tfds.decode.PartialDecoding(
            dict.fromkeys(self._features, True),
            decoders={self._image: tfds.decode.SkipDecoding()},
        )
        examples = self._builder.as_dataset(
            split=tfds.core.ReadInstruction(split, from_=first, to=last + 1, unit="abs"),
            # Read files one after another, so that an index always refers to the same image.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
            decoders=partial,
        )
        for index, example in zip(range(first, last + 1), examples, strict=True):
            if index in wanted:
                name = f"{split}[{index}]"
                if "file_name" in example:
                    name += f" {example['file_name'].numpy().decode(errors='replace')}"
                yield Example(name, int(example[self._label]), example[self._image].numpy())


def _open_builder(name: str, directory: Path, other_names: Sequence[str]) -> Any:
    """Return the builder of a data set, without reading or downloading anything."""
    *first, last = other_names
    check_installed(
        "data",
        f"--config.data.name={name} is neither {', '.join(first)} nor {last}; TensorFlow Datasets, "
        "which may have it,",
        "tensorflow",
        "tensorflow_datasets",
    )
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory)
    except tfds.core.registered.DatasetNotFoundError:
        known = [*other_names, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known)
        raise InputError(
            f"--config.data.name={name} is neither {', '.join(other_names)} nor a set of "
            f"TensorFlow Datasets{'; did you mean ' + ' or '.join(close) + '?' if close else ''}"
        ) from None
    except (ValueError, AssertionError) as error:  # for an unknown version or variant
        raise InputError(
            f"TensorFlow Datasets cannot open --config.data.name={name}: {_first_paragraph(error)}"
        ) from None


def _first_paragraph(error: Exception) -> str:
    """Return the first paragraph of an error's message, as one line.

    Its last sentence is left out if it announces a list that is empty.
    """
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    complete = paragraph.rpartition(". ")[0] if paragraph.endswith(":") else ""
    return complete or paragraph


@contextmanager
def _hide_warnings() -> Iterator[None]:
    """Within the context, hide the warnings that TensorFlow Datasets logs.

    It warns about every set that is not in the folder yet, which is no mistake of the user.
    """

    def is_other(record: logging.LogRecord) -> bool:
        is_tfds = "/tensorflow_datasets/" in record.pathname
        return not (is_tfds and record.levelno == logging.WARNING)

    logger = logging.getLogger("absl")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _supervised_keys(name: str, builder: Any) -> tuple[str, str]:
    """Return the names of the image and label features."""
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, builder.info.features
    if (
        keys is None
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
        or features[keys[1]].num_classes is None
        or features[keys[0]].shape[-1] not in (None, 1, 3, 4)
    ):
        raise InputError(
            f"{name} of TensorFlow Datasets is not a set of images with one label each"
        )
    image, label = keys
    return image, label


def _download(name: str, builder: Any, directory: Path) -> None:
    """Download and prepare the data set.

    Raises:
        InputError: the data set must be downloaded by hand and is missing, or the download
            failed.
    """
    manual = directory / "downloads" / "manual"
    if builder.name == "imagenet2012":
        _check_imagenet(name, builder, directory, manual)
    elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not manual.is_dir() or not any(manual.iterdir()):
            instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            raise InputError(
                f"{name} is not prepared in {directory} and must be downloaded by hand into "
                f"{manual}: {instructions}"
            )
    else:
        _check_network(name, builder, directory)
    import tensorflow as tf  # takes seconds to import
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # leave the accelerators to JAX
    try:
        builder.download_and_prepare()
    except (
        OSError,
        EOFError,
        tarfile.TarError,
        tf.errors.OpError,
        tfds.download.DownloadError,
        tfds.core.download.download_manager.NonMatchingChecksumError,
    ) as error:
        raise InputError(
            f"TensorFlow Datasets could not download or prepare {name} in {directory}: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        ) from error


def _check_imagenet(name: str, builder: Any, directory: Path, manual: Path) -> None:
    """Raise InputError unless both archives exist; the builder would omit a split without one."""
    missing = [tar for tar in _IMAGENET_TARS if not (manual / tar).is_file()]
    if not missing:
        return
    parent = Path(builder.data_path).parent
    others = sorted(path.name for path in parent.glob("*.*.*")) if parent.is_dir() else []
    found = (
        f" Version {others[-1]} is: --config.data.name=imagenet2012:{others[-1]}." if others else ""
    )
    raise InputError(
        f"{name} is not prepared in {directory}, and {' and '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} not in {manual}.{found}\n"
        "ImageNet cannot be downloaded by a program: register at https://image-net.org, download "
        f"{' and '.join(_IMAGENET_TARS)} (about 150 GB together) into "
        "DATA_DIR/downloads/manual, then run\n"
        "    python -m alexnet_jax.prepare --config=configs/alexnet.py --config.data.dir=DATA_DIR\n"
        "To try the program without ImageNet, on images that come with it:\n"
        "    python -m alexnet_jax.main --config=configs/alexnet.py:sample"
    )


def _check_network(name: str, builder: Any, directory: Path) -> None:
    """Raise InputError if a host name cannot be resolved; TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return
    hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos}
    for host in sorted(filter(None, hosts)):
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise InputError(
                f"{name} is not prepared in {directory} and cannot be downloaded: {host}: "
                f"{error.strerror}. Connect to the network, or name the folder where "
                "TensorFlow Datasets has it with --config.data.dir"
            ) from None
