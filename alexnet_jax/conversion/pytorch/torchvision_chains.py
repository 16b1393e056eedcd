"""Names of torchvision's modules of alexnet and vgg, by which their state dicts name tensors.

These models, `presets.TORCHVISION`, are chains, and the names follow from their ops.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.layout import layer_names
from alexnet_jax.conversion.weights_by_name import shown
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import Conv, Dense, Dropout

FIRST_TENSOR = "features.0.weight"  # of all models
LAYER_PARTS = ("weight", "bias")
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Modules:
    """The modules of a torchvision model that have tensors.

    Attributes:
        name: torchvision's name of the model.
        layers: names of the layers with weights, such as features.0, by the names of our ops.
        norms: names of the batch normalizations by the names of the convolutions before them.
    """

    name: str
    layers: dict[str, str] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)

    def tensors(self) -> list[str]:
        """Return the names of all tensors that the model computes with."""
        groups = ((self.layers, LAYER_PARTS), (self.norms, NORM_PARTS))
        return [
            f"{m}.{part}" for modules, parts in groups for m in modules.values() for part in parts
        ]


def make_modules(name: str, *, batch_norm: bool = False) -> Modules:
    """Return the modules of a model of `presets.TORCHVISION`.

    torchvision numbers the modules of two chains, `features` and `classifier`. They are our ops,
    and a batch normalization after every convolution. The classifier begins with the first
    fully-connected layer, or with the dropout before it.

    Args:
        name: torchvision's name of the model without batch normalization.
        batch_norm: whether to return those of the model with batch normalization.
    """
    ops = [*sequential_model(presets.TORCHVISION[name]()).ops.items()]
    start = next(index for index, (_, op) in enumerate(ops) if isinstance(op, Dense))
    if isinstance(ops[start - 1][1], Dropout):
        start -= 1
    modules = Modules(f"{name}_bn" if batch_norm else name)
    for chain, part in (("features", ops[:start]), ("classifier", ops[start:])):
        number = 0
        for layer, op in part:
            if isinstance(op, Conv | Dense):
                modules.layers[layer] = f"{chain}.{number}"
            if isinstance(op, Conv) and batch_norm:
                number += 1
                modules.norms[layer] = f"{chain}.{number}"
            number += 1
    return modules


def choose_modules(tensors: Collection[str], config: Config | None) -> Modules:
    """Return the modules of the model whose tensors have these names, or the most of them.

    Args:
        tensors: names of tensors, without prefixes.
        config: config whose layers the model must have; None allows all models.

    Raises:
        InputError: no model has the config's layers.
    """
    models = [make_modules(name) for name in presets.TORCHVISION]
    # torchvision's alexnet has no batch normalization.
    models += [make_modules(m.name, batch_norm=True) for m in models if m.name != "alexnet"]
    if config is not None:
        layers = layer_names(sequential_model(config))
        models = [model for model in models if [*model.layers] == layers]
        if not models:
            raise InputError(
                f"the config has the layers {shown(layers)}; expected those of torchvision's "
                f"{', '.join(presets.TORCHVISION)}"
            )
    return min(models, key=lambda model: len({*tensors} ^ {*model.tensors()}))
