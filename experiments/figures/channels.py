"""Compute what the channels of a trained model respond to, as arrays.

`channel_plots.py` plots them, and `workdir_figures.py` does both for a workdir.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from alexnet_jax.analysis.deconvnet import make_project_fn, methods_for
from alexnet_jax.analysis.receptive_fields import ReceptiveField
from alexnet_jax.analysis.strongest import Strongest, make_strongest_fn
from alexnet_jax.analysis.summary import abstract_activations, compute_model_fields
from alexnet_jax.config import Config
from alexnet_jax.data.augmentation import permutation
from alexnet_jax.data.pack import Pack
from alexnet_jax.diagnostics import check_outputs
from alexnet_jax.errors import InputError
from alexnet_jax.progress import progress_bar
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel
from alexnet_jax.workdir import saved_steps
from experiments.figures.predictions import choose_evenly, hidden_ops, load_crops
from experiments.figures.weights import initial_params, load_readable_variables, none_readable

MAX_LAYERS = 5  # as many as the paper shows
MAX_CHECKPOINTS = 8
FILL = 128  # gray of a patch outside its image, of 0…255


@dataclass(frozen=True)
class ChannelPatches:
    """The strongest activations of a channel: their projections and the patches of the images.

    A patch is the receptive field of the activation, and the whole crop where the field is larger.

    Attributes:
        channel: number of the channel, over all columns.
        values: (n,) activations, strongest first.
        projections: (n, side, side, channels) in units of pixels, signed.
        patches: (n, side, side, channels) uint8.
    """

    channel: int
    values: np.ndarray
    projections: np.ndarray
    patches: np.ndarray


class Projector:
    """Projects activations of a model's images to pixels; each function is compiled once."""

    def __init__(self, model: TrainedModel) -> None:
        """Prepare for the model of a run, whose variables may be those of any checkpoint."""
        self.model = model
        self._shapes = {n: s.shape[1:] for n, s in abstract_activations(model.config).items()}
        self._fields = compute_model_fields(model.config)
        self._make = cache(lambda op, method: make_project_fn(model.config, op, method))

    def project(
        self,
        op: str,
        crops: np.ndarray,
        positions: np.ndarray,
        method: str | None = None,
        variables: Variables | None = None,
    ) -> np.ndarray:
        """Return the projections of one activation of each crop, in true colors.

        They are in units of pixels, or of a gradient in activation per unit of a pixel.

        Args:
            op: name of the op.
            crops: (n, crop, crop, channels) uint8, center crops.
            positions: (n,) flat indices in the activations of an image.
            method: one of `deconvnet.METHODS`; None for the deconvnet, or for the gradient where
                that is not defined.
            variables: variables of a checkpoint; None for the model's.

        Returns:
            (n, crop, crop, channels).

        Raises:
            DivergedError: the projections are not finite.
        """
        method = method or methods_for(self.model.config)[0]
        function = self._make(op, method)
        variables = self.model.variables if variables is None else variables
        inputs = self.model.normalize_crops(crops)
        projected = np.asarray(function(variables, inputs, jnp.asarray(positions)))
        data = self.model.config.data
        if data.channel_order == "bgr":
            projected = projected[..., ::-1]
        pixel = np.asarray(data.std, np.float32) / data.scale  # units of 0…255 in one of the inputs
        projected = projected / pixel if method == "gradient" else projected * pixel
        check_outputs("projections", projected)
        return projected

    def cut(self, op: str, images: np.ndarray, positions: np.ndarray, fill: float) -> np.ndarray:
        """Return the receptive field of one activation in each image.

        Args:
            op: name of the op.
            images: (n, crop, crop, channels) images or projections.
            positions: (n,) flat indices in the activations of an image.
            fill: value of pixels outside the image.

        Returns:
            (n, side, side, channels).
        """
        field, shape = self._fields[op], self._shapes[op]
        if len(shape) == 1:
            return images
        rows, columns, _ = np.unravel_index(positions, shape)
        cuts = [
            cut_field(image, field, int(row), int(column), fill)
            for image, row, column in zip(images, rows, columns, strict=True)
        ]
        return np.stack(cuts)


def cut_field(
    image: np.ndarray, field: ReceptiveField, row: int, column: int, fill: float
) -> np.ndarray:
    """Return the receptive field of the output at (row, column); a larger image than that whole.

    Args:
        image: (side, side, channels).
        field: receptive field of an op.
        row, column: position of the output.
        fill: value of pixels outside the image.

    Returns:
        (field.size, field.size, channels), or the image if it is no larger than the field.
    """
    size = field.size
    if size >= len(image):
        return image
    padded = np.pad(image, [(size, size), (size, size), (0, 0)], constant_values=fill)
    top, left = (size + field.start + index * field.stride for index in (row, column))
    return padded[top : top + size, left : left + size]


@dataclass(frozen=True)
class Peak:
    """The strongest of some activations.

    Attributes:
        channel: its channel.
        position: its flat index in the activations.
    """

    channel: int
    position: int


def find_peak(activations: np.ndarray, channel: int | None = None) -> Peak:
    """Return the strongest activation; of equals the first.

    Args:
        activations: (height, width, channels) of one image.
        channel: number of the channel; None for all channels.
    """
    channels = activations.shape[-1]
    if channel is None:
        position = int(activations.argmax())
        return Peak(position % channels, position)
    pixel = int(activations[..., channel].argmax())
    return Peak(channel, pixel * channels + channel)


def convolution_ops(config: Config) -> dict[str, str]:
    """Return at most MAX_LAYERS of `hidden_ops` whose activations have pixels, evenly distributed.

    Raises:
        InputError: the model has no convolution.
    """
    shapes = abstract_activations(config)
    found = {k: v for k, v in hidden_ops(config).items() if len(shapes[v].shape) == 4}
    if not found:
        raise InputError("the model has no convolution, and so no channels to project")
    return {layer: found[layer] for layer in choose_evenly([*found], MAX_LAYERS)}


def choose_channels(strongest: Strongest, count: int) -> np.ndarray:
    """Choose channels in one fixed random order, those that are never active last."""
    order = permutation(0, len(strongest.values))
    is_dead = strongest.values[order, 0] <= 0
    chosen: np.ndarray = order[np.argsort(is_dead, kind="stable")][:count]
    return chosen


def compute_channel_patches(
    projector: Projector,
    pack: Pack,
    split: str,
    layers: Mapping[str, str],
    channels: int,
    count: int,
) -> dict[str, list[ChannelPatches]]:
    """Project the strongest activations over a split of some channels of every layer (figure 2).

    Args:
        projector: of the model.
        pack: the model's data set.
        split: name of the split.
        layers: the name of the op by the name of the layer.
        channels: number of channels of each layer.
        count: number of activations of each channel.
    """
    model = projector.model
    find = make_strongest_fn(model, pack, split, list(layers.values()), count)
    found, results = find(model.variables), {}
    for layer, op in layers.items():
        strongest = found[op]
        chosen = choose_channels(strongest, channels)
        images, positions = strongest.images[chosen].ravel(), strongest.positions[chosen].ravel()
        crops = load_crops(model, pack, split, images)
        projections = projector.cut(op, projector.project(op, crops, positions), positions, fill=0)
        patches = projector.cut(op, crops, positions, FILL)
        parts = [
            array.reshape(len(chosen), -1, *array.shape[1:]) for array in (projections, patches)
        ]
        results[layer] = [
            ChannelPatches(int(channel), strongest.values[channel], *pair)
            for channel, *pair in zip(chosen, *parts, strict=True)
        ]
    return results


@dataclass(frozen=True)
class Evolution:
    """The projection of channels' strongest activation at several steps of training.

    Attributes:
        steps: steps of the checkpoints; 0 is the start.
        channels: (c,) numbers of the channels.
        projections: (c, steps, side, side, channels).
        patches: (c, side, side, channels) uint8, the image of the last step.
    """

    steps: list[int]
    channels: np.ndarray
    projections: np.ndarray
    patches: np.ndarray


def compute_evolution(
    projector: Projector,
    workdir: Path,
    pack: Pack,
    layers: Mapping[str, str],
    channels: int,
    index: np.ndarray,
) -> dict[str, Evolution]:
    """Project the strongest activation of channels at the checkpoints of a run (figure 4).

    Args:
        projector: of the model of the run's newest checkpoint.
        workdir: folder of the run.
        pack: the run's data set.
        layers: the name of the op by the name of the layer.
        channels: number of channels of each layer.
        index: indices in the training split of the images among which the strongest is searched.

    Raises:
        InputError: as `checkpoint_variables`; or no checkpoint can be read.
    """
    model = projector.model
    find = make_strongest_fn(model, pack, "train", list(layers.values()), 1, index=index)
    steps, load = checkpoint_variables(model, workdir)
    chosen: dict[str, np.ndarray] = {}
    shown: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    patches: dict[str, np.ndarray] = {}
    used: list[int] = []
    # From the last step on, which chooses the channels.
    for step in progress_bar(steps[::-1], len(steps), "evolution", "checkpoint"):
        if (variables := load(step)) is None:
            continue
        used.append(step)
        found = find(variables)
        for layer, op in layers.items():
            if layer not in chosen:
                chosen[layer] = choose_channels(found[op], channels)
            images, positions = (
                part[chosen[layer], 0] for part in (found[op].images, found[op].positions)
            )
            crops = load_crops(model, pack, "train", images)
            projected = projector.project(op, crops, positions, variables=variables)
            shown[layer].append(projector.cut(op, projected, positions, fill=0))
            patches.setdefault(layer, projector.cut(op, crops, positions, FILL))
    if not any(used):
        raise none_readable(workdir)
    used.reverse()
    return {
        layer: Evolution(used, chosen[layer], np.stack(shown[layer][::-1], axis=1), patches[layer])
        for layer in layers
    }


def checkpoint_variables(
    model: TrainedModel, workdir: Path
) -> tuple[list[int], Callable[[int], Variables | None]]:
    """Return up to MAX_CHECKPOINTS steps of a run, ascending, and a function to their variables.

    The first is 0 where the initial parameters are known; the others are about evenly distributed
    on a logarithmic scale, since the lower layers change early. The function returns None for a
    checkpoint that cannot be read, with a line on stderr.

    Raises:
        InputError: the run has a single checkpoint, and its initial parameters are not known.
    """
    initial = initial_params(model)
    saved = [step for step in saved_steps(workdir) if step <= model.step]
    steps = spread_steps(saved, MAX_CHECKPOINTS - (initial is not None))
    if initial is not None:
        steps = [0, *steps]
    if len(steps) < 2:
        raise InputError(
            f"{workdir} has one checkpoint; expected several, which "
            "--config.keep_checkpoints=N keeps while training"
        )

    def load(step: int) -> Variables | None:
        """Return the variables of a step; those of step 0 have the model's running statistics."""
        if step == 0 and initial is not None:
            return {**model.variables, "params": initial}
        return load_readable_variables(workdir, step, model.config)

    return steps, load


def spread_steps(steps: Sequence[int], count: int) -> list[int]:
    """Return up to `count` ascending steps near a geometric progression, with first and last."""
    if len(steps) <= count:
        return list(steps)
    wanted = np.geomspace(max(steps[0], 1), steps[-1], count)
    return sorted({min(steps, key=lambda step: abs(step - target)) for target in wanted})
