"""The interface of all models: their call, their outputs and the description of a family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import flax.linen as nn
import flax.struct
from jax import Array
from jax.typing import DTypeLike

from alexnet_jax.layers.columns import ColumnSharding
from alexnet_jax.models.model_config import ModelConfig

M = TypeVar("M", bound=ModelConfig)


class Outputs(flax.struct.PyTreeNode):
    """The outputs of a model.

    Attributes:
        logits: (batch, classes) float32.
        aux_logits: logits of the auxiliary classifiers by name, only while training.
    """

    logits: Array
    aux_logits: dict[str, Array] = flax.struct.field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The layout of a model on devices.

    Attributes:
        columns: the columns on this device; None for all of them.
        batch_sharded_convs: use "one weird trick" (Krizhevsky 2014). Up to the last convolution
            and again at the loss, the batch is split over the devices of the column axis. In the
            fully-connected layers the columns are split over them instead.
        batch_axes: mesh axes over which the batch of a training step is split.
    """

    columns: ColumnSharding | None = None
    batch_sharded_convs: bool = False
    batch_axes: tuple[str, ...] = ()


class Model(Protocol):
    """A Flax module that computes `Outputs` from images."""

    def __call__(
        self, images: Array, *, train: bool = False, examples: Array | None = None
    ) -> Outputs:
        """Return the outputs of preprocessed images (batch, height, width, channels).

        Args:
            train: use dropout, which needs the rng "dropout", and the statistics of the batch.
            examples: (batch,) number of each image in the run, on which its dropout masks
                depend; by default its index in the batch.
        """
        ...


def sow_activations(module: nn.Module, activations: Mapping[str, Array]) -> None:
    """Make the activations of a model without columns available to `registry.compute_activations`.

    Args:
        module: the module of the model, in its compact method.
        activations: activations by name, in order; the last ones are the logits.
    """
    columns = {name: [activation] for name, activation in activations.items()}
    module.sow("intermediates", "activations", columns, reduce_fn=lambda _, new: new)


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer of a model, or a block of layers, as figures and pages show it.

    Attributes:
        name: conv1 … fc7, conv2_1, inception_3a.
        op: name of the activations that are its output: those of its nonlinearity, before
            normalization and pooling.
        kind: "convolution", "locally-connected layer", "fully-connected layer", "residual block",
            "block" or "Inception module".
        followers: what comes between this output and the next layer: "norm", "pool", "mean".
        branches: name and number of output channels of each branch whose outputs are joined, in
            the order of the channels; () for a layer without such branches.
    """

    name: str
    op: str
    kind: str
    followers: tuple[str, ...] = ()
    branches: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class ModelFamily(Generic[M]):
    """A family of models, with the functions that the rest of the program needs.

    Attributes:
        config_class: class of the family's configs.
        build: function from (config, layout, compute dtype) to the Flax module.
        aux_weights: function from a config to the weights of auxiliary classifiers in the loss.
        feature_layer: function from a config to the name of the activation that is the input of
            the classifier; None if that input is the image.
        first_conv: function from a config to the name of the first convolution; None without one.
        hidden_layers: function from a config to the hidden layers, in order.
    """

    config_class: type[M]
    build: Callable[[M, Layout, DTypeLike], nn.Module]
    aux_weights: Callable[[M], Mapping[str, float]]
    feature_layer: Callable[[M], str | None]
    first_conv: Callable[[M], str | None]
    hidden_layers: Callable[[M], tuple[HiddenLayer, ...]]
