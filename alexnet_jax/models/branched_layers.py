"""Layers that GoogLeNet and residual networks build alike."""

from alexnet_jax.layers.batch_norm import BatchNorm
from alexnet_jax.models.api import Layout
from alexnet_jax.models.branched_config import BatchNormConfig


def same_padding(kernel: int) -> tuple[int, int]:
    """Return the padding with which a convolution of stride 1 keeps the size of its input.

    Args:
        kernel: side of the kernels, odd.
    """
    return (kernel - 1) // 2, (kernel - 1) // 2


def make_batch_norm(config: BatchNormConfig, layout: Layout, name: str) -> BatchNorm:
    """Return the batch normalization of a config, whose statistics are those of all devices."""
    return BatchNorm(config.momentum, config.epsilon, config.unbiased, layout.batch_axes, name=name)
