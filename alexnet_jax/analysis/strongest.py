"""Find the images of a split that activate the channels of a model most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax import evaluate, model_data, sharding
from alexnet_jax.analysis.summary import abstract_activations
from alexnet_jax.data.pack import Pack
from alexnet_jax.diagnostics import check_outputs
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel


@dataclass(frozen=True)
class Strongest:
    """The strongest activations of every channel, at most one of an image, strongest first.

    Of equal activations in different images, that of the earlier image comes first; within an
    image, that in the upper row, and then the one farther left, is taken.

    Attributes:
        values: (channels, count) activations.
        images: (channels, count) indices of the images in the split.
        positions: (channels, count) positions in the activations of the image, as flat indices;
            see `deconvnet.make_project_fn`.
    """

    values: np.ndarray
    images: np.ndarray
    positions: np.ndarray


def make_strongest_fn(
    model: TrainedModel,
    pack: Pack,
    split: str,
    ops: Sequence[str],
    count: int = 9,
    *,
    index: np.ndarray | None = None,
) -> Callable[[Variables], dict[str, Strongest]]:
    """Return the function from variables to the strongest activations of ops over a split.

    It reads the split, with a progress bar, and keeps only the `count` strongest activations of
    every channel, so the memory does not depend on the size of the split. The center crops are
    used. The result is by the name of the op; it has fewer than `count` activations where there
    are fewer images. It raises DivergedError if they are not finite.

    Args:
        model: the model, whose variables, or those of its other checkpoints, are to be given.
        pack: its data set, from `model_data.open_data`.
        split: name of the split.
        ops: names of ops; a fully-connected layer's units are its channels.
        count: number of activations per channel.
        index: (n,) ascending indices in the split of the images to use; None for all.

    Raises:
        InputError: the split does not exist, or the model has no such op.
    """
    known = abstract_activations(model.config)
    if unknown := sorted({*ops} - {*known}):
        raise InputError(f"the model has no op {unknown[0]}; expected some of {', '.join(known)}")
    split = model_data.choose_split(model, pack, split)
    chosen = np.arange(pack.splits[split].count) if index is None else index
    mesh = sharding.make_data_mesh(model.config.batch_size)
    bind = model.make_forward_fn(mesh, partial(_find_peaks, ops=tuple(ops)))

    def find(variables: Variables) -> dict[str, Strongest]:
        batches = evaluate.split_batches(model, pack, split, mesh, index=chosen)
        found: dict[str, _Found] = {}
        first = 0
        for labels, ((peaks,),) in evaluate.apply_to_views([bind(variables)], batches, mesh):
            rows = first + np.arange(len(labels.mask))
            images = chosen[np.minimum(rows, len(chosen) - 1)].astype(np.int32)
            found = _merge(found or _no_peaks(peaks, count), peaks, images, labels.mask)
            first += len(rows)
        kept = min(count, len(chosen))
        for values, _, _ in found.values():
            check_outputs("activations", np.asarray(values[:, :kept]))
        return {
            name: Strongest(*(np.asarray(part[:, :kept]) for part in parts))
            for name, parts in found.items()
        }

    return find


# Of one op: the strongest activation of every channel of each image, and its position, both
# (batch, channels); and the parts of `Strongest` on the device.
_Peaks = tuple[Array, Array]
_Found = tuple[Array, Array, Array]


def _find_peaks(
    model: nn.Module, variables: Variables, images: Array, ops: Sequence[str]
) -> dict[str, _Peaks]:
    """Return the strongest activation of every channel in each image, by op."""
    activations = registry.compute_activations(model, variables, images)
    peaks = {}
    for name in ops:
        channels = activations[name].shape[-1]
        flat = activations[name].reshape(len(images), -1, channels).astype(jnp.float32)
        pixel = flat.argmax(1).astype(jnp.int32)
        peaks[name] = flat.max(1), pixel * channels + jnp.arange(channels)[None]
    return peaks


def _no_peaks(peaks: dict[str, _Peaks], count: int) -> dict[str, _Found]:
    """Return `count` activations of -∞ for every channel."""
    found = {}
    for name, (values, _) in peaks.items():
        shape = values.shape[1], count
        zeros = jnp.zeros(shape, jnp.int32)
        found[name] = jnp.full(shape, -jnp.inf), zeros, zeros
    return found


@jax.jit
def _merge(
    found: dict[str, _Found], peaks: dict[str, _Peaks], images: Array, mask: Array
) -> dict[str, _Found]:
    """Return the strongest of those found before and those of a batch; earlier images first.

    Args:
        found: those found before.
        peaks: those of the batch.
        images: (batch,) indices of the images in the split.
        mask: (batch,) False for padding.
    """
    merged = {}
    for name, before in found.items():
        values, positions = peaks[name]
        values = jnp.where(mask[:, None], values, -jnp.inf)
        batch = values.T, jnp.broadcast_to(images[:, None], positions.shape).T, positions.T
        every = [jnp.concatenate(both, axis=1) for both in zip(before, batch, strict=True)]
        _, best = lax.top_k(every[0], before[0].shape[1])  # of equals those at the left
        strongest, image, position = (jnp.take_along_axis(part, best, axis=1) for part in every)
        merged[name] = strongest, image, position
    return merged
