"""Figures of a run: figures 3 and 4 of the paper, those of Zeiler and Fergus (2013), and more.

    python -m experiments.figures --workdir=DIR [--only=NAME,…] [--split=…] [--images=0,5,17]

They are written into DIR as NAME.png:

    kernels      the kernels of the first convolution by column, with their colorfulness (figure 3)
    curves       errors over epochs
    predictions  images with their label and the five most probable classes (figure 4, left)
    neighbors    the training images nearest to each by the input of the classifier, such as fc7's
                 activations (figure 4, right)
    activations  the activations of each layer, of deep models of 20 of them, for one image
    confusion    the confusion matrix; with many classes, the pairs most often confused
    mistakes     the mistakes with the highest confidence

and, as in Visualizing and Understanding Convolutional Networks (2013):

    strongest    the nine strongest activations of channels over the split, projected to pixels by
                 a deconvnet, beside the patches of the images (figure 2)
    evolution    the projection of channels' strongest activation at the run's checkpoints
                 (figure 4)
    projections  the strongest activation of the last convolution in some images, projected by
                 deconvnet, guided backpropagation and gradient
    occlusion    the model's outputs while a gray square covers parts of images (figure 7)
    invariance   features and probabilities of images that are moved, scaled and rotated (figure 5)

For models with branches, GoogLeNet and residual networks, activations are projected by the gradient
alone, since the other methods are not defined for them.

Without --images eight are taken in the order of a fixed shuffle of the split: the first four
correct predictions and the first four wrong ones, of different classes where possible. All but
kernels and curves need the images of the run. What cannot be plotted is left out, with the reason
on stderr.
"""

from pathlib import Path

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.errors import InputError
from experiments.figures.workdir_figures import (
    EVOLUTION_CANDIDATES,
    NAMES,
    NEIGHBOR_CANDIDATES,
    Figures,
    make_figures,
)
from experiments.outputs import write_figure


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
    figures = Figures(workdir, flag.split, images, flag.neighbors_among, flag.evolution_among)
    chosen = bool(flag.split or images)
    for name, figure in make_figures(figures, flag.only or NAMES, bool(flag.only), chosen):
        path = workdir / f"{name}.png"
        write_figure(figure, path)
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
        "images", [], "Indices in the split, from 0, of the images to show.", flag_values=values
    )
    flags.DEFINE_integer(
        "neighbors_among",
        NEIGHBOR_CANDIDATES,
        "Training images to search for neighbors; all, if there are fewer.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "evolution_among",
        EVOLUTION_CANDIDATES,
        "Training images to search for strong activations of every checkpoint.",
        lower_bound=1,
        flag_values=values,
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
