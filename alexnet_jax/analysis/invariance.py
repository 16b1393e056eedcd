"""Measure how features and predictions change when images are moved, scaled or rotated.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013, section 4.1 and
figure 5: vertical translation, scale and rotation of five images; the Euclidean distance of the
features of a lower and an upper layer to those of the untransformed image; and the probability of
the true class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

from alexnet_jax import sharding
from alexnet_jax.models import registry
from alexnet_jax.pytree import Variables
from alexnet_jax.trained import TrainedModel


@dataclass(frozen=True)
class Transform:
    """A family of transforms of images about their center.

    Attributes:
        name: what is done, with its unit.
        matrix: function from a value to (rotation and scale (2, 2), shift (2,)), by which the
            position of an output pixel, relative to the center, becomes that of the input pixel.
    """

    name: str
    matrix: Callable[[float], tuple[np.ndarray, np.ndarray]]


def _translate(pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the shift of a translation downwards; see `Transform`."""
    return np.eye(2), np.array([-pixels, 0.0])


def _scale(factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the shift of an enlargement; see `Transform`."""
    return np.eye(2) / factor, np.zeros(2)


def _rotate(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the shift of a counterclockwise rotation; see `Transform`."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, sin], [-sin, cos]]), np.zeros(2)


TRANSLATION = Transform("vertical translation, pixels", _translate)
SCALE = Transform("scale", _scale)
ROTATION = Transform("rotation, degrees", _rotate)


@dataclass(frozen=True)
class InvarianceCurves:
    """The effect of a transform on several images.

    Attributes:
        transform: the kind of transform.
        values: (n,) its values.
        distances: by the name of the op, (n, images) Euclidean distance of its activations to
            those of the untransformed image.
        probabilities: (n, images) probability of the true class.
    """

    transform: Transform
    values: np.ndarray
    distances: dict[str, np.ndarray]
    probabilities: np.ndarray


def transform_images(images: np.ndarray, transform: Transform, value: float) -> np.ndarray:
    """Return transformed images, interpolated linearly.

    Positive values move an image down, enlarge it and turn it counterclockwise. Pixels from
    outside the image take the color of its nearest pixel; the paper does not say how it fills
    them.

    Args:
        images: (n, side, side, channels).
        transform: the kind of transform.
        value: its value.

    Returns:
        (n, side, side, channels) float32.
    """
    matrix, shift = transform.matrix(value)
    center = (images.shape[1] - 1) / 2
    positions = np.indices(images.shape[1:3]) - center
    rows, columns = np.einsum("ij,jyx->iyx", matrix, positions) + shift[:, None, None] + center
    return np.asarray(_interpolate(jnp.asarray(images, jnp.float32), rows, columns))


@jax.jit
def _interpolate(images: Array, rows: Array, columns: Array) -> Array:
    """Return the pixels of images (n, height, width, channels) at positions between pixels."""

    def of_channel(channel: Array) -> Array:
        moved: Array = map_coordinates(channel, [rows, columns], order=1, mode="nearest")
        return moved

    interpolated: Array = jax.vmap(jax.vmap(of_channel, in_axes=2, out_axes=2))(images)
    return interpolated


def compute_invariance_curves(
    model: TrainedModel,
    images: np.ndarray,
    labels: np.ndarray,
    transforms: Sequence[tuple[Transform, np.ndarray]],
    ops: Sequence[str],
) -> list[InvarianceCurves]:
    """Transform images, and compare the model's activations with those of the images as they are.

    Args:
        model: the model.
        images: (n, crop, crop, channels) uint8, center crops.
        labels: (n,) their classes.
        transforms: the kinds of transforms, each with its values (n,).
        ops: names of the ops whose activations are compared.

    Returns:
        The curves of each kind of transform.
    """

    def forward(
        module: nn.Module, variables: Variables, images: Array
    ) -> tuple[Array, list[Array]]:
        activations = registry.compute_activations(module, variables, images)
        *_, logits = activations.values()
        features = [activations[op].reshape(len(images), -1).astype(jnp.float32) for op in ops]
        return jax.nn.softmax(logits), features

    outputs = model.make_forward_fn(sharding.make_data_mesh(1), forward)(model.variables)
    _, original = outputs(model.batch_of_crops(images.astype(np.float32)))

    def curves(transform: Transform, values: np.ndarray) -> InvarianceCurves:
        probabilities, distances = [], []
        for value in values:
            changed = transform_images(images, transform, value)
            shares, features = outputs(model.batch_of_crops(changed))
            probabilities.append(np.asarray(shares)[np.arange(len(images)), labels])
            pairs = zip(features, original, strict=True)
            distances.append([np.linalg.norm(np.asarray(a - b), axis=1) for a, b in pairs])
        by_op = dict(zip(ops, np.moveaxis(np.array(distances), 1, 0), strict=True))
        return InvarianceCurves(transform, values, by_op, np.array(probabilities))

    return [curves(*each) for each in transforms]
