"""GoogLeNet with its auxiliary classifiers (Szegedy et al. 2014, arXiv:1409.4842)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.layers.conv import Conv
from alexnet_jax.layers.dense import Dense
from alexnet_jax.layers.dropout import dropout, rescale_kept
from alexnet_jax.layers.lrn import lrn
from alexnet_jax.layers.pooling import adaptive_average_pool, average_pool, max_pool
from alexnet_jax.models.api import HiddenLayer, Layout, ModelFamily, Outputs, sow_activations
from alexnet_jax.models.branched_config import GoogLeNetConfig
from alexnet_jax.models.branched_layers import make_batch_norm, same_padding

# Number of filters of each Inception module (table 1): 1×1; 3×3 after its reduction; 5×5 after its
# reduction; projection of the pooling.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"4a": "aux1", "4d": "aux2"}  # auxiliary classifiers by the module before them
CONV_BIAS = 0.2  # models/bvlc_googlenet/train_val.prototxt of Caffe; the paper has none
LRN = (5, 1.0, 1e-4 / 5, 0.75)  # size, k, alpha and beta of the same file


class Part(nn.Module):
    """Base class of the model and its parts.

    Attributes:
        config: config of the model.
        layout: layout on devices.
        dtype: type of convolutions and matrix products; normalization, logits and parameters are
            float32.
    """

    config: GoogLeNetConfig
    layout: Layout
    dtype: DTypeLike

    def conv_relu(
        self,
        out: dict[str, Array],
        name: str,
        x: Array,
        features: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        train: bool,
    ) -> Array:
        """Apply a convolution, batch normalization if the config has it, and ReLU.

        Args:
            out: the activations of this part by name, to which these are added.
            name: name of the convolution.
            x: activations (batch, height, width, channels).
            features: number of filters in the paper.
            kernel: side of the kernels; the padding is such that stride 1 keeps the size of x.
            stride: distance between windows in pixels.
            train: see `models.api.Model`.
        """
        has_batch_norm = self.config.normalization == "batch_norm"
        bias = None if has_batch_norm else CONV_BIAS
        padding = same_padding(kernel)
        width = scale_width(self.config, features)
        conv = Conv(width, kernel, stride, padding, _init, bias, self.dtype, name=name)
        x = out[name] = conv(x)
        if has_batch_norm:
            batch_norm = make_batch_norm(self.config.batch_norm, self.layout, f"{name}_bn")
            x = out[f"{name}_bn"] = batch_norm(x, train=train)
        x = out[f"{name}_relu"] = nn.relu(x)
        return x

    def dropout(self, x: Array, rate: float, examples: Array, train: bool) -> Array:
        """Apply dropout, whose kept activations are divided by 1 - rate while training."""
        if not train or not rate:
            return x
        return rescale_kept(dropout(x, rate, self.make_rng("dropout"), examples), rate)


class GoogLeNet(Part):
    """GoogLeNet (table 1 and section 5); layers have the names of table 1 and of Caffe's replica.

    The auxiliary classifiers are computed only while training.
    """

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Outputs:
        """Return the logits; see `models.api.Model`."""
        config, out, aux_logits = self.config, dict[str, Array](), dict[str, Array]()
        examples = jnp.arange(len(images)) if examples is None else examples
        x = self._stem(out, images, train)
        for module, filters in INCEPTION.items():
            name = f"inception_{module}"
            inception = Inception(config, self.layout, self.dtype, filters, name=name)
            x = _add(out, name, inception(x, train=train))
            if module in AUXILIARY and config.aux_weight and (train or self.is_initializing()):
                aux = AUXILIARY[module]
                classifier = AuxiliaryClassifier(config, self.layout, self.dtype, name=aux)
                aux_logits[aux] = _add(out, aux, classifier(x, examples, train=train))
            if module == "3b":
                x = out["pool3"] = max_pool(x, 3, 2, ceil_mode=config.ceil_mode)
            if module == "4e":
                x = out["pool4"] = max_pool(x, config.pool4_window, 2, ceil_mode=config.ceil_mode)
        x = out["global_pool"] = x.mean((1, 2))
        x = out["drop"] = self.dropout(x, config.dropout, examples, train)
        logits = out["fc"] = Dense(config.num_classes, _init, 0.0, self.dtype, name="fc")(x)
        sow_activations(self, out)
        return Outputs(logits, aux_logits)

    def _stem(self, out: dict[str, Array], x: Array, train: bool) -> Array:
        """Return the input of module 3a."""
        has_lrn = self.config.normalization == "lrn"
        is_small = self.config.stem == "small"
        kernel, stride = (3, 1) if is_small else (7, 2)
        x = self.conv_relu(out, "conv1", x, 64, kernel, stride=stride, train=train)
        x = out["pool1"] = max_pool(x, 3, 2, ceil_mode=self.config.ceil_mode)
        if has_lrn:
            x = out["norm1"] = lrn(x, *LRN)
        if is_small:
            return x
        x = self.conv_relu(out, "conv2_reduce", x, 64, train=train)
        x = self.conv_relu(out, "conv2", x, 192, 3, train=train)
        if has_lrn:
            x = out["norm2"] = lrn(x, *LRN)
        x = out["pool2"] = max_pool(x, 3, 2, ceil_mode=self.config.ceil_mode)
        return x


class Inception(Part):
    """An Inception module with dimension reductions (figure 2b).

    Attributes:
        filters: numbers of filters in the paper, see `INCEPTION`.
    """

    filters: tuple[int, int, int, int, int, int]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Return the activations of the module by name, in order; the last is its output."""
        out: dict[str, Array] = {}
        ones, reduce3, threes, reduce5, fives, projection = self.filters
        large = self.config.large_kernel
        branch1 = self.conv_relu(out, "1x1", x, ones, train=train)
        branch2 = self.conv_relu(out, "3x3_reduce", x, reduce3, train=train)
        branch2 = self.conv_relu(out, "3x3", branch2, threes, 3, train=train)
        branch3 = self.conv_relu(out, "5x5_reduce", x, reduce5, train=train)
        branch3 = self.conv_relu(out, "5x5", branch3, fives, large, train=train)
        branch4 = out["pool"] = max_pool(x, 3, 1, padding=1)
        branch4 = self.conv_relu(out, "pool_proj", branch4, projection, train=train)
        out["output"] = jnp.concatenate([branch1, branch2, branch3, branch4], axis=-1)
        return out


class AuxiliaryClassifier(Part):
    """An auxiliary classifier (section 5)."""

    @nn.compact
    def __call__(self, x: Array, examples: Array, *, train: bool) -> dict[str, Array]:
        """Return the activations of the classifier by name, in order; the last are the logits."""
        out: dict[str, Array] = {}
        if self.config.aux_pooling == "windows":
            x = out["pool"] = average_pool(x, 5, 3)
        else:
            x = out["pool"] = adaptive_average_pool(x, 4)
        x = self.conv_relu(out, "conv", x, 128, train=train).reshape(len(x), -1)
        width = scale_width(self.config, 1024)
        units = Dense(width, _init, CONV_BIAS, self.dtype, self.dtype, name="fc1")
        x = out["fc1"] = units(x)
        x = out["fc1_relu"] = nn.relu(x)
        x = out["drop"] = self.dropout(x, self.config.aux_dropout, examples, train)
        classifier = Dense(self.config.num_classes, _init, 0.0, self.dtype, name="fc2")
        out["fc2"] = classifier(x)
        return out


def scale_width(config: GoogLeNetConfig, features: int) -> int:
    """Return a number of filters or units of the paper times the width of the config."""
    return max(1, round(features * config.width))


def _add(out: dict[str, Array], name: str, part: dict[str, Array]) -> Array:
    """Add the activations of a part to those of the model, and return its output."""
    out.update({f"{name}/{layer}": activation for layer, activation in part.items()})
    return next(reversed(part.values()))


def _init(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Return a kernel drawn uniformly from ±√(3 / fan-in), Caffe's "xavier" filler."""
    limit = (3 / fan_in) ** 0.5
    kernel: Array = jax.random.uniform(key, shape, minval=-limit, maxval=limit)
    return kernel


def _aux_weights(config: GoogLeNetConfig) -> dict[str, float]:
    """Return the weights of the auxiliary classifiers in the loss."""
    return dict.fromkeys(AUXILIARY.values(), config.aux_weight) if config.aux_weight else {}


def _hidden_layers(config: GoogLeNetConfig) -> tuple[HiddenLayer, ...]:
    """Return the convolutions before the Inception modules, and these, named as in Caffe."""
    norm = ("norm",) if config.normalization == "lrn" else ()
    layers = [HiddenLayer("conv1", "conv1_relu", "convolution", ("pool", *norm))]
    if config.stem == "imagenet":
        layers.append(HiddenLayer("conv2_reduce", "conv2_reduce_relu", "convolution"))
        layers.append(HiddenLayer("conv2", "conv2_relu", "convolution", (*norm, "pool")))
    followers = {"3b": ("pool",), "4e": ("pool",), "5b": ("mean",)}
    large = "5×5" if config.large_kernel == 5 else "second 3×3"
    for module, (ones, _, threes, _, fives, projection) in INCEPTION.items():
        widths = (scale_width(config, features) for features in (ones, threes, fives, projection))
        branches = tuple(zip(("1×1", "3×3", large, "pooling"), widths, strict=True))
        name, after = f"inception_{module}", followers.get(module, ())
        layers.append(HiddenLayer(name, f"{name}/output", "Inception module", after, branches))
    return tuple(layers)


GOOGLENET = ModelFamily(
    config_class=GoogLeNetConfig,
    build=GoogLeNet,
    aux_weights=_aux_weights,
    feature_layer=lambda _: "drop",
    first_conv=lambda _: "conv1",
    hidden_layers=_hidden_layers,
)
