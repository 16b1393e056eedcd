"""Print the five most probable classes of image files.

    python -m alexnet_jax.predict --workdir=DIR [--json] [--class_names=FILE] IMAGE…

Each IMAGE is a file, or a folder of files. Each image is prepared as the training images were
(section 2) and classified from its center crop. The answers are in the order given, those of a
folder in the order of the names. Files that cannot be read are named on stderr.

Exit status: 0 if all images were classified; 2 if any could not be read, and for wrong use.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from absl import flags

from alexnet_jax import cache, command, sharding
from alexnet_jax.data import images
from alexnet_jax.data.batch import center_crops
from alexnet_jax.data.crops import central_square, evaluation_scale
from alexnet_jax.data.names import readable_name
from alexnet_jax.data.parallel_map import chunked
from alexnet_jax.data.sources.layout import list_files
from alexnet_jax.diagnostics import check_outputs
from alexnet_jax.errors import InputError
from alexnet_jax.model_data import check_crop, with_class_names
from alexnet_jax.trained import TrainedModel, load_trained

BATCH_SIZE = 32

Name = TypeVar("Name")


def predict(
    model: TrainedModel, named_images: Iterable[tuple[Name, np.ndarray]]
) -> Iterator[tuple[Name, list[tuple[str, float]]]]:
    """Yield each name with up to five pairs (class name, probability), most probable first.

    Args:
        model: the model.
        named_images: pairs of a name, of any type, and pixels (height, width, channels) uint8 from
            `data.images.load`, with the same shorter side.

    Raises:
        DivergedError: a probability is not finite.
    """
    crop, channels = model.config.data.crop, model.config.model.channels
    predict_batch = model.make_predict_fn(sharding.make_data_mesh(1))
    for group in chunked(named_images, BATCH_SIZE):
        names, pixels = zip(*group, strict=True)
        batch = center_crops(np.stack([central_square(image) for image in pixels]), crop, channels)
        probabilities_BxC = np.exp(np.asarray(predict_batch(batch)))
        check_outputs("probabilities", probabilities_BxC)
        for name, probabilities in zip(names, probabilities_BxC, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:5]
            yield name, [(model.class_names[c], float(probabilities[c])) for c in best]


def print_predictions(model: TrainedModel, paths: Iterable[str], *, as_json: bool = False) -> int:
    """Print the predictions for image files in the order given.

    A folder stands for the visible files below it, sorted by path. Unreadable files and folders
    are reported on stderr and skipped, and so are folders without files.

    Returns:
        The number of unreadable files and folders, and of empty folders.

    Raises:
        InputError: the model's images are smaller than its crop.
        DivergedError: see `predict`.
    """
    check_crop(model)
    side, _, channels = model.mean_image.shape
    scale = evaluation_scale(model.config.data, side)
    unreadable = 0

    def report(message: str) -> None:
        nonlocal unreadable
        print(message, file=sys.stderr)
        unreadable += 1

    def load_images() -> Iterator[tuple[str, np.ndarray]]:
        for path in chain.from_iterable(_files(path, report) for path in paths):
            try:
                pixels = images.load(
                    Path(path), side=scale, channels=channels, resize=model.config.data.resize
                )
            except images.UnreadableImageError as error:
                report(f"{path}: cannot read this image: {error}")
                continue
            yield path, pixels

    for path, top in predict(model, load_images()):
        if as_json:
            classes = [{"class": name, "probability": share} for name, share in top]
            print(json.dumps({"image": path, "top5": classes}))
        else:
            print(path)
            for name, share in top:
                print(f"  {share:7.2%}  {readable_name(name)}")
    return unreadable


def _files(path: str, report: Callable[[str], None]) -> list[str]:
    """Return the visible files below a folder, sorted by path; the path itself without any.

    Args:
        path: a file or folder.
        report: called with a message for each folder that cannot be read.
    """
    if not os.path.isdir(path):
        return [path]
    notes: list[str] = []
    errors: list[OSError] = []
    files = [file.path for file in list_files(Path(path), [], notes, errors.append)]
    for note in notes:
        print(note, file=sys.stderr)
    for error in errors:
        report(f"{error.filename}: cannot read this folder: {error.strerror}")
    return files if files or errors else [path]


def main(arguments: list[str]) -> int:
    """Run the command; return 2 if an image could not be read, else 0."""
    if not arguments:
        raise InputError("no images given; expected files or folders after --workdir=DIR")
    cache.keep_compiled()
    images.ignore_pillow_warnings()
    model = load_trained(flags.FLAGS.workdir)
    if flags.FLAGS.class_names:
        model = with_class_names(model, Path(flags.FLAGS.class_names))
    return 2 if print_predictions(model, arguments, as_json=flags.FLAGS.json) else 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("class_names", None, "Text file of the model's class names, one per line.")
    flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")
    command.run(main)
