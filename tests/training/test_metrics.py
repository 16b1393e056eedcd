"""Errors and sums, counted exactly."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alexnet_jax import metrics, sharding
from alexnet_jax.data.batch import Batch
from alexnet_jax.evaluate import ViewPass, evaluate_batches
from alexnet_jax.metrics import MetricSums
from alexnet_jax.trained import Predict


def sums(scores: Any, label: Any, mask: Any = None) -> dict[str, float]:
    mask = np.ones(len(label), bool) if mask is None else mask
    got = metrics.compute_metrics(
        jnp.asarray(scores, jnp.float32), jnp.asarray(label), jnp.asarray(mask)
    )
    return {name: float(value) for name, value in vars(got).items()}


def wrong(scores: np.ndarray, label: np.ndarray, best: int) -> int:
    """Images whose label is not among the first `best`; the lower class first among equals."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    return int((~(order == label[:, None]).any(1)).sum())


@pytest.mark.parametrize("classes", [1, 3, 5, 6, 40])
def test_ties(classes: int) -> None:
    """Catches ties counted for or against the label, and a rank off by one."""
    rng = np.random.default_rng(classes)
    scores = rng.integers(-4, 0, (500, classes)).astype(float)
    label = rng.integers(0, classes, 500)
    got = sums(scores, label)
    assert got["top1"] == wrong(scores, label, 1)
    assert got["top5"] == wrong(scores, label, 5)
    assert got["loss"] == -scores[np.arange(500), label].sum()
    assert got["count"] == 500


def test_against_pytorch() -> None:
    """Catches a top-5 of another size, and a loss that is not the cross-entropy's sum."""
    logits = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 10, 300)
    got = sums(jax.nn.log_softmax(logits), label)
    scores, truth = torch.tensor(logits, dtype=torch.float64), torch.tensor(label)
    for best in (1, 5):
        hits = (scores.topk(best).indices == truth[:, None]).any(1).sum()
        assert got[f"top{best}"] == 300 - int(hits)
    loss = torch.nn.functional.cross_entropy(scores, truth, reduction="sum")
    assert got["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_fewer_than_five_classes() -> None:
    """Catches top-5 of three classes counting anything as wrong."""
    got = sums([[0.0, -1.0, -2.0]] * 3, [0, 1, 2])
    assert (got["top1"], got["top5"]) == (2, 0)


def test_nan_is_an_error() -> None:
    """Catches a model of NaNs scoring no errors: no comparison with NaN is true."""
    scores = np.zeros((2, 10))
    scores[0] = np.nan
    got = sums(scores, [0, 0])
    assert (got["top1"], got["top5"]) == (1, 1)
    assert np.isnan(got["loss"])


def test_mask() -> None:
    """Catches padding counted, or a NaN in it that spoils the loss."""
    scores = np.array([[-1.0, -2.0], [np.nan, np.nan], [-1.0, -2.0], [-1.0, -2.0]])
    got = sums(scores, [0, 0, 1, 1], np.array([True, False, True, False]))
    assert got == {"loss": 3.0, "top1": 1, "top5": 0, "count": 2}


def test_sums_are_divided_once() -> None:
    """Catches a mean of batches' means, which weighs images of a small batch more."""
    first = MetricSums(loss=6.0, top1=3, top5=1, count=3)
    total = MetricSums().plus(first).plus(MetricSums(loss=2.0, top1=0, top5=0, count=1))
    assert total.compute() == {"loss": 2.0, "top1_error": 0.75, "top5_error": 0.25, "count": 4}
    assert first == MetricSums(loss=6.0, top1=3, top5=1, count=3)


def test_sums_are_added_in_double_precision() -> None:
    """Catches sums on the host in float32, in which 2^24 + 1 images are 2^24, and JAX arrays in
    what is written as JSON."""
    one = MetricSums(*(jnp.float32(value) for value in (0.5, 1, 1, 1)))
    total = MetricSums(loss=2.0**24, top1=2**24, top5=2**24, count=2**24).plus(one)
    assert vars(total) == dict(loss=2**24 + 0.5, top1=2**24 + 1, top5=2**24 + 1, count=2**24 + 1)
    assert {type(value) for value in vars(total).values()} == {float}


CLASSES, IMAGES, BATCH = 12, 22, 8


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def make_predict(weight: float) -> Predict:
    """Return a model whose images are its scores; `weight` makes models differ."""

    def predict(batch: Any) -> jax.Array:
        given = {name for name, array in vars(batch).items() if array is not None}
        assert given == {"image", "offset", "flip"}
        flipped = jnp.where(batch.flip[:, None], -1.0, 1.0)
        scores = batch.image[:, 0, :, 0] * weight + flipped * jnp.arange(CLASSES)[None] / 9
        return jax.nn.log_softmax(scores + batch.offset[:, :1] * jnp.cos(jnp.arange(CLASSES))[None])

    return predict


def expected(data: Batch, weights: list[float]) -> dict[str, Any]:
    """Return loss and errors of the plain average of softmaxes over views and models."""
    image, offset, flip, label = (
        np.asarray(array) for array in (data.image, data.offset, data.flip, data.label)
    )
    classes = np.arange(CLASSES)
    flipped = np.where(flip, -1.0, 1.0)[..., None]
    shared = flipped * classes / 9 + offset[..., :1] * np.cos(classes)
    scores = [image[:, :, 0, :, 0].astype(float) * w + shared for w in weights]
    mean = np.mean([softmax(s) for s in scores], axis=(0, 2))
    return {
        "loss": pytest.approx(-np.log(mean[np.arange(len(label)), label]).mean(), rel=1e-5),
        "top1_error": wrong(mean, label, 1) / len(label),
        "top5_error": wrong(mean, label, 5) / len(label),
        "count": len(label),
    }


def images(views: int) -> Batch:
    """Return all images with their labels."""
    rng = np.random.default_rng(views)
    return Batch(
        image=rng.normal(size=(IMAGES, views, 1, CLASSES, 1)).astype(np.float32),
        offset=rng.integers(0, 3, (IMAGES, views, 2)).astype(np.int32),
        flip=rng.integers(0, 2, (IMAGES, views)).astype(bool),
        label=rng.integers(0, CLASSES, IMAGES).astype(np.int32),
    )


def batches(data: Batch, fill: Callable[[np.ndarray], np.ndarray]) -> Iterator[Batch]:
    """Yield whole batches, the last one filled up and masked."""
    for start in range(0, IMAGES, BATCH):
        index = fill(np.arange(start, start + BATCH))
        mask = np.arange(start, start + BATCH) < IMAGES
        batch = jax.tree.map(lambda rows, index=index: rows[index], data)
        yield batch.replace(label=np.where(mask, batch.label, 0), mask=mask)


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.3, -2.0]])
def test_evaluation(views: int, weights: list[float]) -> None:
    """Catches a dropped or padded last batch, averaged logits, and models weighed by views."""
    data = images(views)
    mesh = sharding.make_data_mesh(BATCH)
    assert mesh.size == 4
    filled = batches(data, lambda index: np.minimum(index, IMAGES - 1))
    got = evaluate_batches([ViewPass([make_predict(w) for w in weights], filled)], mesh)
    models = [[w] for w in weights] + ([weights] if len(weights) > 1 else [])
    assert got == [expected(data, model) for model in models]


def test_averages_of_some_models() -> None:
    """Catches averages over all models, or over models in place of those named."""
    data, mesh = images(10), sharding.make_data_mesh(BATCH)
    weights, chosen = [1.0, 0.3, -2.0], [[0, 2], [2, 1]]
    filled = batches(data, lambda index: np.minimum(index, IMAGES - 1))
    passes = [ViewPass([make_predict(w) for w in weights], filled)]
    got = evaluate_batches(passes, mesh, chosen)
    models = [[w] for w in weights] + [[1.0, -2.0], [-2.0, 0.3]]
    assert got == [expected(data, model) for model in models]


def test_padding_does_not_count() -> None:
    """Catches padding rows that enter a sum: other rows to fill up with change nothing."""
    data = images(1)
    mesh = sharding.make_data_mesh(BATCH)
    last, first = (
        evaluate_batches([ViewPass([make_predict(1.0)], batches(data, fill))], mesh)
        for fill in (lambda i: np.minimum(i, IMAGES - 1), lambda i: np.where(i < IMAGES, i, 0))
    )
    assert last == first


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_finite(value: float) -> None:
    """Catches a check of the first leaf, or of NaN, alone."""
    good = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    assert metrics.all_finite(good)
    assert not metrics.all_finite({**good, "b": good["b"].at[1, 1].set(value)})
