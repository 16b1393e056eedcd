"""Batch normalization (Ioffe and Szegedy 2015) with the statistics of the whole batch."""

from collections.abc import Callable
from math import prod
from typing import cast

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant

from alexnet_jax.layers.parameter import parameter


class BatchNorm(nn.Module):
    """Batch normalization of each channel over the batch and all pixels (algorithm 1).

        y = scale · (x - mean) / √(var + epsilon) + bias

    While training, mean and var are those of the batch, over all devices that share it; var is
    biased, Σ (x - mean)² / m. At test time they are running averages, which training updates by
    running ← momentum · running + (1 - momentum) · batch.

    Attributes:
        momentum: factor of the running averages; 1 minus the momentum of PyTorch.
        epsilon: constant that is added to the variance.
        unbiased: average the unbiased variance, Σ (x - mean)² / (m - 1), as PyTorch and Caffe do;
            False averages the biased one, as Flax does.
        batch_axes: mesh axes over which the batch is split.
    """

    momentum: float
    epsilon: float
    unbiased: bool
    batch_axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Return x (batch, height, width, channels) normalized, with its type.

        The arithmetic is float32 or wider.
        """
        shape, axes = x.shape[-1:], ("conv_outputs",)
        scale = parameter(self, "scale", axes, constant(1.0), shape)
        bias = parameter(self, "bias", axes, constant(0.0), shape)
        running_mean = self._running_average("mean", jnp.zeros, shape)
        running_var = self._running_average("var", jnp.ones, shape)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean = self._mean_of_batch(wide)
            centered = wide - _per_channel(mean)
            var = self._mean_of_batch(jnp.square(centered))
            self._update(running_mean, mean)
            self._update(running_var, var * self._correction(x))
        else:
            centered = wide - _per_channel(running_mean.value)
            var = running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        return (centered * _per_channel(factor) + _per_channel(bias)).astype(x.dtype)

    def _running_average(
        self, name: str, init: Callable[..., Array], shape: tuple[int, ...]
    ) -> nn.Variable[Array]:
        """Declare a running average with the logical name of its axis."""
        boxed = nn.with_logical_partitioning(init, ("conv_outputs",))
        return self.variable("batch_stats", name, cast(Callable[..., Array], boxed), shape)

    def _mean_of_batch(self, x: Array) -> Array:
        """Return the mean of each channel over the batch of all devices, (channels,)."""
        mean: Array = lax.pmean(x.mean((0, 1, 2)), self.batch_axes)
        return mean

    def _correction(self, x: Array) -> float:
        """Return the factor from the biased variance to the one that is averaged."""
        if not self.unbiased:
            return 1.0
        count = prod(x.shape[:-1]) * prod(lax.axis_size(axis) for axis in self.batch_axes)
        return count / max(count - 1, 1)  # a single value has no unbiased variance

    def _update(self, running: nn.Variable[Array], value: Array) -> None:
        """Update a running average."""
        running.value = self.momentum * running.value + (1 - self.momentum) * value


def _per_channel(x: Array) -> Array:
    """Return an array (channels,) with the rank of activations."""
    return lax.expand_dims(x, (0, 1, 2))
