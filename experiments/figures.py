"""Pictures of a run: figures 3 and 4 of the paper, and more.

    python -m experiments.figures --workdir=DIR [--only=NAME,…] [--split=…] [--images=0,5,17]

They are written into DIR as NAME.png:

    kernels      the kernels of conv1, each column's by itself (figure 3), and how colourful
    curves       errors over epochs
    predictions  images with their label and the five most probable classes (figure 4, left)
    neighbours   the training images nearest to each by fc7's activations (figure 4, right)
    activations  what each layer makes of one image
    confusion    which class is taken for which
    mistakes     the mistakes that the net was surest of

Without --images eight are taken as a fixed shuffle of the split has them: the first four that the
net has right and the first four that it has wrong, of different classes where it can. All but
kernels and curves need the images of the run. What cannot be drawn is left out; stderr says why.
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
from alexnet_jax.evaluate import load_net
from alexnet_jax.writers import read_records
from experiments import looking, plots
from experiments.looking import Look

NAMES = ("kernels", "curves", "predictions", "neighbours", "activations", "confusion", "mistakes")
NEAREST = 6  # training images beside each, as in the paper
AMONG = 10_000  # training images looked through: 160 MB of fc7's activations


class Figures:
    """The pictures of a workdir, by name; each is made when asked for."""

    def __init__(
        self,
        workdir: Path,
        split: str | None = None,
        images: tuple[int, ...] = (),
        among: int = AMONG,
    ) -> None:
        """Pictures of the net in `workdir`.

        Args:
            split: whose images to look at; None takes test, and validation without a test.
            images: places in the split of those to show; () chooses.
            among: training images to look for neighbours in.
        """
        self.workdir = workdir
        self.net = load_net(workdir)
        self._split, self._images, self._among = split, images, among

    @cached_property
    def look(self) -> Look:
        """The whole split."""
        return looking.look(self.net, self._split)

    @cached_property
    def shown(self) -> Look:
        """The images to show."""
        if self._images:
            return looking.look(self.net, self._split, index=np.array(self._images))
        return self.look.at(looking.choose(self.look, right=4, wrong=4))

    def make(self, name: str) -> Figure:
        """The picture of a name, one of NAMES.

        Raises:
            InputError: what it needs is not there.
        """
        figure = getattr(self, name)()
        assert isinstance(figure, Figure)
        return figure

    def kernels(self) -> Figure:
        """Figure 3."""
        colour = looking.specialisation(self.net)
        return plots.plot_kernels(looking.conv1(self.net), colour.columns, colour.text)

    def curves(self) -> Figure:
        """Errors over epochs."""
        records = read_records(self.workdir)
        if not records:
            raise InputError(f"{self.workdir} has no metrics.jsonl: the net was not trained there")
        return plots.plot_curves(records, f"{self.net.config.data.name}, {self.net.step} steps")

    def predictions(self) -> Figure:
        """Figure 4, left."""
        return self._drawn(self.shown, f"Images of the {self.shown.split} split; red label: wrong")

    def mistakes(self) -> Figure:
        """The worst."""
        rows, split = looking.worst(self.look, 8), self.look.split
        if not len(rows):
            raise InputError(f"the net makes no mistake on the {split} split")
        wrong, count = np.count_nonzero(~self.look.right), len(self.look.labels)
        title = f"The surest of {wrong} mistakes on {count} images of the {split} split"
        return self._drawn(self.look.at(rows), title)

    def neighbours(self) -> Figure:
        """Figure 4, right."""
        net, shown = self.net, self.shown
        pack, _ = evaluate.open_split(net, "train")
        index = looking.some(pack.splits["train"].count, self._among)
        queries = looking.look(net, shown.split, index=shown.index, features=True)
        train = looking.look(net, "train", index=index, features=True)
        assert queries.features is not None
        assert train.features is not None
        rows, distances = looking.neighbours(queries.features, train.features, NEAREST)
        found = looking.pictures(net, "train", index[rows.ravel()])
        return plots.plot_neighbors(
            looking.pictures(net, shown.split, shown.index),
            shown.labels,
            found.reshape(*rows.shape, *found.shape[1:]),
            train.labels[rows],
            distances,
            net.class_names,
            f"Images of the {shown.split} split, and the nearest of {len(index)} training images "
            "by fc7\n(their distance; red: of another class)",
        )

    def activations(self) -> Figure:
        """What each layer makes of the first image."""
        place = self.shown.index[:1]
        (picture,) = looking.pictures(self.net, self.shown.split, place)
        kept = looking.layers(looking.activations(self.net, picture))
        name = short_name(self.net.class_names[self.shown.labels[0]])
        title = f"Image {place[0]} of the {self.shown.split} split: {name}"
        return plots.plot_activations(picture, kept, title)

    def confusion(self) -> Figure:
        """Which class is taken for which."""
        look, names = self.look, self.net.class_names
        wrong = 100 * (~look.right).mean()
        counts = looking.confusion(look.labels, look.predictions, len(names))
        title = f"{len(look.labels)} images of the {look.split} split, {wrong:.2f} % wrong"
        return plots.plot_confusion(counts, names, title)

    def _drawn(self, look: Look, title: str) -> Figure:
        pictures = looking.pictures(self.net, look.split, look.index)
        names = self.net.class_names
        return plots.plot_predictions(pictures, look.labels, look.probabilities, names, title)


def draw(
    figures: Figures, names: Sequence[str], needed: bool, images_needed: bool = False
) -> Iterator[tuple[str, Figure]]:
    """The pictures of some names, in the order of NAMES, each with its own.

    Args:
        needed: raise where one cannot be drawn; otherwise it is left out, and stderr says why.
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
    """The command."""
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
    figures = Figures(workdir, flag.split, images, flag.neighbours_among)
    chosen = bool(flag.split or images)
    for name, figure in draw(figures, flag.only or NAMES, bool(flag.only), chosen):
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
        "only", [], f"Pictures, of {', '.join(NAMES)}; by default all.", flag_values=values
    )
    flags.DEFINE_string(
        "split", None, "Split; by default test, or validation without a test.", flag_values=values
    )
    flags.DEFINE_list(
        "images", [], "Places in the split, from 0, of the images to show.", flag_values=values
    )
    flags.DEFINE_integer(
        "neighbours_among",
        AMONG,
        "Training images to look for neighbours in; all, if there are fewer.",
        lower_bound=1,
        flag_values=values,
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
