"""Project single activations back to pixels: deconvnet, guided backpropagation, gradient.

A deconvnet (Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013) runs a
trained model forward, sets all activations of an op but one to zero, and passes them down to the
pixels. At every op on the way it

- unpools: puts each value of a max pooling to the position of its window's maximum, the switch;
  values of overlapping windows that share a switch are added;
- rectifies: applies ReLU to the signal itself;
- filters: convolves with the transposed kernels, or multiplies by the transposed matrix, without
  biases.

Filtering and unpooling are the vector-Jacobian products of convolution and max pooling, so the
gradient of an activation differs only in the ReLU and the normalization (Simonyan et al., Deep
Inside Convolutional Networks, 2013, section 4). With R for the signal from above and x for the
recorded input of the ReLU:

    gradient     R · 1[x > 0]
    deconvnet    R · 1[R > 0]
    guided       R · 1[R > 0] · 1[x > 0]    (Springenberg et al., Striving for Simplicity, 2014)

The paper does not state what a deconvnet does at a response normalization. Here the signal passes
it unchanged, as in Mahendran and Vedaldi, Salient Deconvolutional Networks, 2016. The other two
methods differentiate it.

For models with branches there is only the gradient: neither paper says how a signal passes the
places where branches part and join, or batch normalization.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.analysis.summary import abstract_activations
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.layers.columns import ColumnSharding
from alexnet_jax.models import ops, registry
from alexnet_jax.models.sequential import Sequential
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import Variables

METHODS = ("deconvnet", "guided", "gradient")

# (variables, inputs (n, crop, crop, channels), positions (n,)) → projections, of the inputs' shape
Project = Callable[[Variables, Array, Array], Array]


def methods_for(config: Config) -> tuple[str, ...]:
    """Return those of METHODS that are defined for the model of a config, the first preferred."""
    return METHODS if isinstance(config.model, SequentialConfig) else ("gradient",)


def make_project_fn(config: Config, op: str, method: str = "deconvnet") -> Project:
    """Return the jitted function that projects one activation of each image to its pixels.

    The signal starts with the activation itself, and for the gradient with 1, so that the result
    is the derivative. The projections are signed and in the units of the model's inputs.

    The function takes the variables, preprocessed images (n, crop, crop, channels), and the
    position (n,) of an activation for each image: its flat index in the activations of that image,
    for a convolution (row · width + column) · channels + channel.

    Args:
        config: config with the number of classes.
        op: name of the op whose activations are projected.
        method: one of METHODS; of a model that is not sequential "gradient".

    Raises:
        InputError: the model does not have the op; the method is unknown, or has no rules for the
            model; an op up to this one has no rule.
    """
    if method not in METHODS:
        raise InputError(f"the method {method!r} is unknown; expected {' or '.join(METHODS)}")
    if method not in methods_for(config):
        raise InputError(
            f"the method {method!r} has no rules for a {type(config.model).__name__}; expected "
            "'gradient', or a sequential model"
        )
    sequential = config.model if isinstance(config.model, SequentialConfig) else None
    names = list(sequential.ops if sequential else abstract_activations(config))
    if op not in names:
        raise InputError(f"the model has no op {op}; expected one of {', '.join(names)}")
    model = registry.make_model(config)
    if sequential:
        for name in names[: names.index(op) + 1]:
            _check_rule(name, sequential.ops[name])
        model = _Projection(sequential, dtype=jnp.dtype(config.compute_dtype), method=method)

    @jax.jit
    def project(variables: Variables, images: Array, positions: Array) -> Array:
        def forward(images: Array) -> Array:
            activations = registry.compute_activations(model, variables, images)
            return activations[op].reshape(len(images), -1)

        activations, pull_back = jax.vjp(forward, images)
        chosen = jnp.arange(len(images)), positions
        start = jnp.ones_like(positions, activations.dtype)
        if method != "gradient":
            start = activations[chosen]
        signal = jnp.zeros_like(activations).at[chosen].set(start)
        projections: Array = pull_back(signal)[0]
        return projections

    return project


def _check_rule(name: str, op: ops.Op) -> None:
    """Raise InputError for an op of which it is not known how a signal passes it.

    All of these are differentiated, unless `_Projection` has another rule for them.
    """
    match op:
        case ops.Conv() | ops.LocalConv() | ops.Dense():
            return  # linear, up to the bias
        case ops.MaxPool() | ops.AvgPool() | ops.Dropout():
            return  # linear, once the switches are given
        case ops.ReLU() | ops.LRN() | ops.WithinChannelLRN():
            return  # by the method's rule
        case ops.Tanh():
            return  # has a derivative, and nothing that the paper's rectification applies to
    raise InputError(
        f"activations cannot be projected through {name}: {type(op).__name__} has no rule in "
        "alexnet_jax/analysis/deconvnet.py"
    )


class _Projection(Sequential):
    """A sequential model whose backward pass follows the rules of a method.

    Its forward pass is that of the model.

    Attributes:
        method: one of METHODS.
    """

    method: str = "gradient"

    def _apply(
        self,
        op: ops.Op,
        columns: list[Array],
        sharding: ColumnSharding,
        train: bool,
        examples: Array,
    ) -> list[Array]:
        """See `Sequential`."""
        outputs = super()._apply(op, columns, sharding, train, examples)
        match op:
            case ops.ReLU() if self.method != "gradient":
                relu = _deconvnet_relu if self.method == "deconvnet" else _guided_relu
                return [relu(column) for column in columns]
            case ops.LRN() | ops.WithinChannelLRN() if self.method == "deconvnet":
                return [_bypass(*pair) for pair in zip(columns, outputs, strict=True)]
        return outputs


@jax.custom_vjp
def _deconvnet_relu(x: Array) -> Array:
    """Return max(x, 0), whose signal is rectified on the way down."""
    return nn.relu(x)


_deconvnet_relu.defvjp(lambda x: (nn.relu(x), None), lambda _, signal: (nn.relu(signal),))


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
    """Return max(x, 0), whose signal is rectified and passes only where x is positive."""
    return nn.relu(x)


_guided_relu.defvjp(
    lambda x: (nn.relu(x), x > 0),
    lambda positive, signal: (jnp.where(positive, nn.relu(signal), 0),),
)


@jax.custom_vjp
def _bypass(x: Array, output: Array) -> Array:
    """Return `output`, computed from x, whose signal goes to x unchanged."""
    return output


_bypass.defvjp(lambda x, output: (output, None), lambda _, signal: (signal, jnp.zeros_like(signal)))
