"""Summarize the layers of a model: output shapes, receptive fields, parameters, multiply-adds."""

from dataclasses import dataclass
from math import prod

import jax
from jax import Array

from alexnet_jax.analysis.branched_fields import compute_branched_fields
from alexnet_jax.analysis.receptive_fields import ReceptiveField, compute_receptive_fields
from alexnet_jax.config import Config
from alexnet_jax.models import registry
from alexnet_jax.models.ops import LocalConv, Op
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import Variables, leaves_by_path


@dataclass(frozen=True)
class LayerSummary:
    """The sizes of a layer.

    Attributes:
        name: name of the op with parameters, conv1 … fc8, or its path, such as conv2_1/conv1.
        output: shape of that op's output over all columns, (height, width, channels) or (units,).
        receptive_field: side in pixels of the part of the image that an output depends on, if no
            edge cuts it off; None if the layer is used only while training. A fully-connected
            layer counts as a convolution over its input.
        stride: distance in pixels between the receptive fields of neighboring outputs, or None.
        parameters: number of weights and biases.
        multiply_adds: number of multiply-adds in the forward pass of one image; 0 for batch
            normalization, which can be part of the convolution before it.
        training_only: whether the layer is used only while training, as auxiliary classifiers are.
    """

    name: str
    output: tuple[int, ...]
    receptive_field: int | None
    stride: int | None
    parameters: int
    multiply_adds: int
    training_only: bool = False


def summarize(config: Config) -> list[LayerSummary]:
    """Return the layers with parameters, in order; the config must have a number of classes."""
    sizes: dict[str, dict[str, int]] = {}
    for path, leaf in leaves_by_path(registry.abstract_variables(config)["params"]).items():
        layer, _, kind = path.rpartition("/")
        sizes.setdefault(layer, {})[kind] = prod(leaf.shape)
    chain = config.model.ops if isinstance(config.model, SequentialConfig) else dict[str, Op]()
    fields, rows = compute_model_fields(config), []
    for name, output in abstract_activations(config, train=True).items():
        if name not in sizes:
            continue
        field, shape = fields.get(name), output.shape[1:]
        # How often a weight is used: once in a fully-connected or locally-connected layer.
        uses = 1 if isinstance(chain.get(name), LocalConv) else prod(shape[:-1])
        rows.append(
            LayerSummary(
                name,
                output=shape,
                receptive_field=field.size if field else None,
                stride=field.stride if field else None,
                parameters=sum(sizes[name].values()),
                multiply_adds=uses * sizes[name].get("kernel", 0),
                training_only=field is None,
            )
        )
    return rows


def compute_model_fields(config: Config) -> dict[str, ReceptiveField]:
    """Return the receptive field of every op of a model at test time, by name and in order.

    Args:
        config: config with the number of classes.

    Raises:
        InputError: an op or the model has no rule.
    """
    model, crop = config.model, config.data.crop
    if isinstance(model, SequentialConfig):
        return compute_receptive_fields(model.ops, crop)
    sizes = {
        name: shape.shape[1] if len(shape.shape) == 4 else 1
        for name, shape in abstract_activations(config).items()
    }
    return compute_branched_fields(model, crop, sizes)


def abstract_activations(config: Config, *, train: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of the activations of every op for one image, by name and in order.

    Args:
        config: config with the number of classes.
        train: see `registry.compute_activations`.
    """
    model, order = registry.make_model(config), list[str]()

    def compute(variables: Variables, images: Array) -> dict[str, Array]:
        activations = registry.compute_activations(model, variables, images, train=train)
        order.extend(activations)  # the result of `eval_shape` is sorted by name
        return activations

    shapes = jax.eval_shape(
        compute, registry.abstract_variables(config), registry.dummy_images(config)
    )
    return {name: shapes[name] for name in order}
