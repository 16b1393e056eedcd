"""Summarize the layers of a model: output shapes, receptive fields, parameters, multiply-adds."""

from dataclasses import dataclass
from math import prod

import jax

from alexnet_jax.analysis.receptive_fields import compute_receptive_fields
from alexnet_jax.config import Config
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, SequentialConfig, blocks


@dataclass(frozen=True)
class LayerSummary:
    """The sizes of a layer.

    Attributes:
        name: name of the op with parameters, conv1 … fc8.
        output: shape of that op's output over all columns, (height, width, channels) or (units,).
        receptive_field: side in pixels of the part of the image that an output depends on, if no
            edge cuts it off. A fully-connected layer counts as a convolution over its input.
        stride: distance in pixels between the receptive fields of neighboring outputs.
        parameters: number of weights and biases.
        multiply_adds: number of multiply-adds in the forward pass of one image.
    """

    name: str
    output: tuple[int, ...]
    receptive_field: int
    stride: int
    parameters: int
    multiply_adds: int


def summarize(config: Config) -> list[LayerSummary]:
    """Return the layers with parameters, in order; the config must have a number of classes."""
    assert isinstance(config.model, SequentialConfig)
    params = registry.abstract_variables(config)["params"]
    outputs = abstract_activations(config)
    receptive_fields = compute_receptive_fields(config.model.ops, config.data.crop)
    rows = []
    for name in blocks(config.model.ops):
        sizes = {kind: prod(leaf.shape) for kind, leaf in params[name].items()}
        shape = outputs[name].shape[1:]
        is_conv = isinstance(config.model.ops[name], Conv)
        pixels = prod(shape[:-1]) if is_conv else 1
        rows.append(
            LayerSummary(
                name,
                output=shape,
                receptive_field=receptive_fields[name].size,
                stride=receptive_fields[name].stride,
                parameters=sum(sizes.values()),
                multiply_adds=pixels * sizes["kernel"],
            )
        )
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
