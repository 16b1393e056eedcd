"""Forms of the first convolution that compute the same, to be timed on an accelerator.

Images have three channels, which are 6 bytes of a pixel in bfloat16: accelerators that load 16
bytes at a time may need other forms. The plain form is the one that models use; whether another one
is faster has not been measured.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.layers.conv import convolve
from alexnet_jax.models.ops import Conv
from experiments.benchmark.accelerator.measure import describe_work, time_call
from experiments.benchmark.timing import Result

ConvForm = Callable[[Array, Array, int, tuple[int, int]], Array]  # as `layers.conv.convolve`


def convolve_padded(channels: int) -> ConvForm:
    """Return a convolution that first adds channels of zeros to images and kernels.

    Args:
        channels: of the padded images, at least those of the images.
    """

    def apply(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
        missing = channels - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
        return convolve(x, kernel, stride, padding)

    return apply


def convolve_folded(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve with stride 1, after folding blocks of stride × stride pixels into channels.

    The kernel is folded alike, and padded with zeros to whole blocks.

    Args:
        x, kernel, stride, padding: see `layers.conv.convolve`.
    """
    size = kernel.shape[0]
    blocks = -(-size // stride)  # along a side of the kernel
    windows = [1 + (side + sum(padding) - size) // stride for side in x.shape[1:3]]
    sides = [(count + blocks - 1) * stride for count in windows]
    before = padding[0]
    zeros = jnp.zeros((), x.dtype)
    pads = [
        (before, side - before - length, 0)  # negative: no window has these pixels
        for side, length in zip(sides, x.shape[1:3], strict=True)
    ]
    x = jax.lax.pad(x, zeros, [(0, 0, 0), *pads, (0, 0, 0)])
    missing = blocks * stride - size
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    folded_kernel = _fold(kernel[None], stride)[0]
    return convolve(_fold(x, stride), folded_kernel, 1, (0, 0))


def _fold(x: Array, stride: int) -> Array:
    """Fold blocks of axes 1 and 2 into axis 3, the channels; later axes stay."""
    batch, height, width, channels, *rest = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels, *rest)
    x = jnp.moveaxis(x, 2, 3)  # (batch, rows, columns, stride, stride, channels, …)
    return x.reshape(batch, height // stride, width // stride, stride * stride * channels, *rest)


FORMS: dict[str, ConvForm] = {
    "plain": convolve,
    "4_channels": convolve_padded(4),
    "8_channels": convolve_padded(8),
    "folded": convolve_folded,
}


def measure_forms(config: Config, repeats: int) -> Result:
    """Time each form of a model's first convolution alone, for random images.

    Args:
        config: of a sequential model that begins with a convolution.

    Returns:
        What describes the work, and forms: by name the microseconds of the forward pass, `forward`,
        and of the gradient of the kernels alone, `kernel_gradient`.
    """
    op = next(iter(sequential_model(config).ops.values()))
    assert isinstance(op, Conv)
    crop, channels, dtype = config.data.crop, config.model.channels, jnp.dtype(config.compute_dtype)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (config.batch_size, crop, crop, channels), dtype)
    kernel = jax.random.normal(keys[1], (op.kernel, op.kernel, channels, op.features), dtype)
    forms = {}
    for name, form in FORMS.items():

        def forward(x: Array, kernel: Array, form: ConvForm = form) -> Array:
            return form(x, kernel, op.stride, op.padding)

        def kernel_gradient(x: Array, kernel: Array, gradient: Array, forward=forward) -> Array:
            _, pull_back = jax.vjp(lambda kernel: forward(x, kernel), kernel)
            return pull_back(gradient)[0]

        gradient = jax.random.normal(keys[2], jax.eval_shape(forward, x, kernel).shape, dtype)
        forms[name] = {
            "forward": time_call(jax.jit(forward), (x, kernel), repeats) * 1e6,
            "kernel_gradient": time_call(jax.jit(kernel_gradient), (x, kernel, gradient), repeats)
            * 1e6,
        }
    return {**describe_work(config, 1, jax.devices()[0].device_kind), "forms": forms}
