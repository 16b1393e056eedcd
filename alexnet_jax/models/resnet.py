"""Residual networks and plain networks with batch normalization (He et al. 2015)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.layers.conv import Conv
from alexnet_jax.layers.dense import Dense
from alexnet_jax.layers.pooling import max_pool
from alexnet_jax.models.api import HiddenLayer, Layout, ModelFamily, Outputs, sow_activations
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.models.branched_layers import make_batch_norm, same_padding


class ResNet(nn.Module):
    """A residual network (table 1 and section 4.2 of the paper).

    Blocks are named as in the paper: conv2_1 is the first block of the first stage.

    Attributes:
        config: config of the model.
        layout: layout on devices.
        dtype: type of convolutions and matrix products; normalization, logits and parameters are
            float32.
    """

    config: ResNetConfig
    layout: Layout = Layout()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Outputs:
        """Return the logits; see `models.api.Model`."""
        config, out = self.config, dict[str, Array]()
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        x = out["conv1"] = _conv(config.width, kernel, stride, self.dtype, "conv1")(images)
        x = out["bn1"] = make_batch_norm(config.batch_norm, self.layout, "bn1")(x, train=train)
        x = out["relu1"] = nn.relu(x)
        if config.stem == "imagenet":
            pad = config.pool_padding
            x = out["pool1"] = max_pool(x, 3, 2, ceil_mode=pad == 0, padding=pad)
        for name, features, stride in list_blocks(config):
            block = Block(config, features, stride, self.layout, self.dtype, name=name)
            layers = block(x, train=train)
            out |= {f"{name}/{layer}": activation for layer, activation in layers.items()}
            x = layers["relu"]
        x = out["global_pool"] = x.mean((1, 2))
        logits = out["fc"] = Dense(config.num_classes, _he_init, 0.0, self.dtype, name="fc")(x)
        sow_activations(self, out)
        return Outputs(logits)


class Block(nn.Module):
    """A residual block, or a block of a plain network.

    Attributes:
        config: config of the model.
        features: number of filters of the 3×3 convolutions.
        stride: 2 to halve the image, or 1.
        layout, dtype: see `ResNet`.
    """

    config: ResNetConfig
    features: int
    stride: int
    layout: Layout
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Return the activations of the block by name, in order; the last is its output."""
        out, y = dict[str, Array](), x
        convs = block_convolutions(self.config, self.features, self.stride)
        for number, (features, kernel, stride) in enumerate(convs, 1):
            name = f"conv{number}"
            y = out[name] = _conv(features, kernel, stride, self.dtype, name)(y)
            norm = make_batch_norm(self.config.batch_norm, self.layout, f"bn{number}")
            y = out[f"bn{number}"] = norm(y, train=train)
            if number < len(convs):
                y = out[f"relu{number}"] = nn.relu(y)
        if self.config.shortcut != "none":
            shortcut = self._shortcut(x, y, out, train)
            y = out["sum"] = y + shortcut
        out["relu"] = nn.relu(y)
        return out

    def _shortcut(self, x: Array, y: Array, out: dict[str, Array], train: bool) -> Array:
        """Return what is added to y, the output of the last convolution (section 4.1)."""
        changes_shape = x.shape != y.shape
        kind = self.config.shortcut
        if kind == "C" or (kind == "B" and changes_shape):
            conv = _conv(y.shape[-1], 1, self.stride, self.dtype, "shortcut_conv")
            x = out["shortcut_conv"] = conv(x)
            norm = make_batch_norm(self.config.batch_norm, self.layout, "shortcut_bn")
            x = out["shortcut_bn"] = norm(x, train=train)
        elif changes_shape:
            new_channels = y.shape[-1] - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, new_channels)))
        return x


def list_blocks(config: ResNetConfig) -> list[tuple[str, int, int]]:
    """Return the name, number of filters of the 3×3 convolutions, and stride of every block."""
    return [
        (
            f"conv{stage + 2}_{index + 1}",
            config.width * 2**stage,
            2 if stage > 0 and index == 0 else 1,
        )
        for stage, size in enumerate(config.stage_sizes)
        for index in range(size)
    ]


def block_convolutions(
    config: ResNetConfig, features: int, stride: int
) -> list[tuple[int, int, int]]:
    """Return the number of filters, side of the kernel and stride of a block's convolutions.

    Args:
        config: config of the model.
        features: number of filters of the 3×3 convolutions.
        stride: 2 to halve the image, or 1.
    """
    if config.block == "basic":
        return [(features, 3, stride), (features, 3, 1)]
    first, second = (stride, 1) if config.stride_in == "1x1" else (1, stride)
    return [(features, 1, first), (features, 3, second), (4 * features, 1, 1)]


def _conv(features: int, kernel: int, stride: int, dtype: DTypeLike, name: str) -> Conv:
    """Return a convolution without a bias, padded so that stride 1 keeps the size of the image."""
    return Conv(features, kernel, stride, same_padding(kernel), _he_init, None, dtype, name=name)


def _he_init(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Return a kernel from N(0, 2 / fan-in) (He et al. 2015, arXiv:1502.01852)."""
    kernel: Array = (2 / fan_in) ** 0.5 * jax.random.normal(key, shape)
    return kernel


def _hidden_layers(config: ResNetConfig) -> tuple[HiddenLayer, ...]:
    """Return the first convolution and the blocks."""
    pool = ("pool",) if config.stem == "imagenet" else ()
    kind = "block" if config.shortcut == "none" else "residual block"
    *blocks, (last, _, _) = list_blocks(config)
    return (
        HiddenLayer("conv1", "relu1", "convolution", pool),
        *(HiddenLayer(name, f"{name}/relu", kind) for name, _, _ in blocks),
        HiddenLayer(last, f"{last}/relu", kind, ("mean",)),
    )


RESNET = ModelFamily(
    config_class=ResNetConfig,
    build=ResNet,
    aux_weights=lambda _: {},
    feature_layer=lambda _: "global_pool",
    first_conv=lambda _: "conv1",
    hidden_layers=_hidden_layers,
)
