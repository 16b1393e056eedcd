"""Occluded and transformed images: what must not change, and what is computed by hand."""

import numpy as np
import pytest
from helpers.image_sets import random_pixels, smooth_pixels

from alexnet_jax.analysis.invariance import (
    ROTATION,
    SCALE,
    TRANSLATION,
    Transform,
    compute_invariance_curves,
    transform_images,
)
from alexnet_jax.analysis.occlusion import GRAY, compute_occlusion_maps, occlude
from alexnet_jax.config import with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU
from alexnet_jax.trained import TrainedModel
from configs.alexnet import get_config

SIDE = 12
OPS: dict[str, Op] = dict(
    conv1=Conv(4, kernel=3), relu1=ReLU(), pool1=MaxPool(), fc2=Dense(6), relu2=ReLU(),
    fc3=Dense(0),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a model of color crops of SIDE pixels, two pixels smaller than the images."""
    model_changes = {"model.channels": 3, "model.num_classes": 5, "model.ops": OPS}
    config = with_changes(get_config("sample"), {**model_changes, "data.crop": SIDE})
    mean = smooth_pixels(SIDE + 2, SIDE + 2).astype(np.float32)
    return TrainedModel(config, 1, registry.init_variables(config), mean, tuple("abcde"))


def outputs(model: TrainedModel, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities and the sums of relu1, without the modules that are tested."""
    activations = registry.compute_activations(
        registry.make_model(model.config), model.variables, model.normalize_crops(crops)
    )
    shares = np.exp(np.asarray(activations["fc3"], np.float64))
    sums = np.asarray(activations["relu1"]).sum((1, 2))
    return shares / shares.sum(1, keepdims=True), sums


def test_a_gray_image_does_not_change(model: TrainedModel) -> None:
    """Catches a square of another color than GRAY, one placed after the mean is subtracted, and
    outputs that depend on where in a batch a place is."""
    image = np.full((1, SIDE, SIDE, 3), GRAY, np.uint8)
    (maps,) = compute_occlusion_maps(model, image, "relu1", side=4, step=1)
    shares, sums = outputs(model, image)
    assert maps.probabilities.shape == (9, 9, 5)
    for of_place, expected in ((maps.probabilities, shares), (maps.activations, sums)):
        assert np.ptp(of_place, axis=(0, 1)).max() == 0
        np.testing.assert_allclose(of_place[0, 0], expected[0], rtol=1e-5)


def test_every_place_of_the_square(model: TrainedModel) -> None:
    """Catches rows and columns that are swapped, a step or a last place that is off by one, a
    square of another size, a mean of activations, and the maps of another image."""
    images = random_pixels(2, SIDE, SIDE, 3)
    found = compute_occlusion_maps(model, images, "relu1", side=5, step=3)
    for image, maps in zip(images, found, strict=True):
        assert maps.tops.tolist() == [0, 3, 6]
        for i, top in enumerate((0, 3, 6)):
            for j, left in enumerate((0, 3, 6)):
                covered = image.copy()
                covered[top : top + 5, left : left + 5] = 128
                np.testing.assert_array_equal(occlude(image, top, left, 5), covered)
                shares, sums = outputs(model, covered[None])
                np.testing.assert_allclose(maps.probabilities[i, j], shares[0], rtol=1e-4)
                np.testing.assert_allclose(maps.activations[i, j], sums[0], rtol=1e-4)
                assert maps.classes[i, j] == shares[0].argmax()


@pytest.mark.parametrize(("side", "step"), [(SIDE + 1, 1), (-1, 1), (4, 0)])
def test_squares_that_do_not_fit(model: TrainedModel, side: int, step: int) -> None:
    """Catches an empty map, and a step of 0 that ends in a ZeroDivisionError."""
    with pytest.raises(InputError, match="expected a side from 0 to 12 and a step of 1 or more"):
        compute_occlusion_maps(model, random_pixels(1, SIDE, SIDE, 3), "relu1", side, step)


def test_occlusion_of_an_op_that_does_not_exist(model: TrainedModel) -> None:
    """Catches a KeyError."""
    with pytest.raises(InputError, match="the model has no op relu9; expected one of conv1, relu1"):
        compute_occlusion_maps(model, random_pixels(1, SIDE, SIDE, 3), "relu9", 4, 4)


@pytest.mark.parametrize(("transform", "value"), [(TRANSLATION, 0), (SCALE, 1), (ROTATION, 0)])
def test_the_identity(model: TrainedModel, transform: Transform, value: float) -> None:
    """Catches a center that is off by half a pixel, and a distance to anything but the features
    of the image itself: it is exactly 0."""
    images = random_pixels(3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(transform_images(images, transform, value), images)
    labels = np.array([4, 0, 2])
    (curves,) = compute_invariance_curves(
        model, images, labels, [(transform, np.array([value]))], ["relu1", "relu2"]
    )
    assert list(curves.distances) == ["relu1", "relu2"]
    assert all((distance == 0).all() for distance in curves.distances.values())
    shares, _ = outputs(model, images)
    np.testing.assert_allclose(curves.probabilities[0], shares[np.arange(3), labels], rtol=1e-4)


def test_transforms_by_hand() -> None:
    """Catches an image that moves up, shrinks or turns clockwise, and edges that are filled with
    anything but the nearest pixel."""
    images = random_pixels(2, SIDE, SIDE, 3).astype(np.float32)
    down = transform_images(images, TRANSLATION, 2)
    np.testing.assert_array_equal(down[:, 2:], images[:, :-2])
    np.testing.assert_array_equal(down[:, :2], images[:, :1].repeat(2, axis=1))
    turned = transform_images(images, ROTATION, 90)
    np.testing.assert_allclose(turned, np.rot90(images, axes=(1, 2)), atol=1e-3)
    ramp = np.broadcast_to(np.arange(SIDE)[None, None, :, None], (1, SIDE, SIDE, 1))
    enlarged = transform_images(ramp, SCALE, 2)
    middle = (SIDE - 1) / 2
    np.testing.assert_allclose(
        enlarged[0, 3, :, 0], middle + (np.arange(SIDE) - middle) / 2, rtol=1e-5
    )


def test_distances_by_hand(model: TrainedModel) -> None:
    """Catches squared or averaged distances, values in another order, images that are mixed up,
    and several kinds of transforms that are confused."""
    images, labels = random_pixels(2, SIDE, SIDE, 3), np.array([1, 3])
    pairs = [(TRANSLATION, np.array([3.0, -1.0])), (ROTATION, np.array([30.0]))]
    found = compute_invariance_curves(model, images, labels, pairs, ["relu1"])

    def features(crops: np.ndarray) -> np.ndarray:
        activations = registry.compute_activations(
            registry.make_model(model.config), model.variables, model.normalize_crops(crops)
        )
        return np.asarray(activations["relu1"], np.float64).reshape(len(crops), -1)

    for (transform, values), curves in zip(pairs, found, strict=True):
        assert curves.values.tolist() == values.tolist()
        for value, distances, probabilities in zip(
            values, curves.distances["relu1"], curves.probabilities, strict=True
        ):
            moved = transform_images(images, transform, value)
            expected = np.sqrt(((features(moved) - features(images)) ** 2).sum(1))
            np.testing.assert_allclose(distances, expected, rtol=1e-4)
            shares, _ = outputs(model, moved)
            np.testing.assert_allclose(probabilities, shares[[0, 1], labels], rtol=1e-4)
