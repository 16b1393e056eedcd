"""The loss: cross-entropy of the classifier, and of auxiliary classifiers if a model has any."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array


def log_probabilities(logits: Array) -> Array:
    """Return the logarithm of the softmax of logits (batch, classes)."""
    return jax.nn.log_softmax(logits)


def sum_cross_entropy(log_probabilities: Array, labels: Array, mask: Array) -> Array:
    """Return the sum of -log p(label), in nats, over the examples in the mask.

    Args:
        log_probabilities: (batch, classes).
        labels: (batch,).
        mask: (batch,) bool, False for padding.
    """
    label_log_probs = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
    return -jnp.where(mask, label_log_probs[:, 0], 0).sum()


def sum_aux_losses(aux_logits: Mapping[str, Array], labels: Array, mask: Array) -> dict[str, Array]:
    """Return the sum of cross-entropies over the batch for each auxiliary classifier, by name."""
    return {
        name: sum_cross_entropy(log_probabilities(logits), labels, mask)
        for name, logits in aux_logits.items()
    }


def total_loss(
    loss_sum: Array, aux_sums: Mapping[str, Array], count: Array, aux_weights: Mapping[str, float]
) -> Array:
    """Return the loss that training minimizes, the weighted sum of the mean cross-entropies.

    Args:
        loss_sum: sum of cross-entropies of the classifier over the batch.
        aux_sums: sum of cross-entropies of each auxiliary classifier, by name.
        count: number of examples in the batch.
        aux_weights: weights of the auxiliary classifiers, by name.
    """
    for name, weight in aux_weights.items():
        loss_sum = loss_sum + weight * aux_sums[name]
    return loss_sum / count
