"""Measure how a model's outputs change when a gray square covers parts of an image.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013, section 4.2 and
figure 7. The paper does not give the size of the square and the step by which it moves.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax import sharding
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.progress import progress_bar
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel

GRAY = 128  # of 0…255
BATCH_SIZE = 32  # occluded images that are computed at once


@dataclass(frozen=True)
class OcclusionMaps:
    """The outputs of a model for every position of the square.

    Attributes:
        tops: (n,) first row, and equally first column, that the square covers.
        side: side of the square in pixels.
        probabilities: (n, n, classes) probability of each class.
        activations: (n, n, channels) activations of an op summed over its pixels.
    """

    tops: np.ndarray
    side: int
    probabilities: np.ndarray
    activations: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The most probable classes (n, n); of equals the lower number."""
        classes: np.ndarray = self.probabilities.argmax(-1)
        return classes


def occlude(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Return a copy of an image (height, width, channels) with a gray square."""
    covered = image.copy()
    covered[top : top + side, left : left + side] = GRAY
    return covered


def compute_occlusion_maps(
    model: TrainedModel, images: np.ndarray, op: str, side: int, step: int
) -> list[OcclusionMaps]:
    """Slide a gray square over images, entirely inside them, and compute the model's outputs.

    A progress bar counts the images.

    Args:
        model: the model.
        images: (n, crop, crop, channels) uint8, center crops.
        op: name of the op whose activations are summed.
        side: side of the square in pixels; 0 covers nothing.
        step: distance in pixels between the positions of the square.

    Returns:
        The maps of each image.

    Raises:
        InputError: the square is larger than the images, the step is below 1, or the model has no
            such op.
    """
    crop = images.shape[1]
    if not 0 <= side <= crop or step < 1:
        raise InputError(
            f"a square of {side} pixels that moves by {step}, over images of {crop} pixels; "
            f"expected a side from 0 to {crop} and a step of 1 or more"
        )

    def forward(module: nn.Module, variables: Variables, images: Array) -> tuple[Array, Array]:
        activations = registry.compute_activations(module, variables, images)
        if op not in activations:
            raise InputError(f"the model has no op {op}; expected one of {', '.join(activations)}")
        *_, logits = activations.values()
        chosen = activations[op].astype(jnp.float32)
        return jax.nn.softmax(logits), chosen.sum(tuple(range(1, chosen.ndim - 1)))

    outputs = model.make_forward_fn(sharding.make_data_mesh(1), forward)(model.variables)
    tops = np.arange(0, crop - side + 1, step)
    corners = [(int(top), int(left)) for top in tops for left in tops]
    grid = len(tops), len(tops), -1

    def maps(image: np.ndarray) -> OcclusionMaps:
        parts = []
        for first in range(0, len(corners), BATCH_SIZE):
            batch = corners[first : first + BATCH_SIZE]
            padded = batch + batch[-1:] * (BATCH_SIZE - len(batch))  # one shape: compiled once
            covered = np.stack([occlude(image, top, left, side) for top, left in padded])
            computed = outputs(model.batch_of_crops(covered))
            parts.append([np.asarray(part)[: len(batch)] for part in computed])
        probabilities, sums = map(np.concatenate, zip(*parts, strict=True))
        return OcclusionMaps(tops, side, probabilities.reshape(grid), sums.reshape(grid))

    return [maps(image) for image in progress_bar(images, len(images), "occlusion", "image")]
