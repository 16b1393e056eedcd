"""Make the figures of a workdir by name.

`predictions.py` and `channels.py` compute the arrays; `plots.py` and `channel_plots.py` plot them.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax import model_data
from alexnet_jax.analysis.deconvnet import methods_for
from alexnet_jax.analysis.invariance import (
    ROTATION,
    SCALE,
    TRANSLATION,
    compute_invariance_curves,
    transform_images,
)
from alexnet_jax.analysis.occlusion import compute_occlusion_maps
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.records import read_records, training_records
from alexnet_jax.trained import load_trained
from experiments.figures import channel_plots, plots
from experiments.figures.channels import (
    Projector,
    compute_channel_patches,
    compute_evolution,
    convolution_ops,
    find_peak,
)
from experiments.figures.colorfulness import measure_specialization
from experiments.figures.fonts import replace_undrawable_names
from experiments.figures.predictions import (
    Predictions,
    choose_rows,
    compute_image_activations,
    confusion_matrix,
    find_neighbors,
    first_conv_kernels,
    first_conv_name,
    hidden_ops,
    layer_activations,
    load_crops,
    predict_split,
    sample_index,
    worst_mistakes,
)

NAMES = (
    *("kernels", "curves", "predictions", "neighbors", "activations", "confusion", "mistakes"),
    *("strongest", "evolution", "projections", "occlusion", "invariance"),
)
MAX_LAYERS = 20  # whose activations are shown; models of more show some of them
NUM_NEIGHBORS = 6  # of each image, as in the paper
NEIGHBOR_CANDIDATES = 10_000  # training images searched: 160 MB of fc7's activations
EVOLUTION_CANDIDATES = 1_000  # training images searched, once for every checkpoint
NUM_STRONGEST = 9  # activations of a channel, as in figure 2 of Zeiler and Fergus
NUM_CHANNELS = 4  # of a layer
NUM_EVOLVING = 2  # channels of a layer whose evolution is shown
NUM_PROJECTED = 4  # images
NUM_TRANSFORMED = 5  # images, as in figure 5
MAX_SHIFT = 4  # images are moved by up to a fraction of the crop: 1 / MAX_SHIFT
OCCLUDER = 4  # the gray square's side is a fraction of the crop's: 1 / OCCLUDER
OCCLUSION_POSITIONS = 20  # positions of the square along an axis, about


class Figures:
    """The figures of a workdir, by name; each is made when asked for."""

    def __init__(
        self,
        workdir: Path,
        split: str | None = None,
        images: tuple[int, ...] = (),
        neighbors_among: int = NEIGHBOR_CANDIDATES,
        evolution_among: int = EVOLUTION_CANDIDATES,
    ) -> None:
        """Load the model in `workdir`.

        Args:
            split: whose images to use; None takes test, and validation without a test.
            images: indices in the split of those to show; () chooses.
            neighbors_among: training images to search for neighbors.
            evolution_among: training images to search for the strongest activations of every
                checkpoint.
        """
        self.workdir = workdir
        self.model = load_trained(workdir)
        self._split, self._images = split, images
        self._neighbors_among, self._evolution_among = neighbors_among, evolution_among

    @cached_property
    def pack(self) -> Pack:
        """The data set of the model, opened once for all figures."""
        return model_data.open_data(self.model)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; see `replace_undrawable_names`."""
        return replace_undrawable_names(self.model.class_names)

    @cached_property
    def split(self) -> str:
        """The split whose images are used; what was assumed about it is printed on stderr."""
        split = model_data.choose_split(self.model, self.pack, self._split)
        model_data.print_assumptions(self.model, self.pack, self._split)
        return split

    @cached_property
    def all_predictions(self) -> Predictions:
        """The predictions for the whole split."""
        return predict_split(self.model, self.pack, self.split)

    @cached_property
    def shown(self) -> Predictions:
        """The predictions for the images to show."""
        if self._images:
            return predict_split(self.model, self.pack, self.split, index=np.array(self._images))
        rows = choose_rows(self.all_predictions, correct=4, wrong=4)
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
        color = measure_specialization(self.model)
        kernel, layer = first_conv_kernels(self.model), first_conv_name(self.model.config)
        assert layer is not None
        return plots.plot_kernels(kernel, color.columns, color.text, layer)

    def curves(self) -> Figure:
        """Plot errors over epochs."""
        records = read_records(self.workdir)
        if not training_records(records):
            raise InputError(
                f"{self.workdir} has no records of training in metrics.jsonl: the model was not "
                "trained there, or its training has just begun"
            )
        title = f"{self.model.config.data.name}, {self.model.step} steps"
        return plots.plot_curves(records, title)

    def predictions(self) -> Figure:
        """Plot figure 4, left."""
        return self._plot(self.shown, f"Images of the {self.split} split (red: misclassified)")

    def mistakes(self) -> Figure:
        """Plot the mistakes with the highest confidence."""
        predictions, split = self.all_predictions, self.split
        rows = worst_mistakes(predictions, 8)
        if not len(rows):
            raise InputError(f"no image of the {split} split is misclassified")
        wrong, count = np.count_nonzero(~predictions.correct), len(predictions.labels)
        title = f"The most confident of {wrong} mistakes on {count} images of the {split} split"
        return self._plot(predictions.select(rows), title)

    def neighbors(self) -> Figure:
        """Plot figure 4, right."""
        model, shown = self.model, self.shown
        found = find_neighbors(model, self.pack, shown, self._neighbors_among, NUM_NEIGHBORS)
        crops = load_crops(model, self.pack, "train", found.index.ravel())
        return plots.plot_neighbors(
            load_crops(model, self.pack, shown.split, shown.index),
            shown.labels,
            crops.reshape(*found.index.shape, *crops.shape[1:]),
            found.labels,
            found.distances,
            self.names,
            f"Images of the {shown.split} split, and {found.text}\n"
            "(with distances; red: another class)",
        )

    def activations(self) -> Figure:
        """Plot the activations of each layer, of deep models of some, for the first image."""
        index = self.shown.index[:1]
        (image,) = load_crops(self.model, self.pack, self.shown.split, index)
        activations = compute_image_activations(self.model, image)
        layers = layer_activations(self.model.config, activations, MAX_LAYERS)
        name = plots.class_label(self.names[self.shown.labels[0]], 40)
        title = f"Image {index[0]} of the {self.shown.split} split:\n{name}"
        return plots.plot_activations(image, layers, title)

    def confusion(self) -> Figure:
        """Plot the confusion matrix."""
        predictions, names = self.all_predictions, self.names
        wrong = 100 * (~predictions.correct).mean()
        counts = confusion_matrix(predictions.labels, predictions.classes, len(names))
        count = len(predictions.labels)
        images = f"{count} images of the {predictions.split} split"
        title = f"True and predicted class of {images}, {wrong:.2f} % misclassified"
        return plots.plot_confusion(counts, names, title)

    @cached_property
    def projector(self) -> Projector:
        """The projections of this model's activations."""
        return Projector(self.model)

    def strongest(self) -> Figure:
        """Plot figure 2 of Zeiler and Fergus."""
        layers = convolution_ops(self.model.config)
        found = compute_channel_patches(
            self.projector, self.pack, self.split, layers, NUM_CHANNELS, NUM_STRONGEST
        )
        title = (
            f"The strongest activations of channels over the {self.split} split, projected to "
            f"pixels ({methods_for(self.model.config)[0]}), and the patches of the images"
        )
        return channel_plots.plot_strongest(found, title)

    def evolution(self) -> Figure:
        """Plot figure 4 of Zeiler and Fergus."""
        layers = convolution_ops(self.model.config)
        index = sample_index(self.pack.splits["train"].count, self._evolution_among)
        found = compute_evolution(
            self.projector, self.workdir, self.pack, layers, NUM_EVOLVING, index
        )
        title = (
            "The strongest activation of channels\n"
            f"on {len(index)} training images, projected to pixels"
        )
        return channel_plots.plot_evolution(found, title)

    def projections(self) -> Figure:
        """Plot the projections of one activation of each image by all methods."""
        op, shown, crops = self._last_conv(), *self._first_shown(NUM_PROJECTED)
        peaks = [find_peak(compute_image_activations(self.model, c)[op]) for c in crops]
        positions = np.array([peak.position for peak in peaks])
        names = [
            f"{plots.class_label(self.names[label])}\nchannel {peak.channel}"
            for label, peak in zip(shown.labels, peaks, strict=True)
        ]
        found = {
            m: self.projector.project(op, crops, positions, m)
            for m in methods_for(self.model.config)
        }
        title = f"The strongest activation of {op} in images of the {shown.split} split, projected"
        return channel_plots.plot_projections(crops, names, found, title)

    def occlusion(self) -> Figure:
        """Plot figure 7 of Zeiler and Fergus."""
        model, op = self.model, self._last_conv()
        shown, crops = self._first_shown(NUM_PROJECTED)
        activations = [compute_image_activations(model, crop)[op] for crop in crops]
        channels = np.array([each.sum((0, 1)).argmax() for each in activations])
        positions = np.array(
            [
                find_peak(each, channel).position
                for each, channel in zip(activations, channels, strict=True)
            ]
        )
        crop = model.config.data.crop
        side = -(-crop // OCCLUDER)
        step = max(1, (crop - side) // OCCLUSION_POSITIONS)
        maps = compute_occlusion_maps(model, crops, op, side, step)
        title = (
            f"A gray square of {side}×{side} pixels over images of the {shown.split} split: "
            "the model's outputs by the place of its center"
        )
        projections = self.projector.project(op, crops, positions)
        return channel_plots.plot_occlusion(
            crops, shown.labels, maps, channels, projections, self.names, op, title
        )

    def invariance(self) -> Figure:
        """Plot figure 5 of Zeiler and Fergus."""
        model = self.model
        shown, crops = self._first_shown(NUM_TRANSFORMED)
        hidden = [*hidden_ops(model.config).values()]
        if not hidden:
            raise InputError("the model has no hidden layer, and so no features of images")
        ops = list(dict.fromkeys((hidden[0], hidden[-1])))
        reach = model.config.data.crop / MAX_SHIFT
        transforms = [
            (TRANSLATION, np.linspace(-reach, reach, 13)),
            (SCALE, np.linspace(1, 1.8, 17)),
            (ROTATION, np.linspace(0, 360, 37)),
        ]
        curves = compute_invariance_curves(model, crops, shown.labels, transforms, ops)
        strips = []
        for kind, values in transforms:
            some = values[:: len(values) // 4]
            strips.append(np.concatenate([transform_images(crops[:1], kind, v) for v in some]))
        title = f"Transformed images of the {shown.split} split: features and probabilities"
        return channel_plots.plot_invariance(curves, strips, shown.labels, self.names, title)

    def _last_conv(self) -> str:
        """Return the nonlinearity of the last convolution."""
        *_, op = convolution_ops(self.model.config).values()
        return op

    def _first_shown(self, count: int) -> tuple[Predictions, np.ndarray]:
        """Return the predictions for the first of the images to show, and their crops."""
        shown = self.shown.select(np.arange(min(count, len(self.shown.index))))
        return shown, load_crops(self.model, self.pack, shown.split, shown.index)

    def _plot(self, predictions: Predictions, title: str) -> Figure:
        """Plot images with their labels and most probable classes."""
        images = load_crops(self.model, self.pack, predictions.split, predictions.index)
        labels, probabilities = predictions.labels, predictions.probabilities
        names = self.names
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
        """Raise the error if the figures are needed; otherwise print why they are left out."""
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
