"""Figures of a run: figures 3 and 4 of the paper, and more.

    python -m experiments.figures --workdir=DIR [--only=NAME,…] [--split=…] [--images=0,5,17]

They are written into DIR as NAME.png:

    kernels      the kernels of conv1, each column's by itself (figure 3), and how colorful
    curves       errors over epochs
    predictions  images with their label and the five most probable classes (figure 4, left)
    neighbors    the training images nearest to each by fc7's activations (figure 4, right)
    activations  what each layer computes from one image
    confusion    which class is taken for which
    mistakes     the mistakes with the highest confidence

Without --images eight are taken in the order of a fixed shuffle of the split: the first four
correct predictions and the first four wrong ones, of different classes where possible. All but
kernels and curves need the images of the run. What cannot be plotted is left out, with the reason
on stderr.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import cache, command, evaluate
from alexnet_jax.data.names import short_name
from alexnet_jax.errors import InputError
from alexnet_jax.trained import load_trained
from alexnet_jax.writers import read_records
from experiments import looking, plots
from experiments.looking import Predictions

NAMES = ("kernels", "curves", "predictions", "neighbors", "activations", "confusion", "mistakes")
NEAREST = 6  # training images beside each, as in the paper
AMONG = 10_000  # training images searched: 160 MB of fc7's activations


class Figures:
    """The figures of a workdir, by name; each is made when asked for."""

    def __init__(
        self,
        workdir: Path,
        split: str | None = None,
        images: tuple[int, ...] = (),
        among: int = AMONG,
    ) -> None:
        """Load the model in `workdir`.

        Args:
            split: whose images to use; None takes test, and validation without a test.
            images: places in the split of those to show; () chooses.
            among: training images to search for neighbors.
        """
        self.workdir = workdir
        self.model = load_trained(workdir)
        self._split, self._images, self._among = split, images, among

    @cached_property
    def split(self) -> str:
        """The split whose images are used; what was assumed about it is printed on stderr."""
        pack, split = evaluate.open_split(self.model, self._split)
        evaluate.print_assumptions(self.model, pack, self._split)
        return split

    @cached_property
    def all_predictions(self) -> Predictions:
        """The predictions for the whole split."""
        return looking.predict_split(self.model, self.split)

    @cached_property
    def shown(self) -> Predictions:
        """The predictions for the images to show."""
        if self._images:
            return looking.predict_split(self.model, self.split, index=np.array(self._images))
        rows = looking.choose_rows(self.all_predictions, correct=4, wrong=4)
        return self.all_predictions.select(rows)

    def make(self, name: str) -> Figure:
        """Return the figure of a name, one of NAMES.

        Raises:
            InputError: something that it needs is missing.
        """
        figure = getattr(self, name)()
        assert isinstance(figure, Figure)
        return figure

    def kernels(self) -> Figure:
        """Plot figure 3."""
        color = looking.measure_specialization(self.model)
        return plots.plot_kernels(looking.conv1(self.model), color.columns, color.text)

    def curves(self) -> Figure:
        """Plot errors over epochs."""
        records = read_records(self.workdir)
        if not records:
            raise InputError(
                f"{self.workdir} has no metrics.jsonl: the model was not trained there"
            )
        title = f"{self.model.config.data.name}, {self.model.step} steps"
        return plots.plot_curves(records, title)

    def predictions(self) -> Figure:
        """Plot figure 4, left."""
        return self._plot(self.shown, f"Images of the {self.shown.split} split; red label: wrong")

    def mistakes(self) -> Figure:
        """Plot the mistakes with the highest confidence."""
        predictions, split = self.all_predictions, self.split
        rows = looking.worst_mistakes(predictions, 8)
        if not len(rows):
            raise InputError(f"the model makes no mistake on the {split} split")
        wrong, count = np.count_nonzero(~predictions.correct), len(predictions.labels)
        title = f"The surest of {wrong} mistakes on {count} images of the {split} split"
        return self._plot(predictions.select(rows), title)

    def neighbors(self) -> Figure:
        """Plot figure 4, right."""
        model, shown = self.model, self.shown
        pack, _ = evaluate.open_split(model, "train")
        index = looking.sample_index(pack.splits["train"].count, self._among)
        queries = looking.predict_split(model, shown.split, index=shown.index, features=True)
        train = looking.predict_split(model, "train", index=index, features=True)
        assert queries.features is not None
        assert train.features is not None
        rows, distances = looking.nearest_neighbors(queries.features, train.features, NEAREST)
        found = looking.load_crops(model, "train", index[rows.ravel()])
        return plots.plot_neighbors(
            looking.load_crops(model, shown.split, shown.index),
            shown.labels,
            found.reshape(*rows.shape, *found.shape[1:]),
            train.labels[rows],
            distances,
            model.class_names,
            f"Images of the {shown.split} split, and the nearest of {len(index)} training images "
            "by fc7\n(their distance; red: of another class)",
        )

    def activations(self) -> Figure:
        """Plot the activations of each layer for the first image."""
        place = self.shown.index[:1]
        (image,) = looking.load_crops(self.model, self.shown.split, place)
        activations = looking.compute_image_activations(self.model, image)
        layers = looking.layer_activations(self.model.config, activations)
        name = short_name(self.model.class_names[self.shown.labels[0]])
        title = f"Image {place[0]} of the {self.shown.split} split: {name}"
        return plots.plot_activations(image, layers, title)

    def confusion(self) -> Figure:
        """Plot which class is taken for which."""
        predictions, names = self.all_predictions, self.model.class_names
        wrong = 100 * (~predictions.correct).mean()
        counts = looking.confusion_matrix(predictions.labels, predictions.classes, len(names))
        count = len(predictions.labels)
        title = f"{count} images of the {predictions.split} split, {wrong:.2f} % wrong"
        return plots.plot_confusion(counts, names, title)

    def _plot(self, predictions: Predictions, title: str) -> Figure:
        images = looking.load_crops(self.model, predictions.split, predictions.index)
        labels, probabilities = predictions.labels, predictions.probabilities
        names = self.model.class_names
        return plots.plot_predictions(images, labels, probabilities, names, title)


def make_figures(
    figures: Figures, names: Sequence[str], needed: bool, images_needed: bool = False
) -> Iterator[tuple[str, Figure]]:
    """Yield some figures with their names, in the order of NAMES.

    Args:
        needed: raise where one cannot be plotted; otherwise it is left out, with the reason on
            stderr.
        images_needed: raise where the images to show cannot be read.
    """

    def leave_out(which: Sequence[str], error: InputError, needed: bool = needed) -> None:
        if needed:
            raise error
        print(f"left out: {', '.join(which)}: {error}", file=sys.stderr)

    names = [name for name in NAMES if name in names]
    of_images = [name for name in names if name not in ("kernels", "curves")]
    if of_images:
        try:
            figures.shown  # noqa: B018 - the images are opened once for all that need them
        except InputError as error:
            leave_out(of_images, error, needed or images_needed)
            names = [name for name in names if name not in of_images]
    for name in names:
        try:
            yield name, figures.make(name)
        except InputError as error:
            leave_out([name], error)


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    if unknown := sorted({*flag.only} - {*NAMES}):
        raise InputError(
            f"--only={','.join(flag.only)}: {unknown[0]} is none of {', '.join(NAMES)}"
        )
    if wrong := [image for image in flag.images if not image.isdecimal()]:
        raise InputError(f"--images={','.join(flag.images)}: {wrong[0]} is no number from 0 on")
    images = tuple(map(int, flag.images))
    workdir = Path(flag.workdir)
    figures = Figures(workdir, flag.split, images, flag.neighbors_among)
    chosen = bool(flag.split or images)
    for name, figure in make_figures(figures, flag.only or NAMES, bool(flag.only), chosen):
        path = workdir / f"{name}.png"
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        print(path)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the command's flags."""
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True, flag_values=values)
    flags.DEFINE_list(
        "only", [], f"Figures, of {', '.join(NAMES)}; by default all.", flag_values=values
    )
    flags.DEFINE_string(
        "split", None, "Split; by default test, or validation without a test.", flag_values=values
    )
    flags.DEFINE_list(
        "images", [], "Places in the split, from 0, of the images to show.", flag_values=values
    )
    flags.DEFINE_integer(
        "neighbors_among",
        AMONG,
        "Training images to search for neighbors; all, if there are fewer.",
        lower_bound=1,
        flag_values=values,
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
