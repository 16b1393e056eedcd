"""Use trained models on a folder of labeled images, whose classes are some of theirs."""

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet_jax.config import with_changes
from alexnet_jax.data.names import read_class_names, readable_name
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel

LISTED = 10  # number of unknown classes that a message lists


def with_class_names(model: TrainedModel, path: Path) -> TrainedModel:
    """Return the model with other names of its classes.

    Args:
        model: the model.
        path: text file with one name per line, in the order of the model's classes.

    Raises:
        InputError: see `read_class_names`.
    """
    names = read_class_names(path, model.config.model.num_classes)
    return dataclasses.replace(model, class_names=names)


def with_folder(model: TrainedModel, directory: Path) -> TrainedModel:
    """Return the model with a config whose data are the images of a folder.

    They are prepared like the images that the model was trained on, to the same size. No images
    are held out: without folders of splits all are in the split "train".
    """
    changes = {
        "data.name": "folder",
        "data.dir": str(directory.expanduser().absolute()),
        "data.pack_dir": "",
        "data.image_size": model.mean_image.shape[0],
        "data.validation_share": 0.0,
        "data.test_share": 0.0,
        "data.split_seed": 0,
    }
    return dataclasses.replace(model, config=with_changes(model.config, changes))


def open_folder(model: TrainedModel) -> Pack:
    """Return the prepared images of a folder, with the labels and class names of the model.

    The names of the class folders are those of some of the model's classes.

    Args:
        model: a model from `with_folder`.

    Raises:
        InputError: the model does not have one of the classes, or the folder cannot be used; see
            `prepare`.
    """
    pack = prepare(model.config.data, channels=model.mean_image.shape[-1])
    labels = {name: label for label, name in enumerate(model.class_names)}
    if unknown := [name for name in pack.class_names if name not in labels]:
        raise _unknown_classes(model, unknown)
    to_model = np.array([labels[name] for name in pack.class_names], np.int32)
    for split in pack.splits.values():
        split.labels = to_model[split.labels]
    pack.class_names = model.class_names
    return pack


def _unknown_classes(model: TrainedModel, unknown: list[str]) -> InputError:
    """Return the error for classes of a folder that the model does not have."""
    listed = [f"{name} ({_nearest(name, model.class_names)})" for name in unknown[:LISTED]]
    more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
    return InputError(
        f"{model.config.data.dir} has class folders that the model does not know: "
        f"{', '.join(listed)}{more}. Rename or remove them, or give the names of the model's "
        f"{len(model.class_names)} classes with --class_names=FILE, one per line"
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the names most similar to an unknown one, as text."""
    by_text = {text.lower(): k for k in known for text in (k, *_lemmas(k))}
    close = difflib.get_close_matches(name.lower(), by_text, n=3, cutoff=0.5)
    names = dict.fromkeys(readable_name(by_text[text]) for text in close)
    return f"nearest: {' or '.join(names)}" if names else "nothing similar"


def _lemmas(name: str) -> list[str]:
    """Return the readable names of a WordNet synset; [] for other names."""
    readable = readable_name(name)
    return [] if readable == name else readable.removesuffix(f" ({name})").split(", ")
