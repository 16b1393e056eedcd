"""Compute the shortest time that a device can need for a training step, from the layers' sizes.

The floor is a sum over the parts of a step. A pass of a convolution or a matrix product takes the
longer of two times, for its operations and for the bytes that it must read and write; every other
part takes the time for its bytes. It is assumed that what can be computed in one pass over memory
is: bias, activation, normalization and dropout after a layer together, pooling with its offsets,
the whole update of a parameter. Nothing overlaps. So a floor is a measure to compare with and not a
limit by law: a kernel that keeps activations on the chip from one part to the next can go below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.analysis.summary import abstract_activations, summarize
from alexnet_jax.config import Config
from alexnet_jax.models import registry
from experiments.benchmark.accelerator.rates import Rates

# Passes over the activations of a layer that bias, activation and normalization need: forward they
# are read and written; backward they and their gradient are read, and a gradient is written.
FORWARD_PASSES, BACKWARD_PASSES = 2, 3
# Batch normalization first reads them for its statistics: once more forward, twice more backward.
BATCH_NORM_PASSES = 3


@dataclass(frozen=True)
class Product:
    """A convolution or a matrix product of the forward pass, for one image.

    Attributes:
        operations: two for each multiply-add.
        inputs, outputs: numbers read and written for an image.
        weights: numbers in the kernel, the same for all images.
        takes_images: whether its input is the images, for which no gradient is computed.
    """

    operations: int
    inputs: int
    outputs: int
    weights: int
    takes_images: bool


def count_step_operations(config: Config) -> int:
    """Return the operations of a training step in the layers for one image, two a multiply-add.

    They are those of the forward pass, of the gradient of the kernels, and of the gradient of the
    inputs, which the first layer does not need:

        2 · (3 · multiply-adds of all layers - multiply-adds of the first)
    """
    each = [layer.multiply_adds for layer in summarize(config)]
    return 2 * (3 * sum(each) - each[0])


def compute_floor(config: Config, rates: Rates) -> float:
    """Return the floor of a config's training step on one device in seconds.

    Args:
        config: with its number of classes.
        rates: of the device, in the type of the config's arithmetic.
    """
    width = jnp.dtype(config.compute_dtype).itemsize
    products = sum(
        _product_seconds(product, config.batch_size, width, rates)
        for product in list_products(config)
    )
    rest = config.batch_size * _image_bytes(config, width) + _parameter_bytes(config, width)
    return products + rest / rates.bytes


def list_products(config: Config) -> list[Product]:
    """Return the convolutions and matrix products of a model's forward pass while training."""
    model, images = registry.make_model(config), registry.dummy_images(config)

    def forward(variables: Any, images: jax.Array) -> Any:
        return registry.compute_activations(model, variables, images, train=True)

    traced = jax.make_jaxpr(forward)(registry.abstract_variables(config), images)
    return list(_walk(traced.jaxpr, images.shape))


def _walk(jaxpr: Any, images: tuple[int, ...]) -> Iterator[Product]:
    """Yield the products of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        shapes = [
            tuple(getattr(v.aval, "shape", ())) for v in (*equation.invars, *equation.outvars)
        ]
        if equation.primitive.name == "conv_general_dilated":
            inputs, kernel, outputs = shapes
            operations = 2 * prod(outputs) * prod(kernel[:-1])  # (height, width, inputs, outputs)
        elif equation.primitive.name == "dot_general":
            inputs, kernel, outputs = shapes
            ((contracted, _), _) = equation.params["dimension_numbers"]
            operations = 2 * prod(outputs) * prod(inputs[axis] for axis in contracted)
        else:
            for inner in _inner_jaxprs(equation.params):
                yield from _walk(inner, images)
            continue
        yield Product(operations, prod(inputs), prod(outputs), prod(kernel), inputs == images)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs within an equation; of several branches the last."""
    for value in params.values():
        one = value[-1] if isinstance(value, tuple | list) and value else value
        one = getattr(one, "jaxpr", one)
        if hasattr(one, "eqns"):
            yield one


def _product_seconds(product: Product, batch: int, width: int, rates: Rates) -> float:
    """Return the seconds of all passes of a product: forward, to the inputs and to the kernels."""
    numbers = batch * (product.inputs + product.outputs) + product.weights
    by_operations = batch * product.operations / rates.operations
    passes = 2 if product.takes_images else 3
    return passes * max(by_operations, numbers * width / rates.bytes)


def _image_bytes(config: Config, width: int) -> int:
    """Return the bytes that the parts between the products read and write for an image."""
    multiply_adds = {layer.name: layer.multiply_adds for layer in summarize(config)}
    pixels = prod(registry.dummy_images(config).shape)
    total = pixels * (1 + width)  # uint8 in, normalized out
    before, fresh = pixels, False  # whether the last activations are a product's own outputs
    for name, activation in abstract_activations(config, train=True).items():
        size = prod(activation.shape)
        if multiply_adds.get(name, 0):
            fresh = True
        elif name in multiply_adds:  # batch normalization
            total += (FORWARD_PASSES + BACKWARD_PASSES + BATCH_NORM_PASSES) * size * width
            fresh = False
        elif size < before:  # pooling, with a byte for the offset of each maximum
            total += 2 * (before * width + size * (width + 1))
            fresh = False
        elif fresh:
            total += (FORWARD_PASSES + BACKWARD_PASSES) * size * width
            fresh = False
        before = size
    return total


def _parameter_bytes(config: Config, width: int) -> int:
    """Return the bytes of the parameters' conversion and update.

    Parameters and optimizer state are float32; a gradient has the type of the arithmetic.
    """
    count = sum(layer.parameters for layer in summarize(config))
    conversion = 4 + width if width < 4 else 0
    update = width + 2 * (4 + 4)  # both read and written
    return count * (conversion + update)
