"""The images for trained models: their own data set, or a folder with some of their classes."""

import dataclasses
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet_jax import distributed
from alexnet_jax.config import with_changes
from alexnet_jax.data.names import read_class_names, readable_name
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel

LISTED = 10  # number of unknown classes that a message lists


def open_data(model: TrainedModel, *, make: bool = True) -> Pack:
    """Return the data set of a model, prepared.

    Args:
        model: the model.
        make: prepare the images if necessary; False raises InputError instead.

    Raises:
        InputError: the data set is not available, has other classes, or is not the one on which
            the model was trained; or the images are smaller than the crop.
    """
    check_crop(model)
    data = model.config.data
    pack = prepare(data, source_digest=model.source_digest, make=make)
    check_classes(model.class_names, tuple(pack.class_names), data.name)
    return pack


def check_crop(model: TrainedModel) -> None:
    """Raise InputError if a model's crop is larger than its images.

    Training and the import of weights refuse such models; earlier versions imported them.
    """
    crop, side = model.config.data.crop, len(model.mean_image)
    if crop > side:
        raise InputError(
            f"the model takes crops of {crop} pixels, but its images are scaled to {side}; import "
            "its weights again by python -m alexnet_jax.convert with --config=FILE and "
            f"--config.data.image_size={crop} or more"
        )


def choose_split(model: TrainedModel, pack: Pack, split: str | None = None) -> str:
    """Return the name of the split to use.

    Args:
        model: the model.
        pack: its data set.
        split: name of the split; None takes test, or validation if there is no labeled test split.

    Raises:
        InputError: the data set has no such split.
    """
    name = model.config.data.name
    if split is None and not has_held_out(pack):
        raise InputError(
            f"{name} has training images only, so that there is nothing to evaluate on; give "
            "--split=train, or hold images out with --config.data.test_share in a new run"
        )
    split = split or ("test" if "test" in pack.splits else "validation")
    if split not in pack.splits:
        raise InputError(f"--split={split}: {name} has the splits {', '.join(pack.splits)}")
    return split


def has_held_out(pack: Pack) -> bool:
    """Return whether there are other images than those for training."""
    return len(pack.splits) > 1


def check_classes(
    model_classes: tuple[str, ...], data_classes: tuple[str, ...], data_name: str
) -> None:
    """Raise InputError if the classes of the data are not those of the model, in the same order.

    The class names of a model imported from a file without names are numbers. Its classes are
    assumed to be in the order of the data; `print_assumptions` prints that.
    """
    if model_classes == data_classes or are_numbers_of(model_classes, data_classes):
        return
    pairs = enumerate(zip(model_classes, data_classes, strict=False))
    differing = (f"class {i} is {a} and {b}; " for i, (a, b) in pairs if a != b)
    raise InputError(
        f"the model has {len(model_classes)} classes, {data_name} has {len(data_classes)}; "
        f"{next(differing, '')}expected the same in the same order"
    )


def are_numbers_of(names: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    """Return whether names are just the numbers 0, 1, 2, … of classes with proper names."""
    return names != classes and names == tuple(map(str, range(len(classes))))


def print_assumptions(model: TrainedModel, pack: Pack, split: str | None) -> None:
    """Print on stderr what was assumed about the order of classes and the split."""
    if not distributed.is_first():
        return
    name, data_classes = model.config.data.name, tuple(pack.class_names)
    if are_numbers_of(model.class_names, data_classes):
        print(
            f"The model has numbers for class names: its classes are taken in the order of "
            f"{name}'s, {data_classes[0]} first.",
            file=sys.stderr,
        )
    if split is None and "test" not in pack.splits and has_held_out(pack):
        print(f"{name} has no labeled test split: using validation.", file=sys.stderr)


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
    are held out: without folders of splits all are in the split "train". The digest of
    the images of training does not apply to them. Files that cannot be read are skipped.

    Raises:
        InputError: there is no such folder, or the images are smaller than the crop.
    """
    check_crop(model)
    if not directory.is_dir():
        raise InputError(
            f"--data_dir={directory} is not a folder; expected a folder of class folders"
        )
    changes = {
        "data.name": "folder",
        "data.dir": str(directory.absolute()),
        "data.pack_dir": "",
        "data.image_size": model.mean_image.shape[0],
        "data.validation_share": 0.0,
        "data.test_share": 0.0,
        "data.split_seed": 0,
        "data.max_bad_share": 1.0,
        "data.resident": "auto",
    }
    config = with_changes(model.config, changes)
    return dataclasses.replace(model, config=config, source_digest=None)


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
        f"{model.config.data.dir} has class folders that are not classes of the model: "
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
