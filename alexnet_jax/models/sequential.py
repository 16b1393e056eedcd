"""Sequential models, chains of ops: AlexNet, its replicas and ablations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.layers.columns import (
    ColumnClassifier,
    ColumnConv,
    ColumnDense,
    ColumnSharding,
    all_to_all_columns,
    gather_batch,
    halo_exchange,
)
from alexnet_jax.layers.conv import Conv, KernelInit
from alexnet_jax.layers.dense import Dense
from alexnet_jax.layers.dropout import dropout, rescale_kept, scale_by_keep_prob
from alexnet_jax.layers.local_conv import LocalConv
from alexnet_jax.layers.lrn import lrn, within_channel_lrn
from alexnet_jax.layers.pooling import average_pool, max_pool
from alexnet_jax.models import ops
from alexnet_jax.models.api import HiddenLayer, Layout, ModelFamily, Outputs
from alexnet_jax.models.sequential_config import SequentialConfig


class Sequential(nn.Module):
    """A model that applies a chain of ops to images and returns logits.

    Activations are a list of arrays, one per column; a model without groups has one column.

    Attributes:
        config: config of the model, with its ops.
        layout: layout of the columns on devices.
        dtype: type of convolutions and matrix products; normalization, logits and parameters are
            float32.
        dense_crop: side of the crops for which a model without groups was made, to apply it to
            larger images at every position; 0 for crops. The fully-connected layers are then
            convolutions, and the logits are (batch, height, width, classes) (section 3.2 of
            Simonyan and Zisserman 2014).
    """

    config: SequentialConfig
    layout: Layout = Layout()
    dtype: DTypeLike = jnp.float32
    dense_crop: int = 0

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Outputs:
        """Return the logits; see `models.api.Model`."""
        unsharded = ColumnSharding(self.config.num_columns)
        dense_sharding = self.layout.columns or unsharded
        sharding = unsharded if self.layout.batch_sharded_convs else dense_sharding
        examples = jnp.arange(len(images)) if examples is None else examples
        columns = [images.astype(self.dtype)] * sharding.num_local
        activations: dict[str, list[Array]] = {}
        for name, op in self.config.ops.items():
            if isinstance(op, ops.Dense) and columns[0].ndim > 2 and not self.dense_crop:
                columns = [column.reshape(len(column), -1) for column in columns]
                if self.layout.batch_sharded_convs:
                    with jax.named_scope(name):
                        columns = all_to_all_columns(columns, dense_sharding)
                        examples = gather_batch(examples, dense_sharding)
                sharding = dense_sharding
            if isinstance(op, ops.Dense) and not op.features:
                logits = self._classify(name, op, columns, sharding)
                activations[name] = [logits]
                self.sow("intermediates", "activations", activations, reduce_fn=lambda _, new: new)
                return Outputs(logits)
            if isinstance(op, ops.Conv):
                columns = self._convolve(name, op, columns, sharding, takes_image=not activations)
            elif isinstance(op, ops.LocalConv):
                columns = [self._convolve_locally(name, op, columns[0])]
            elif isinstance(op, ops.Dense):
                columns = self._connect(name, op, columns, sharding)
            else:
                with jax.named_scope(name):
                    columns = self._apply(op, columns, sharding, train, examples)
            activations[name] = columns
        raise AssertionError("the config has no classifier")

    def _convolve(
        self,
        name: str,
        op: ops.Conv,
        columns: list[Array],
        sharding: ColumnSharding,
        *,
        takes_image: bool,
    ) -> list[Array]:
        """Apply a convolution, whose input is the image if `takes_image`."""
        init = self._kernel_init(op)
        if self.config.num_columns == 1:
            layer = Conv(
                op.features, op.kernel, op.stride, op.padding, init, op.bias, self.dtype, name=name
            )
            return [layer(columns[0])]
        return ColumnConv(
            op.features // self.config.num_columns,
            op.kernel,
            op.stride,
            op.padding,
            op.groups == 1 and not takes_image,
            init,
            op.bias,
            sharding,
            self.dtype,
            name=name,
        )(columns)

    def _convolve_locally(self, name: str, op: ops.LocalConv, x: Array) -> Array:
        """Apply a locally-connected layer."""
        init = self._kernel_init(op)
        layer = LocalConv(
            op.features, op.kernel, op.stride, op.padding, init, op.bias, self.dtype, name=name
        )
        outputs: Array = layer(x)
        return outputs

    def _connect(
        self, name: str, op: ops.Dense, columns: list[Array], sharding: ColumnSharding
    ) -> list[Array]:
        """Apply a hidden fully-connected layer."""
        init = self._kernel_init(op)
        if self.config.num_columns == 1:
            window = self._window(name)
            layer = Dense(op.features, init, op.bias, self.dtype, self.dtype, window, name=name)
            return [layer(columns[0])]
        features = op.features // self.config.num_columns
        return ColumnDense(
            features, op.groups == 1, init, op.bias, sharding, self.dtype, name=name
        )(columns)

    def _classify(
        self, name: str, op: ops.Dense, columns: list[Array], sharding: ColumnSharding
    ) -> Array:
        """Apply the last layer, and return the logits."""
        init, classes = self._kernel_init(op), self.config.num_classes
        if self.config.num_columns == 1:
            wide = jnp.promote_types(self.dtype, jnp.float32)
            window = self._window(name)
            return Dense(classes, init, op.bias, self.dtype, wide, window, name=name)(columns[0])
        return ColumnClassifier(
            classes,
            init,
            op.bias,
            sharding,
            self.dtype,
            scatter=self.layout.batch_sharded_convs,
            name=name,
        )(columns)

    def _window(self, name: str) -> int:
        """Return the window of a fully-connected layer, see `layers.dense.Dense`."""
        if not self.dense_crop:
            return 0
        first = next(n for n, op in self.config.ops.items() if isinstance(op, ops.Dense))
        sizes = ops.spatial_sizes(self.config.ops, self.dense_crop)
        return next(reversed(sizes.values()), self.dense_crop) if name == first else 1

    def _apply(
        self,
        op: ops.Op,
        columns: list[Array],
        sharding: ColumnSharding,
        train: bool,
        examples: Array,
    ) -> list[Array]:
        """Apply an op without parameters: to each column alone, or an LRN across columns."""
        match op:
            case ops.ReLU():
                return [nn.relu(column) for column in columns]
            case ops.Tanh():
                return [jnp.tanh(column) for column in columns]
            case ops.LRN():
                window = op.size, op.k, op.coefficient(), op.beta
                if not op.across_columns:
                    return [lrn(column, *window) for column in columns]
                halo = op.size // 2
                wide = lrn(halo_exchange(columns, halo, sharding), *window)
                return jnp.split(wide[..., halo : wide.shape[-1] - halo], len(columns), axis=-1)
            case ops.WithinChannelLRN():
                window = op.size, op.k, op.coefficient(), op.beta
                return [within_channel_lrn(column, *window) for column in columns]
            case ops.MaxPool():
                return [
                    max_pool(column, op.window, op.stride, ceil_mode=op.ceil_mode)
                    for column in columns
                ]
            case ops.AvgPool():
                return [
                    average_pool(column, op.window, op.stride, ceil_mode=op.ceil_mode)
                    for column in columns
                ]
            case ops.Dropout():
                return self._dropout(op, columns, sharding, train, examples)
        raise AssertionError(f"unknown op {op}")

    def _dropout(
        self,
        op: ops.Dropout,
        columns: list[Array],
        sharding: ColumnSharding,
        train: bool,
        examples: Array,
    ) -> list[Array]:
        """Apply dropout with a mask per example and column, or its factor at test time."""
        if not train:
            return columns if op.inverted else [scale_by_keep_prob(x, op.rate) for x in columns]
        key = self.make_rng("dropout")  # a different key in every op
        dropped = [
            dropout(x, op.rate, jax.random.fold_in(key, sharding.global_index(c)), examples)
            for c, x in enumerate(columns)
        ]
        return [rescale_kept(x, op.rate) for x in dropped] if op.inverted else dropped

    def _kernel_init(self, op: ops.LayerOp) -> KernelInit:
        """Return the initializer of an op's kernel, by the config's `init`."""

        def init(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
            if self.config.init == "glorot":
                fan_out = op.features or self.config.num_classes
                fan_out //= 1 if isinstance(op, ops.LocalConv) else op.groups
                fan_out *= 1 if isinstance(op, ops.Dense) else op.kernel**2
                limit = (6 / (fan_in + fan_out)) ** 0.5
                return jax.random.uniform(key, shape, minval=-limit, maxval=limit)
            scale = op.std if self.config.init == "normal" else (2 / fan_in) ** 0.5
            return scale * jax.random.normal(key, shape)

        return init


def _feature_layer(config: SequentialConfig) -> str | None:
    """Return the name of the op before the classifier; None without one."""
    *hidden, _ = config.ops
    return hidden[-1] if hidden else None


def _first_conv(config: SequentialConfig) -> str | None:
    """Return the name of the first convolution; None without one."""
    return next((name for name, op in config.ops.items() if isinstance(op, ops.Conv)), None)


def _hidden_layers(config: SequentialConfig) -> tuple[HiddenLayer, ...]:
    """Return the layers before the classifier; the output is that of the nonlinearity, if any."""
    *hidden, _ = ops.blocks(config.ops).items()
    layers = []
    for name, block in hidden:
        *_, output = (
            n for n, op in block.items() if isinstance(op, ops.LayerOp | ops.ReLU | ops.Tanh)
        )
        after = [block[n] for n in [*block][[*block].index(output) + 1 :]]
        layers.append(HiddenLayer(name, output, _kind_of(block[name]), _followers(after)))
    return tuple(layers)


def _kind_of(op: ops.Op) -> str:
    """Return the kind of a layer, see `HiddenLayer`."""
    match op:
        case ops.Dense():
            return "fully-connected layer"
        case ops.LocalConv():
            return "locally-connected layer"
    return "convolution"


def _followers(after: list[ops.Op]) -> tuple[str, ...]:
    """Return what the ops after a nonlinearity are, without repetitions; see `HiddenLayer`."""
    found = []
    for op in after:
        match op:
            case ops.LRN() | ops.WithinChannelLRN():
                found.append("norm")
            case ops.MaxPool() | ops.AvgPool():
                found.append("pool")
    return tuple(dict.fromkeys(found))


SEQUENTIAL = ModelFamily(
    config_class=SequentialConfig,
    build=Sequential,
    aux_weights=lambda _: {},
    feature_layer=_feature_layer,
    first_conv=_first_conv,
    hidden_layers=_hidden_layers,
)
