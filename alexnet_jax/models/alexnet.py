"""The network of the paper, section 3.5, with everything that varies held as data."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.errors import InputError
from alexnet_jax.models.columns import (
    Classifier,
    ColumnConv,
    ColumnDense,
    KernelInit,
    Placement,
    beside_neighbours,
    gather_batch,
    trade_batch_for_columns,
)
from alexnet_jax.models.dropout import drop, expect, make_up
from alexnet_jax.models.lrn import lrn, map_norm
from alexnet_jax.models.order import by_number
from alexnet_jax.models.pooling import max_pool, whole_windows

Sight = Literal["own", "both"]
# "pool" rounds the number of windows up, "pool_floor" leaves out one that overhangs.
Step = Literal["relu", "tanh", "lrn", "map_norm", "pool", "pool_floor", "dropout"]


@dataclass(frozen=True)
class Conv:
    """A convolutional layer: its features are those of all columns together."""

    name: str
    features: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    sees: Sight
    std: float
    bias: float
    after: tuple[Step, ...]


@dataclass(frozen=True)
class Dense:
    """A fully-connected layer: its features are those of all columns together."""

    name: str
    features: int
    sees: Sight
    std: float
    bias: float
    after: tuple[Step, ...]


@dataclass(frozen=True)
class Normalisation:
    """Division by a power of k + alpha × the sum of squares in a window.

    `size` is the window's maps, or its pixels a side; `alpha_over_size` divides alpha by the
    number of activities in it, as Caffe, PyTorch and ONNX do.
    """

    size: int
    k: float
    alpha: float
    beta: float
    alpha_over_size: bool

    def share(self, activities: int) -> float:
        """The factor of each square, of so many in a window."""
        return self.alpha / activities if self.alpha_over_size else self.alpha


@dataclass(frozen=True)
class LRN(Normalisation):
    """Local response normalisation, over neighbouring maps.

    `across_columns` lets the window reach over the boundary between columns, as those programs
    do; in 2012 each column was normalised over its own maps.
    """

    across_columns: bool


@dataclass(frozen=True)
class Pool:
    """Max pooling, overlapping where the stride is less than the window."""

    window: int
    stride: int


@dataclass(frozen=True)
class ModelConfig:
    """All of the network that the paper, its program, its ablations and relatives differ in.

    Attributes:
        columns: parts of the network, each with its own kernels.
        channels: of the images.
        classes: outputs of the last layer.
        dropout: the probability that a unit is dropped.
        lrn: of the step of this name, across maps; map_norm: of the one within a map.
        inverted_dropout: scale what survives up while training and leave the test alone, as
            Caffe and PyTorch do; False multiplies by the share of survivors at test (4.2).
        init: "normal" draws kernels from N(0, std²) with each layer's std, as the paper;
            "scaled" from N(0, 2 / inputs of a unit), which a narrow net needs.
        layers: convolutions, then fully-connected layers; the last one classifies.
    """

    columns: int
    channels: int
    classes: int
    dropout: float
    inverted_dropout: bool
    init: Literal["normal", "scaled"]
    lrn: LRN
    map_norm: Normalisation
    pool: Pool
    layers: tuple[Conv | Dense, ...]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """From the `model` part of a config; its layers come in the order of their names.

        That is conv1, conv2, …, conv10, fc11: letters first, then numbers by their value.

        Raises:
            InputError: a field missing, unknown or of a value that is not known.
        """
        _check_fields(cls, "model", {*config})
        layers = tuple(
            _build(Conv if "kernel" in layer else Dense, f"model.layers.{name}", layer, name=name)
            for name, layer in sorted(config["layers"].items(), key=lambda item: by_number(item[0]))
        )
        built = _build(
            cls,
            "model",
            config,
            lrn=_build(LRN, "model.lrn", config["lrn"]),
            map_norm=_build(Normalisation, "model.map_norm", config["map_norm"]),
            pool=_build(Pool, "model.pool", config["pool"]),
            layers=layers,
        )
        built.check()
        return built

    def check(self) -> None:
        """Raise InputError for sizes and words that do not make a network."""
        _known("model.init", self.init, ("normal", "scaled"))
        _positive("model", self, "columns", "channels")
        _positive("model.pool", self.pool, "window", "stride")
        for where, norm in (("model.lrn", self.lrn), ("model.map_norm", self.map_norm)):
            if norm.size < 1 or norm.size % 2 == 0:
                raise InputError(f"{where}.size is {norm.size}; expected an odd number, 1 or more")
        if self.pool.stride > self.pool.window:
            raise InputError(
                f"model.pool.stride is {self.pool.stride}; expected at most the window, "
                f"{self.pool.window}"
            )
        for layer in self.layers[:-1]:
            sizes = ("kernel", "stride") if isinstance(layer, Conv) else ()
            _positive(f"model.layers.{layer.name}", layer, "features", *sizes)
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout={self.dropout}; expected from 0 to below 1")
        kinds = "".join(type(layer).__name__[0] for layer in self.layers)
        if "DC" in kinds or not kinds.endswith("D"):
            names = ", ".join(layer.name for layer in self.layers)
            raise InputError(
                f"model.layers are {names}; expected convolutions, then fully-connected layers, "
                "at least one of these"
            )
        last = self.layers[-1]
        if (last.sees, last.features, tuple(last.after)) != ("both", 0, ()):
            raise InputError(
                f"model.layers.{last.name}, the last one, has sees={last.sees!r}, features="
                f"{last.features}, after={last.after}; expected 'both', 0 (the classes) and ()"
            )
        for layer in self.layers:
            where = f"model.layers.{layer.name}"
            _known(f"{where}.sees", layer.sees, get_args(Sight))
            for step in layer.after:
                _known(f"{where}.after", step, get_args(Step))
            if layer is not self.layers[-1] and layer.features % self.columns:
                raise InputError(
                    f"{where}.features is {layer.features}; expected a multiple of the "
                    f"{self.columns} columns"
                )


class AlexNet(nn.Module):
    """The network: images to logits.

    Attributes:
        config: what it is made of.
        placement: the columns on this device; all of them outside `jax.shard_map`.
        dtype: of convolutions and matrix products; normalisation, logits and parameters are
            float32.
        weird: "one weird trick" (Krizhevsky 2014): the placement's devices share the batch, each
            with all columns, up to the last convolution; from there on they share the columns,
            each with the batch of all of them; and at the loss the batch again.
    """

    config: ModelConfig
    placement: Placement | None = None
    dtype: DTypeLike = jnp.float32
    weird: bool = False

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Array:
        """Logits (batch, classes), float32, of mean-subtracted images in units of 0…255.

        Args:
            images: (batch, height, width, channels).
            train: drop units (needs an rng "dropout") instead of taking their expectation.
            examples: (batch,) the number of each image in the run, on which its dropout
                masks depend; by default its place in the batch.

        `activations` returns what lies between.
        """
        placement = self.placement or Placement(self.config.columns)
        before = Placement(self.config.columns) if self.weird else placement
        *hidden, last = self.config.layers
        if examples is None:
            examples = jnp.arange(len(images))
        columns = [images.astype(self.dtype)] * before.local
        kept: dict[str, list[Array]] = {}
        for layer in hidden:
            if isinstance(layer, Dense) and columns[0].ndim > 2:
                columns, examples = self._flatten(layer.name, columns, examples, placement)
            here = before if isinstance(layer, Conv) else placement
            columns = kept[layer.name] = self._layer(layer, here)(columns)
            for step in layer.after:
                with jax.named_scope(layer.name):  # an exchange of columns is this layer's
                    columns = self._step(step, columns, here, train, examples)
                kept[f"{layer.name}_{step}"] = columns
        self.sow("intermediates", "activations", kept, reduce_fn=lambda _, new: new)
        if columns[0].ndim > 2:
            columns, _ = self._flatten(last.name, columns, examples, placement)
        return Classifier(
            self.config.classes,
            self._kernel_init(last.std),
            last.bias,
            placement,
            self.dtype,
            scatter=self.weird,
            name=last.name,
        )(columns)

    def _flatten(
        self, name: str, columns: list[Array], examples: Array, placement: Placement
    ) -> tuple[list[Array], Array]:
        """Columns of maps to columns of units, for the first fully-connected layer, `name`."""
        columns = [column.reshape(len(column), -1) for column in columns]
        if not self.weird:
            return columns, examples
        with jax.named_scope(name):
            return trade_batch_for_columns(columns, placement), gather_batch(examples, placement)

    def _layer(self, layer: Conv | Dense, placement: Placement) -> nn.Module:
        shared: dict[str, Any] = dict(
            features=layer.features // self.config.columns,
            sees_both=layer.sees == "both",
            kernel_init=self._kernel_init(layer.std),
            bias=layer.bias,
            placement=placement,
            dtype=self.dtype,
            name=layer.name,
        )
        if isinstance(layer, Dense):
            return ColumnDense(**shared)
        return ColumnConv(kernel=layer.kernel, stride=layer.stride, padding=layer.padding, **shared)

    def _step(
        self,
        step: Step,
        columns: list[Array],
        placement: Placement,
        train: bool,
        examples: Array,
    ) -> list[Array]:
        """What follows a layer, on each column for itself but for an LRN across columns."""
        config = self.config
        if step == "relu":
            return [nn.relu(column) for column in columns]
        if step == "tanh":
            return [jnp.tanh(column) for column in columns]
        if step == "lrn":
            norm = config.lrn
            rule = norm.size, norm.k, norm.share(norm.size), norm.beta
            if not norm.across_columns:
                return [lrn(column, *rule) for column in columns]
            reach = norm.size // 2
            wide = lrn(beside_neighbours(columns, reach, placement), *rule)
            return jnp.split(wide[..., reach : wide.shape[-1] - reach], len(columns), axis=-1)
        if step == "map_norm":
            near = config.map_norm
            rule = near.size, near.k, near.share(near.size**2), near.beta
            return [map_norm(column, *rule) for column in columns]
        if step == "pool_floor":
            columns = [whole_windows(c, config.pool.window, config.pool.stride) for c in columns]
        if step in ("pool", "pool_floor"):
            return [max_pool(column, config.pool.window, config.pool.stride) for column in columns]
        if not train:
            scaled = config.inverted_dropout
            return columns if scaled else [expect(column, config.dropout) for column in columns]
        key = self.make_rng("dropout")
        dropped = [
            drop(column, config.dropout, jax.random.fold_in(key, placement.index(c)), examples)
            for c, column in enumerate(columns)
        ]
        if config.inverted_dropout:
            return [make_up(column, config.dropout) for column in dropped]
        return dropped

    def _kernel_init(self, std: float) -> KernelInit:
        def init(key: Array, shape: tuple[int, ...], inputs: int) -> Array:
            scale = std if self.config.init == "normal" else (2 / inputs) ** 0.5
            return scale * jax.random.normal(key, shape)

        return init


def activations(model: AlexNet, params: Mapping[str, Any], images: Array) -> dict[str, Array]:
    """Every activation at test time, by layer and step, and the logits.

    Args:
        params: of the model, {"conv1": {"kernel": …}, …}.
        images: as for the model.

    Returns:
        {"conv1": …, "conv1_relu": …, "conv1_lrn": …, "conv1_pool": …, …}, in the order of
        the network, each (columns, batch, …), and last {"fc8": (batch, classes)}.
    """
    logits, state = model.apply({"params": params}, images, mutable=["intermediates"])
    kept = state["intermediates"]["activations"]
    stacked = {name: jnp.stack(columns) for name, columns in kept.items()}
    return {**stacked, model.config.layers[-1].name: logits}


def _build(kind: type, where: str, given: Mapping[str, Any], **ready: Any) -> Any:
    """The dataclass from a mapping and what is already built."""
    _check_fields(kind, where, {*given, *ready})
    return kind(**{**given, **ready})


def _check_fields(kind: type, where: str, given: set[str]) -> None:
    """A field too many or too few is an InputError."""
    if wrong := given.symmetric_difference(field.name for field in fields(kind)):
        raise InputError(
            f"{where} has the fields {', '.join(sorted(given))}; "
            f"missing or unknown: {', '.join(sorted(wrong))}"
        )


def _known(where: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InputError(f"{where} has {value!r}; expected one of {', '.join(words)}")


def _positive(where: str, part: Any, *names: str) -> None:
    for name in names:
        if getattr(part, name) < 1:
            raise InputError(f"{where}.{name} is {getattr(part, name)}; expected 1 or more")
