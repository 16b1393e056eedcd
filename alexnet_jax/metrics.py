"""Sums over images of loss, top-1 and top-5 errors; finiteness of arrays."""

from typing import TypedDict

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.losses import sum_cross_entropy
from alexnet_jax.pytree import PyTree


class Metrics(TypedDict):
    """Means over images; errors are fractions."""

    loss: float
    top1_error: float
    top5_error: float
    count: int


class MetricSums(flax.struct.PyTreeNode):
    """Sums over images, to be divided once at the end; JAX arrays, or numbers on the host.

    Attributes:
        loss: sum of the cross-entropies, in nats.
        top1, top5: images whose label is not first, or not among the first five.
        count: images.
    """

    loss: Array | float = 0.0
    top1: Array | float = 0.0
    top5: Array | float = 0.0
    count: Array | float = 0.0

    def plus(self, other: "MetricSums") -> "MetricSums":
        """Add the sums of other images; the result has Python's floats."""
        return MetricSums(
            float(self.loss) + float(other.loss),
            float(self.top1) + float(other.top1),
            float(self.top5) + float(other.top5),
            float(self.count) + float(other.count),
        )

    def compute(self) -> "Metrics":
        """Return the mean loss, the errors as fractions, and the count."""
        count = float(self.count)
        return Metrics(
            loss=float(self.loss) / count,
            top1_error=float(self.top1) / count,
            top5_error=float(self.top5) / count,
            count=int(count),
        )


def compute_metrics(log_probabilities: Array, labels: Array, mask: Array) -> MetricSums:
    """Return the sums of a batch.

    The label's rank is the number of classes with a higher probability, plus the number of
    classes with an equal probability and a lower index, as in `jax.lax.top_k`. With up to five
    classes the top-5 error is 0. A label whose probability is NaN counts as an error.

    Args:
        log_probabilities: (batch, classes).
        labels: (batch,).
        mask: (batch,), False where an image only pads the batch.
    """
    own = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
    lower = jnp.arange(log_probabilities.shape[1]) < labels[:, None]
    before = (log_probabilities > own) | ((log_probabilities == own) & lower)
    rank = jnp.where(jnp.isnan(own[:, 0]), np.iinfo(np.int32).max, before.sum(1))
    return MetricSums(
        loss=sum_cross_entropy(log_probabilities, labels, mask),
        top1=(mask & (rank >= 1)).sum(),
        top5=(mask & (rank >= 5)).sum(),
        count=mask.sum(),
    )


def finite(tree: PyTree) -> bool:
    """Return whether every number in a tree of arrays is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
