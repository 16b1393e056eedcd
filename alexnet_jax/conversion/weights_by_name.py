"""Make models from files that contain arrays only: the ops are those of a config."""

import copy
from collections.abc import Collection, Mapping
from pathlib import Path

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion.layout import ForeignModel, Weights
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, Dense

SHOWN_NAMES = 8


def make_foreign_model(path: Path, config: Config, weights: Mapping[str, Weights]) -> ForeignModel:
    """Return the model with the ops of a config, and the number of classes of the weights.

    Args:
        path: the file, for messages.
        config: config whose model is sequential.
        weights: weights of every layer of the config by its name.

    Raises:
        InputError: a shape is not that of the config's layer.
    """
    foreign = ForeignModel()
    for name, op in copy.deepcopy(dict(sequential_model(config).ops)).items():
        if not isinstance(op, Conv | Dense):
            foreign.add(op, name)
            continue
        weight = weights[name].weight
        op.features = op.features or sum(weight.shape[:1])  # the file has the number of classes
        kernel = (op.kernel, op.kernel) if isinstance(op, Conv) else ()
        inputs = weight.shape[1:2] or ("any",)
        if weight.shape != (expected := (op.features, *inputs, *kernel)):
            raise InputError(f"{path} has {name} {weight.shape}; expected {expected}")
        foreign.add_layer(op, weights[name], name)
    return foreign


def shown(names: Collection[object]) -> str:
    """Return the first names and how many there are, for messages."""
    first = ", ".join(str(name)[:60] for name in [*names][:SHOWN_NAMES]) or "nothing"
    return f"{first}, … ({len(names)} in all)" if len(names) > SHOWN_NAMES else first
