"""Metrics: loss, top-1 and top-5 errors, and a check that arrays are finite."""

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
    """Sums over images, as JAX arrays or as numbers on the host; `compute` returns the means.

    Attributes:
        loss: sum of the cross-entropies, in nats.
        top1, top5: number of images whose label is not the most probable class, or not among the
            five most probable.
        count: number of images.
    """

    loss: Array | float = 0.0
    top1: Array | float = 0.0
    top5: Array | float = 0.0
    count: Array | float = 0.0

    def plus(self, other: "MetricSums") -> "MetricSums":
        """Return the sum with the sums of other images, as Python floats."""
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
    """Return the metric sums of a batch.

    The rank of the label is the number of classes with a higher probability, plus the number of
    classes with an equal probability and a lower index, as in `jax.lax.top_k`. With up to five
    classes the top-5 error is 0. A label whose probability is NaN counts as an error.

    Args:
        log_probabilities: (batch, classes).
        labels: (batch,).
        mask: (batch,) bool, False for padding.
    """
    label_log_probs = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
    has_lower_index = jnp.arange(log_probabilities.shape[1])[None] < labels[:, None]
    is_tied_first = (log_probabilities == label_log_probs) & has_lower_index
    ranks_higher = (log_probabilities > label_log_probs) | is_tied_first
    is_nan = jnp.isnan(label_log_probs[:, 0])
    rank = jnp.where(is_nan, np.iinfo(np.int32).max, ranks_higher.sum(1))
    return MetricSums(
        loss=sum_cross_entropy(log_probabilities, labels, mask),
        top1=(mask & (rank >= 1)).sum(),
        top5=(mask & (rank >= 5)).sum(),
        count=mask.sum(),
    )


def all_finite(tree: PyTree) -> bool:
    """Return whether every number in a tree of arrays is finite."""
    return bool(_all_finite(tree))


@jax.jit
def _all_finite(tree: PyTree) -> Array:
    """See `all_finite`."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
