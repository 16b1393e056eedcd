"""Sums, errors and finiteness of what a step or an evaluation computes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclass
class Totals:
    """Sums over images, to be divided once at the end.

    Attributes:
        loss: sum of the cross-entropies, in nats.
        top1, top5: images whose label is not first, or not among the first five.
        count: images.
    """

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    count: float = 0.0

    def add(self, sums: dict[str, Any]) -> None:
        """Add the sums of a batch, as `sums` returns them."""
        self.loss += float(sums["loss"])
        self.top1 += float(sums["top1"])
        self.top5 += float(sums["top5"])
        self.count += float(sums["count"])

    def means(self) -> dict[str, Any]:
        """Return the mean loss, the errors as fractions, and the count."""
        return {
            "loss": self.loss / self.count,
            "top1_error": self.top1 / self.count,
            "top5_error": self.top5 / self.count,
            "count": int(self.count),
        }


def sums(log_probabilities: Array, label: Array, mask: Array) -> dict[str, Array]:
    """Return the sums of a batch for `Totals`.

    The label's rank is the number of classes with a higher probability, plus the number of
    classes with an equal probability and a lower index, as in `jax.lax.top_k`. With up to five
    classes the top-5 error is 0. A label whose probability is NaN counts as an error.

    Args:
        log_probabilities: (batch, classes).
        label: (batch,).
        mask: (batch,), False where an image only pads the batch.
    """
    own = jnp.take_along_axis(log_probabilities, label[:, None], axis=1)
    lower = jnp.arange(log_probabilities.shape[1]) < label[:, None]
    before = (log_probabilities > own) | ((log_probabilities == own) & lower)
    rank = jnp.where(jnp.isnan(own[:, 0]), jnp.iinfo(jnp.int32).max, before.sum(1))
    return {
        "loss": -jnp.where(mask, own[:, 0], 0).sum(),
        "top1": (mask & (rank >= 1)).sum(),
        "top5": (mask & (rank >= 5)).sum(),
        "count": mask.sum(),
    }


def finite(tree: Any) -> bool:
    """Return whether every number in a tree of arrays is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
