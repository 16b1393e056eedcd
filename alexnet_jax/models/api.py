"""What all models share: their outputs, and what the program has to know of a model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import flax.linen as nn
import flax.struct
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.layers.columns import ColumnSharding
from alexnet_jax.models.ops import ModelConfig

M = TypeVar("M", bound=ModelConfig)


class Outputs(flax.struct.PyTreeNode):
    """What a model computes from images.

    Attributes:
        logits: (batch, classes) float32.
        aux_logits: the same of auxiliary classifiers, by name; only while training.
    """

    logits: Array
    aux_logits: dict[str, Array] = flax.struct.field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How a model lies on the devices.

    Attributes:
        columns: which columns are on this device; None holds all of them.
        batch_sharded_convs: "one weird trick" (Krizhevsky 2014): the devices of the column axis
            share the batch, each with all columns, up to the last convolution; from there on they
            share the columns, each with the batch of all of them; and at the loss the batch again.
    """

    columns: ColumnSharding | None = None
    batch_sharded_convs: bool = False


class Model(Protocol):
    """The call of a model, a Flax module."""

    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Outputs:
        """Return the outputs of preprocessed images (batch, height, width, channels).

        Args:
            train: use dropout (needs the rng "dropout") and the batch's own statistics.
            examples: (batch,) the number of each image in the run, on which its dropout masks
                depend; by default its place in the batch.
        """
        ...


@dataclass(frozen=True)
class ModelFamily(Generic[M]):
    """What the program has to know of a kind of model.

    Attributes:
        config_class: of its configs.
        build: (config, layout, compute dtype) to the Flax module.
        aux_weights: the weight in the loss of each auxiliary classifier of a config.
        feature_layer: the name of the activation that the classifier sees; None where that is
            the image.
        first_conv: the name of the first convolution; None without one.
    """

    config_class: type[M]
    build: Callable[[M, Layout, DTypeLike], nn.Module]
    aux_weights: Callable[[M], Mapping[str, float]]
    feature_layer: Callable[[M], str | None]
    first_conv: Callable[[M], str | None]
