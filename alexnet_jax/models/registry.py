"""Build, initialize and apply the model of a config."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax import Array

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models.api import Layout, ModelFamily, Outputs
from alexnet_jax.models.googlenet import GOOGLENET
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import LocalConv
from alexnet_jax.models.resnet import RESNET
from alexnet_jax.models.sequential import SEQUENTIAL, Sequential
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import Variables

FAMILIES: tuple[ModelFamily[Any], ...] = (SEQUENTIAL, GOOGLENET, RESNET)
_ABSTRACT: dict[str, Variables] = {}  # of `abstract_boxed_variables`, by what they depend on


def family_of(model: ModelConfig) -> ModelFamily[Any]:
    """Return the family to which the config of a model belongs."""
    return next(family for family in FAMILIES if isinstance(model, family.config_class))


def make_model(config: Config, layout: Layout | None = None) -> nn.Module:
    """Build the model of a config whose number of classes is known.

    Args:
        layout: layout on devices; None for one device.
    """
    dtype = jnp.dtype(config.compute_dtype)
    return family_of(config.model).build(config.model, layout or Layout(), dtype)


def make_dense_model(config: Config) -> nn.Module:
    """Build the model of a config for whole images, to which it is applied at every position.

    Its parameters are those of `make_model`, and its logits (batch, height, width, classes). Models
    with global pooling average over all positions themselves: their logits are (batch, classes).

    Raises:
        InputError: the model has several columns, or a locally-connected layer.
    """
    model = config.model
    if not isinstance(model, SequentialConfig):
        return make_model(config)
    if model.num_columns > 1:
        raise InputError(
            f"views=dense applies fully-connected layers as convolutions, and those of this model "
            f"are split into {model.num_columns} columns; expected a model with one column"
        )
    for name, op in model.ops.items():
        if isinstance(op, LocalConv):
            raise InputError(
                f"views=dense applies a model to whole images, and the weights of {name} are made "
                f"for the places in a crop of {config.data.crop} pixels; expected another --views"
            )
    return Sequential(model, dtype=jnp.dtype(config.compute_dtype), dense_crop=config.data.crop)


def dummy_images(config: Config) -> jax.ShapeDtypeStruct:
    """Return the shape and type of one preprocessed image (1, crop, crop, channels)."""
    crop = config.data.crop
    return jax.ShapeDtypeStruct((1, crop, crop, config.model.channels), jnp.float32)


def init_boxed_variables(config: Config) -> Variables:
    """Return the initial variables, a function of config.seed, boxed with their logical axes.

    The boxes are of `flax.linen.LogicallyPartitioned`. They are removed before training; only
    `sharding` and the names of axes in files use them.
    """
    images = dummy_images(config)
    initialize = jax.jit(make_model(config).init)
    variables: Variables = initialize(
        jax.random.key(config.seed), jnp.zeros(images.shape, images.dtype)
    )
    return variables


def init_variables(config: Config) -> Variables:
    """Return the initial variables: {"params": {"conv1": {"kernel": …, "bias": …}, …}, …}."""
    variables: Variables = meta.unbox(init_boxed_variables(config))
    return variables


def abstract_variables(config: Config) -> Variables:
    """Return the shapes and types of the variables without computing them."""
    variables: Variables = meta.unbox(abstract_boxed_variables(config))
    return variables


def abstract_boxed_variables(config: Config) -> Variables:
    """Return the shapes and types of the variables, boxed with their logical axes.

    The model is traced once for each config, since several parts of a run need the shapes, and
    tracing a deep model takes seconds.
    """
    key = json.dumps([fields.to_json(config.model), dummy_images(config).shape])
    if key not in _ABSTRACT:
        _ABSTRACT[key] = jax.eval_shape(lambda: init_boxed_variables(config))
    variables: Variables = jax.tree.map(lambda leaf: leaf, _ABSTRACT[key])  # a copy
    return variables


def apply_model(
    model: nn.Module,
    variables: Variables,
    images: Array,
    *,
    train: bool = False,
    examples: Array | None = None,
    dropout_key: Array | None = None,
) -> tuple[Outputs, Variables]:
    """Return the outputs of a model and its updated batch statistics.

    Args:
        images, train, examples: see `models.api.Model`.
        dropout_key: key of the dropout masks; needed to train a model with dropout.
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    outputs, updated = model.apply(
        variables, images, train=train, examples=examples, rngs=rngs, mutable=["batch_stats"]
    )
    assert isinstance(outputs, Outputs)
    return outputs, updated.get("batch_stats", {})


def compute_activations(
    model: nn.Module, variables: Variables, images: Array, *, train: bool = False
) -> dict[str, Array]:
    """Return the activations of every op, by name and in order.

    Args:
        images: preprocessed images, see `models.api.Model`.
        train: compute them as while training, with arbitrary dropout masks.

    Returns:
        {"conv1": (batch, height, width, channels), "relu1": …, …, "fc6": (batch, units), …},
        with the channels of all columns concatenated. The last entry, {"fc8": (batch, classes)},
        holds the logits. Ops within a module are named after it, too: "conv2_1/conv1".
    """
    rngs = {"dropout": jax.random.key(0)} if train else {}
    _, state = model.apply(
        variables, images, train=train, rngs=rngs, mutable=["intermediates", "batch_stats"]
    )
    activations: dict[str, list[Array]] = state["intermediates"]["activations"]
    return {name: jnp.concatenate(columns, axis=-1) for name, columns in activations.items()}


def feature_layer(config: Config) -> str:
    """Return the name of the activation that is the input of the classifier.

    Raises:
        InputError: the input of the classifier is the image.
    """
    name = family_of(config.model).feature_layer(config.model)
    if name is None:
        raise InputError("the model has no hidden layer, and so no features of images")
    return name
