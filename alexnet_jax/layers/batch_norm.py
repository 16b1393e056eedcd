"""Batch normalization (Ioffe and Szegedy 2015) with the statistics of the whole batch."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant

from alexnet_jax.layers.arithmetic import widen
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
        if not train:
            mean, var = running_mean.value, running_var.value
            return _normalize(x, mean, lax.rsqrt(var + self.epsilon), scale, bias)
        if varying := tuple(jax.typeof(x).manual_axis_type.varying):  # inside shard_map
            scale, bias = lax.pcast((scale, bias), varying, to="varying")
        outputs, mean, var = normalize_by_batch(x, scale, bias, self.epsilon, self.batch_axes)
        self._update(running_mean, mean)
        self._update(running_var, var * self._correction(x))
        return outputs

    def _running_average(
        self, name: str, init: Callable[..., Array], shape: tuple[int, ...]
    ) -> nn.Variable[Array]:
        """Declare a running average with the logical name of its axis."""
        boxed = nn.with_logical_partitioning(init, ("conv_outputs",))
        return self.variable("batch_stats", name, cast(Callable[..., Array], boxed), shape)

    def _correction(self, x: Array) -> float:
        """Return the factor from the biased variance to the one that is averaged."""
        if not self.unbiased:
            return 1.0
        count = prod(x.shape[:-1]) * prod(lax.axis_size(axis) for axis in self.batch_axes)
        return count / max(count - 1, 1)  # a single value has no unbiased variance

    def _update(self, running: nn.Variable[Array], value: Array) -> None:
        """Update a running average."""
        running.value = self.momentum * running.value + (1 - self.momentum) * value


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float, batch_axes: tuple[str, ...]
) -> tuple[Array, Array, Array]:
    """Return x normalized by the statistics of the batch, and these: mean and biased variance.

    The statistics have no gradient of their own; that of x flows through them (algorithm 1). It is
    computed from x and the statistics. XLA's gradient would also keep x - mean for it, which is as
    large as x.

    Args:
        x: (batch, height, width, channels).
        scale, bias: (channels,).
        epsilon, batch_axes: see `BatchNorm`.
    """
    return _forward(x, scale, bias, epsilon, batch_axes)[0]


_Residuals = tuple[Array, Array, Array, Array]  # x, mean, 1 / deviation, scale


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, batch_axes: tuple[str, ...]
) -> tuple[tuple[Array, Array, Array], _Residuals]:
    """Return the results of `normalize_by_batch`, and what the gradient needs."""
    mean = _mean_of_batch(widen(x), batch_axes)
    var = _mean_of_batch(jnp.square(widen(x) - _per_channel(mean)), batch_axes)
    inverse = lax.rsqrt(var + epsilon)
    return (_normalize(x, mean, inverse, scale, bias), mean, var), (x, mean, inverse, scale)


def _backward(
    epsilon: float,
    batch_axes: tuple[str, ...],
    residuals: _Residuals,
    gradients: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Return the gradients of x and, on this device, of scale and bias."""
    del epsilon
    x, mean, inverse, scale = residuals
    gradient = widen(gradients[0])
    average = gradient.mean((0, 1, 2))
    # The gradient is centered rather than x, since their product has the same mean, and below it is
    # mean - x: XLA would take x - mean from the forward pass, and keep it until here.
    centered = gradient - _per_channel(lax.pmean(average, batch_axes))
    product = (centered * widen(x)).mean((0, 1, 2)) * inverse
    slope = inverse * lax.pmean(product, batch_axes)
    x_gradient = centered + (_per_channel(mean) - widen(x)) * _per_channel(slope)
    x_gradient = (x_gradient * _per_channel(scale * inverse)).astype(x.dtype)
    pixels = prod(x.shape[:-1])
    return x_gradient, product * pixels, average * pixels


normalize_by_batch.defvjp(_forward, _backward)


def _normalize(x: Array, mean: Array, inverse: Array, scale: Array, bias: Array) -> Array:
    """Return scale · (x - mean) · inverse + bias with the type of x."""
    centered = widen(x) - _per_channel(mean)
    return (centered * _per_channel(scale * inverse) + _per_channel(bias)).astype(x.dtype)


def _mean_of_batch(x: Array, batch_axes: tuple[str, ...]) -> Array:
    """Return the mean of each channel over the batch of all devices, (channels,)."""
    mean: Array = lax.pmean(x.mean((0, 1, 2)), batch_axes)
    return mean


def _per_channel(x: Array) -> Array:
    """Return an array (channels,) with the rank of activations."""
    return lax.expand_dims(x, (0, 1, 2))
