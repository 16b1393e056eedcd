"""Summarize the layers of a model: output shapes, parameters and multiply-adds."""

from dataclasses import dataclass
from math import prod

import jax

from alexnet_jax.config import Config
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, SequentialConfig, blocks


@dataclass(frozen=True)
class LayerSummary:
    """The sizes of a layer.

    Attributes:
        name: name of the op with parameters, conv1 … fc8.
        output: shape of that op's output over all columns, (height, width, channels) or (units,).
        parameters: number of weights and biases.
        multiply_adds: number of multiply-adds in the forward pass of one image.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(config: Config) -> list[LayerSummary]:
    """Return the layers with parameters, in order; the config must have a number of classes."""
    assert isinstance(config.model, SequentialConfig)
    params = registry.abstract_variables(config)["params"]
    outputs = abstract_activations(config)
    rows = []
    for name in blocks(config.model.ops):
        sizes = {kind: prod(leaf.shape) for kind, leaf in params[name].items()}
        shape = outputs[name].shape[1:]
        is_conv = isinstance(config.model.ops[name], Conv)
        pixels = prod(shape[:-1]) if is_conv else 1
        rows.append(LayerSummary(name, shape, sum(sizes.values()), pixels * sizes["kernel"]))
    return rows


def abstract_activations(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of the activations of every op for one image, by name."""
    model, variables = registry.make_model(config), registry.abstract_variables(config)
    shapes: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(
        lambda variables, images: registry.compute_activations(model, variables, images),
        variables,
        registry.dummy_images(config),
    )
    return shapes
