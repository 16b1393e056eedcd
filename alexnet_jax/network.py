"""The network of a config: built, initialised, and run forward on a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import parallel
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import normalise
from alexnet_jax.models.alexnet import AlexNet, ModelConfig, activations

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_model(
    config: ConfigDict, mesh: jax.sharding.Mesh | None = None, *, weird: bool = False
) -> AlexNet:
    """The network of a config whose number of classes is known.

    Args:
        mesh: on whose devices the columns lie; None holds all of them in one place.
        weird: as in `AlexNet`.

    Raises:
        InputError: a model or a compute_dtype that does not exist.
    """
    if config.compute_dtype not in COMPUTE_DTYPES:
        known = " or ".join(COMPUTE_DTYPES)
        raise InputError(f"compute_dtype is {config.compute_dtype!r}; expected {known}")
    model = ModelConfig.from_dict(config.model)
    placement = parallel.placement(mesh, model.columns) if mesh else None
    return AlexNet(model, placement, COMPUTE_DTYPES[config.compute_dtype], weird)


def init_params(config: ConfigDict) -> Any:
    """Initial parameters of all columns, a function of config.seed.

    Returns:
        {"conv1": {"kernel": (columns, …), "bias": (columns, …)}, …}.

    Raises:
        InputError: a crop too small for the layers.
    """
    shape = (1, config.data.crop, config.data.crop, config.model.channels)
    initial = jax.jit(make_model(config).init)  # compiled, the activations are left out
    try:
        return initial(jax.random.key(config.seed), jnp.zeros(shape))["params"]
    except ValueError as error:
        raise InputError(f"data.crop={config.data.crop} does not fit the layers: {error}") from None


def abstract_params(config: ConfigDict) -> Any:
    """Shapes and types of the parameters, without computing them."""
    return jax.eval_shape(lambda: init_params(config))


def logits(
    model: AlexNet,
    params: Any,
    images: Array,
    *,
    train: bool = False,
    examples: Array | None = None,
    dropout: Array | None = None,
) -> Array:
    """The model's logits; `dropout` is the key of its masks, the rest as in `AlexNet`."""
    rngs = {} if dropout is None else {"dropout": dropout}
    out = model.apply({"params": params}, images, train=train, examples=examples, rngs=rngs)
    assert isinstance(out, Array)
    return out


def make_forward(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    """The jitted (params, mean, batch) → log-probabilities (batch, classes), float32.

    Args:
        mesh: the batch is split over its axis "data", the columns over "column".
    """

    def forward(model: AlexNet, params: Any, images: Array) -> Array:
        return jax.nn.log_softmax(logits(model, params, images))

    return _on_mesh(config, mesh, forward)


def make_features(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    """The jitted (params, mean, batch) → what `make_forward` gives, and what the classifier sees.

    That is the activations of the last hidden layer (fc7, section 6.1), (batch, units), float32.

    Args:
        mesh: the batch is split over its axis "data"; its axis "column" has one device.

    Raises:
        InputError: there is no hidden layer.
    """
    if len(config.model.layers) < 2:
        raise InputError("the net has no hidden layer, and so no features of images")

    def features(model: AlexNet, params: Any, images: Array) -> tuple[Array, Array]:
        *_, hidden, out = activations(model, params, images).values()
        units = jnp.moveaxis(hidden, 0, 1).reshape(len(images), -1)
        return jax.nn.log_softmax(out), units.astype(jnp.float32)

    return _on_mesh(config, mesh, features)


def _on_mesh(
    config: ConfigDict, mesh: jax.sharding.Mesh, forward: Callable[[AlexNet, Any, Array], Any]
) -> jax.stages.Wrapped:
    """The jitted (params, mean, batch) → forward(model, params, images), batches split."""
    model = make_model(config, mesh)

    def seen(params: Any, mean: Array, batch: dict[str, Array]) -> Any:
        return forward(model, params, normalise(batch, mean, config.data))

    columns = parallel.specs(abstract_params(config), mesh)
    in_specs = (columns, P(), P("data"))
    return jax.jit(jax.shard_map(seen, mesh=mesh, in_specs=in_specs, out_specs=P("data")))
