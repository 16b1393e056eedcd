"""Numbers about a model: by hand, by brute force, and beside evaluation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.image_sets import write_folder, write_idx_set

from alexnet_jax import fields
from alexnet_jax.config import with_changes
from alexnet_jax.data.batch import Batch
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.inputs import normalize
from alexnet_jax.model_data import open_data
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, ReLU, Tanh
from alexnet_jax.models.registry import init_variables
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel
from configs.alexnet import get_config
from experiments.figures.colorfulness import (
    NUM_ASSIGNMENTS,
    ColorSpecialization,
    compare_with_random_assignments,
    compute_colorfulness,
    compute_column_colorfulness,
    measure_specialization,
)
from experiments.figures.predictions import (
    Predictions,
    choose_rows,
    compute_image_activations,
    confusion_matrix,
    first_conv_kernels,
    layer_activations,
    load_crops,
    most_confused,
    nearest_neighbors,
    predict_split,
    worst_mistakes,
)


def untrained(
    name: str, directory: Path, classes: int, channels: int, **data: object
) -> TrainedModel:
    """Return a small model with initial parameters, as after a step, and its data's mean image."""
    config = get_config("sample")
    config.data = fields.replace(config.data, dict(name=name, dir=str(directory), crop=24) | data)
    ops = dict(
        conv1=Conv(4, kernel=3, stride=3, padding=(1, 1)),
        relu1=ReLU(), norm1=LRN(alpha=0.4), pool1=MaxPool(),
        fc6=Dense(8), relu6=ReLU(), drop6=Dropout(),
        fc8=Dense(0),
    )  # fmt: skip
    model = {"model.channels": channels, "model.num_classes": classes, "model.ops": ops}
    config = with_changes(config, {"batch_size": 8, **model})
    pack = prepare(config.data, progress=False)
    return TrainedModel(config, 1, init_variables(config), pack.mean_image, pack.class_names)


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, np.ndarray, np.ndarray]:
    """Return a model of gray images, and the pixels and labels of its 21 test images."""
    directory = tmp_path_factory.mktemp("gray")
    sets = write_idx_set(directory, train=60, test=21)
    return untrained("idx", directory, 5, 1), *sets["test"]


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, list[np.ndarray]]:
    """Return a model that takes blue first, with a std for each channel, and its test pixels."""
    directory = tmp_path_factory.mktemp("color")
    write_folder(directory / "train", dict(a=4, b=4, c=4), side=28)
    pixels = write_folder(directory / "test", dict(a=2, b=2, c=1), side=28, seed=7)
    model = untrained("folder", directory, 3, 3, channel_order="bgr", std=(1.0, 2.0, 4.0))
    return model, [pixels[name] for name in sorted(pixels)]


def kernel_of(*columns: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Return kernels (columns, 2, 2, 3, n), each of one color everywhere, a column a list."""
    flat = np.array(columns, np.float64).transpose(0, 2, 1)[:, None, None]
    return np.broadcast_to(flat, (len(columns), 2, 2, *flat.shape[3:]))


def test_colorfulness_by_hand() -> None:
    """Catches another axis for gray, a root or a third left out, and a measure that depends on a
    kernel's scale or sign. Pure red is a third gray: (1, 0, 0) · (1, 1, 1) / √3 = 1 / √3."""
    kernel = kernel_of([(1, 1, 1), (-5, -5, -5), (1, -1, 0), (0.1, 0.1, -0.2), (9, 0, 0)])
    np.testing.assert_allclose(
        compute_colorfulness(kernel), [[0, 0, 1, 1, 2 / 3]], rtol=0, atol=1e-12
    )


def test_a_faint_kernel_does_not_make_a_column_colorful() -> None:
    """Catches the plain mean over kernels, 1/2 here, and columns that are mixed up."""
    kernel = kernel_of([(1, 1, 1), (1e-3, -1e-3, 0)], [(1, 0, -1), (0, 1, -1)])
    np.testing.assert_allclose(compute_column_colorfulness(kernel), [0, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(compute_colorfulness(kernel)[0], [0, 1], rtol=0, atol=1e-12)


def test_the_difference_beside_random_deals() -> None:
    """Catches a one-sided test (1 of 20 deals), deals that keep the columns, and the wrong tail.

    Three kernels in each column make 20 deals; the one there is and its mirror are the extremes.
    """
    gray, red = [(1.0, 1, 1), (2, 2, 2), (3, 3, 3)], [(1.0, -1, 0), (2, 0, -2), (0, 3, -3)]
    difference, share = compare_with_random_assignments(kernel_of(gray, red))
    np.testing.assert_allclose([difference, share], [1, 2 / 20])
    same = kernel_of(gray, gray)
    np.testing.assert_allclose(compare_with_random_assignments(same), [0, 1], atol=1e-12)


def test_the_difference_of_many_kernels() -> None:
    """Catches a share that is small for noise, or not small where every kernel differs, or
    another one every time."""
    noise = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 16))
    by_chance = compare_with_random_assignments(noise)
    assert by_chance[1] > 0.1
    assert compare_with_random_assignments(noise) == by_chance
    noise[0] = noise[0].mean(2, keepdims=True)
    difference, share = compare_with_random_assignments(noise)
    assert difference == pytest.approx(compute_column_colorfulness(noise)[1])
    assert share == 1 / (NUM_ASSIGNMENTS + 1)


def test_neighbors_by_brute_force() -> None:
    """Catches another distance, the farthest first, ties in any order, and an excluded candidate,
    also as the last one where all are asked for."""
    random = np.random.default_rng(0)
    query, candidates = random.normal(size=(3, 5)), random.normal(size=(30, 5)).astype(np.float32)
    candidates[20] = candidates[10]
    query[1] = candidates[10]
    rows, distances = nearest_neighbors(query, candidates, 4)
    for q in range(3):
        every = [float(np.sqrt(sum((query[q] - one) ** 2))) for one in candidates]
        assert rows[q].tolist() == sorted(range(30), key=lambda r: (every[r], r))[:4]
        np.testing.assert_allclose(distances[q], np.sort(every)[:4], atol=1e-12)
    assert rows[1, :2].tolist() == [10, 20]
    excluded = np.zeros((3, 30), bool)
    excluded[1, 10] = True
    others = nearest_neighbors(query, candidates, 30, excluded)[0]
    assert others.shape == (3, 29)
    assert others[1, 0] == 20
    assert 10 not in others[1]
    assert nearest_neighbors(query, candidates[:2], 4)[0].shape == (3, 2)


def test_confusion_by_hand() -> None:
    """Catches rows and columns that are swapped, and correct answers among the confusions."""
    labels, predictions = np.array([0, 0, 0, 2, 2, 1]), np.array([0, 1, 1, 2, 0, 1])
    counts = confusion_matrix(labels, predictions, 4)
    expected = [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert counts.tolist() == expected
    assert most_confused(counts, 3) == [(0, 1, 2), (2, 0, 1)]
    assert most_confused(counts, 1) == [(0, 1, 2)]


def predicted(labels: list[int], classes: list[int], confidence: list[float]) -> Predictions:
    """Return predictions with a confidence, of which the other classes share the rest."""
    others = (1 - np.array(confidence)) / 9
    probabilities = np.repeat(others[:, None], 10, axis=1)
    probabilities[np.arange(len(confidence)), classes] = confidence
    index = np.arange(len(confidence))
    return Predictions("test", index, np.array(labels), np.log(probabilities), None)


def test_the_worst_are_wrong_and_confident() -> None:
    """Catches correct answers among the mistakes, and the least confident first."""
    predictions = predicted([0, 1, 2, 3], [0, 2, 1, 4], [0.99, 0.5, 0.9, 0.7])
    assert worst_mistakes(predictions, 2).tolist() == [2, 3]
    assert worst_mistakes(predictions, 9).tolist() == [2, 3, 1]


def test_the_choice_is_of_both_kinds_and_many_classes() -> None:
    """Catches mistakes left out, a class again before the others had their turn, another choice
    every time, and one that follows the model's confidence."""
    labels = [0] * 40 + [1, 2, 3] + [0] * 5 + [1] * 5
    classes = [*labels[:43], *([9] * 10)]
    confidence = np.linspace(0.2, 0.9, len(labels)).tolist()
    predictions = predicted(labels, classes, confidence)
    rows = choose_rows(predictions, correct=4, wrong=3)
    assert predictions.correct[rows].tolist() == [True] * 4 + [False] * 3
    assert sorted(predictions.labels[rows[:4]]) == [0, 1, 2, 3]
    assert {*predictions.labels[rows[4:6]]} == {0, 1}
    other = predicted(labels, classes, confidence[::-1])
    assert choose_rows(other, 4, 3).tolist() == rows.tolist()


class CountedLabels(np.ndarray):
    """Labels that count how many of them are compared."""

    compared = 0

    def __eq__(self, other: object) -> Any:
        CountedLabels.compared += self.size
        return super().__eq__(other)


def test_choosing_rows_compares_each_label_twice_at_most() -> None:
    """Catches: repeats of a class counted by comparing each label with all before it."""
    labels = np.arange(500) % 7
    few = predicted(labels.tolist(), (labels % 5).tolist(), [0.5] * 500)
    CountedLabels.compared = 0
    rows = choose_rows(dataclasses.replace(few, labels=labels.view(CountedLabels)), 4, 4)
    assert rows.tolist() == choose_rows(few, 4, 4).tolist()
    assert CountedLabels.compared <= 2 * 500


def test_predictions_agree_with_evaluation(
    gray: tuple[TrainedModel, np.ndarray, np.ndarray],
) -> None:
    """Catches images of a padded batch left in or out, logits for probabilities, and a second
    idea of what the center view is."""
    model, _, labels = gray
    found = predict_split(model, open_data(model))
    split, (result,) = evaluate([model])
    assert (found.split, len(found.index)) == (split, result["count"]) == ("test", 21)
    assert found.labels.tolist() == labels.tolist()
    assert (~found.correct).mean() == result["top1_error"]
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    own = found.log_probabilities[np.arange(21), labels]
    np.testing.assert_allclose(-own.mean(), result["loss"], rtol=1e-5)


def test_some_images_in_the_order_asked_for(
    gray: tuple[TrainedModel, np.ndarray, np.ndarray],
) -> None:
    """Catches images sorted, or the first ones of the split whatever was asked for; crops of
    others than the probabilities; features that are not what the classifier sees."""
    model, pixels, labels = gray
    index = [17, 3, 20, 3, 0, 9, 11, 12, 1]  # more than a batch
    some = predict_split(model, open_data(model), index=index, features=True)
    all_images = predict_split(model, open_data(model))
    assert some.labels.tolist() == labels[index].tolist()
    np.testing.assert_allclose(
        some.log_probabilities, all_images.select(np.array(index)).log_probabilities, rtol=1e-5
    )
    assert some.features is not None
    kernel, bias = (np.asarray(model.params["fc8"][name]) for name in ("kernel", "bias"))
    logits = some.features @ kernel.reshape(-1, 5) + bias
    np.testing.assert_allclose(
        logits - logits.max(1, keepdims=True),
        some.log_probabilities - some.log_probabilities.max(1, keepdims=True),
        rtol=1e-4,
        atol=1e-5,  # float32 sums in another order
    )
    found = load_crops(model, open_data(model), "test", index)
    np.testing.assert_array_equal(found[..., 0], pixels[index, 2:26, 2:26])


def test_crops_in_true_colors(color: tuple[TrainedModel, list[np.ndarray]]) -> None:
    """Catches the model's channel order in an image, and a crop that is not the center; kernels in
    the model's order or its units."""
    model, pixels = color
    found = load_crops(model, open_data(model), "test", [4, 0])
    for image, index in zip(found, (4, 0), strict=True):
        np.testing.assert_array_equal(image, pixels[index][2:26, 2:26])
    # A pixel's effect on the first layer: by the kernel shown, and by the inputs' own code.
    mean, kernel = jnp.zeros((1, 1, 3)), np.asarray(model.params["conv1"]["kernel"])
    corner = jnp.asarray(found[:1, :3, :3])
    batch = Batch(corner, offset=jnp.zeros((1, 2), int), flip=jnp.zeros(1, bool))
    data = fields.replace(model.config.data, {"crop": 3, "mean": "none", "scale": 1.0})
    through = (np.asarray(normalize(batch, mean, data))[0] * kernel[0, ..., 1]).sum()
    shown = (found[0, :3, :3] * first_conv_kernels(model)[0, ..., 1]).sum()
    np.testing.assert_allclose(shown, through, rtol=1e-4)


def test_activations_end_in_the_probabilities(
    color: tuple[TrainedModel, list[np.ndarray]],
) -> None:
    """Catches a mean that is not under the crop, another order of channels, and layers that are
    shown after pooling or twice."""
    model, _ = color
    predictions = predict_split(model, open_data(model), "test")
    (image,) = load_crops(model, open_data(model), "test", [3])
    found = compute_image_activations(model, image)
    shares = np.exp(found["fc8"] - found["fc8"].max())
    np.testing.assert_allclose(shares / shares.sum(), predictions.probabilities[3], rtol=1e-4)
    layers = layer_activations(model.config, found, 9)
    assert {name: layer.shape for name, layer in layers.items()} == {
        "conv1": (2, 8, 8, 2),
        "fc6": (2, 4),
    }
    assert min(layer.min() for layer in layers.values()) >= 0


def test_activations_in_bfloat16(gray: tuple[TrainedModel, np.ndarray, np.ndarray]) -> None:
    """Catches: activations in bfloat16, whose sums over pixels NumPy rounds to three digits, so
    that the channel with the largest sum is another one."""
    model, *_ = gray
    narrow = with_changes(model.config, {"compute_dtype": "bfloat16"})
    (image,) = load_crops(model, open_data(model), "test", [3])
    found = compute_image_activations(dataclasses.replace(model, config=narrow), image)
    assert {activation.dtype for activation in found.values()} == {np.dtype(np.float32)}
    sums = found["relu1"].sum((0, 1))
    assert sums.max() > 0
    np.testing.assert_allclose(sums, found["relu1"].astype(np.float64).sum((0, 1)), rtol=1e-5)


def test_where_color_cannot_be_shown(
    gray: tuple[TrainedModel, np.ndarray, np.ndarray], color: tuple[TrainedModel, list[np.ndarray]]
) -> None:
    """Catches a number for gray images, also of a model with three channels, whose kernels keep
    the colors of their random beginning; a difference of one column, and the rows of a kernel
    without a column axis taken for columns."""
    text = "The images are gray, so the kernels' response to color cannot be measured."
    unknown = ColorSpecialization((), None, None, text)
    assert measure_specialization(gray[0]) == unknown
    model, _ = color
    gray_mean = np.repeat(model.mean_image[..., :1], 3, axis=-1)
    trained = dataclasses.replace(model, mean_image=gray_mean)
    assert measure_specialization(trained).text == text
    imported = dataclasses.replace(model, step=0, mean_image=np.zeros_like(gray_mean))
    assert measure_specialization(imported).columns != ()

    found = measure_specialization(model)
    assert len(found.columns) == 2
    assert found.difference == pytest.approx(abs(found.columns[0] - found.columns[1]))
    assert f"{found.columns[0]:.2f} and {found.columns[1]:.2f}" in found.text
    config = with_changes(model.config, {"model.num_columns": 1})
    one = dataclasses.replace(model, config=config, variables=init_variables(config))
    assert measure_specialization(one).share is None
    assert len(measure_specialization(one).columns) == 1
    assert first_conv_kernels(one).shape == (1, 3, 3, 3, 4)


def test_what_is_not_there(gray: tuple[TrainedModel, np.ndarray, np.ndarray]) -> None:
    """Catches a negative index that counts from the end, an IndexError, and features of nothing."""
    model, *_ = gray
    for index in (-1, 21):
        with pytest.raises(InputError, match=f"image {index} of test .* has 21 there, 0 to 20"):
            predict_split(model, open_data(model), index=[3, index])
    changes = {"model.num_columns": 1, "model.ops": {"fc8": Dense(0)}}
    config = with_changes(model.config, changes)
    linear = dataclasses.replace(model, config=config, variables=init_variables(config))
    with pytest.raises(InputError, match="no hidden layer"):
        predict_split(linear, open_data(linear), features=True)
    with pytest.raises(InputError, match="no convolution"):
        first_conv_kernels(linear)


def test_layers_are_found_by_the_types_of_their_ops() -> None:
    """Catches layers found by parsing names, an activation before the nonlinearity, one after
    pooling where that comes last, and columns that are mixed."""
    config = get_config("sample")
    ops = {
        "conv1_1": Conv(4, kernel=3), "act": Tanh(), "p": MaxPool(),
        "conv1_2": Conv(4, kernel=3), "norm_relu": LRN(), "p_relu": MaxPool(), "last": ReLU(),
        "flat": Dense(6), "fc8": Dense(0),
    }  # fmt: skip
    config = with_changes(config, {"model.num_classes": 10, "model.ops": ops})
    names = {name: float(number) for number, name in enumerate(ops)}
    activations = {n: np.full((2, 2, 4), v) + np.arange(4) / 8 for n, v in names.items()}
    layers = layer_activations(config, activations, 9)
    assert [*layers] == ["conv1_1", "conv1_2", "flat"]
    for layer, op in (("conv1_1", "act"), ("conv1_2", "last"), ("flat", "flat")):
        assert layers[layer].shape == (2, 2, 2, 2)
        assert layers[layer][1, 0, 0].tolist() == [names[op] + 0.25, names[op] + 0.375]
    assert [*layer_activations(config, activations, 2)] == ["conv1_1", "flat"]
