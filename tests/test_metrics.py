"""Errors and sums, counted exactly."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alexnet_jax import evaluate, metrics, parallel


def sums(scores: Any, label: Any, mask: Any = None) -> dict[str, float]:
    mask = np.ones(len(label), bool) if mask is None else mask
    got = metrics.sums(jnp.asarray(scores, jnp.float32), jnp.asarray(label), jnp.asarray(mask))
    return {name: float(value) for name, value in got.items()}


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
    """Catches a net of NaNs scoring no errors: no comparison with NaN is true."""
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


def test_totals_are_divided_once() -> None:
    """Catches a mean of batches' means, which weighs images of a small batch more."""
    totals = metrics.Totals()
    totals.add({"loss": 6.0, "top1": 3, "top5": 1, "count": 3})
    totals.add({"loss": 2.0, "top1": 0, "top5": 0, "count": 1})
    assert totals.means() == {"loss": 2.0, "top1_error": 0.75, "top5_error": 0.25, "count": 4}


CLASSES, IMAGES, BATCH = 12, 22, 8


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def look(weight: float) -> evaluate.Predict:
    """A net whose images are its scores: `weight` makes one net differ from another."""

    def predict(batch: dict[str, jax.Array]) -> jax.Array:
        assert set(batch) == {"image", "offset", "flip"}
        flipped = jnp.where(batch["flip"][:, None], -1.0, 1.0)
        scores = batch["image"][:, 0, :, 0] * weight + flipped * jnp.arange(CLASSES) / 9
        return jax.nn.log_softmax(scores + batch["offset"][:, :1] * jnp.cos(jnp.arange(CLASSES)))

    return predict


def expected(
    data: dict[str, np.ndarray], weights: list[float], label: np.ndarray
) -> dict[str, Any]:
    """Loss and errors of the plain average of softmaxes over views and nets."""
    classes = np.arange(CLASSES)
    flipped = np.where(data["flip"], -1.0, 1.0)[..., None]
    shared = flipped * classes / 9 + data["offset"][..., :1] * np.cos(classes)
    scores = [data["image"][:, :, 0, :, 0].astype(float) * w + shared for w in weights]
    mean = np.mean([softmax(s) for s in scores], axis=(0, 2))
    return {
        "loss": pytest.approx(-np.log(mean[np.arange(len(label)), label]).mean(), rel=1e-5),
        "top1_error": wrong(mean, label, 1) / len(label),
        "top5_error": wrong(mean, label, 5) / len(label),
        "count": len(label),
    }


def images(views: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(views)
    data = {
        "image": rng.normal(size=(IMAGES, views, 1, CLASSES, 1)).astype(np.float32),
        "offset": rng.integers(0, 3, (IMAGES, views, 2)).astype(np.int32),
        "flip": rng.integers(0, 2, (IMAGES, views)).astype(bool),
    }
    return data, rng.integers(0, CLASSES, IMAGES).astype(np.int32)


def batches(
    data: dict[str, np.ndarray], label: np.ndarray, fill: Callable[[np.ndarray], np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Whole batches, the last one filled up and masked."""
    for start in range(0, IMAGES, BATCH):
        index = fill(np.arange(start, start + BATCH))
        mask = np.arange(start, start + BATCH) < IMAGES
        batch = {name: rows[index] for name, rows in data.items()}
        yield {**batch, "label": np.where(mask, label[index], 0), "mask": mask}


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.3, -2.0]])
def test_evaluation(views: int, weights: list[float]) -> None:
    """Catches a dropped or padded last batch, averaged logits, and nets weighed by views."""
    data, label = images(views)
    mesh = parallel.data_mesh(BATCH)
    assert mesh.size == 4
    filled = batches(data, label, lambda index: np.minimum(index, IMAGES - 1))
    got = evaluate.errors([look(w) for w in weights], filled, mesh)
    nets = [[w] for w in weights] + ([weights] if len(weights) > 1 else [])
    assert got == [expected(data, net, label) for net in nets]


def test_padding_does_not_count() -> None:
    """Catches padding rows that enter a sum: other rows to fill up with change nothing."""
    data, label = images(1)
    mesh = parallel.data_mesh(BATCH)
    last, first = (
        evaluate.errors([look(1.0)], batches(data, label, fill), mesh)
        for fill in (lambda i: np.minimum(i, IMAGES - 1), lambda i: np.where(i < IMAGES, i, 0))
    )
    assert last == first


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_finite(value: float) -> None:
    """Catches a check of the first leaf, or of NaN, alone."""
    good = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    assert metrics.finite(good)
    assert not metrics.finite({**good, "b": good["b"].at[1, 1].set(value)})
