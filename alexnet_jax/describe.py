"""The layers of a config's network: shapes, parameters, multiply-adds.

    python -m alexnet_jax.describe --config=configs/alexnet.py [--json]

Nothing is trained and no data is read; shapes are of all columns together.
"""

import json
from dataclasses import asdict, dataclass
from math import prod

import jax
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import command, network
from alexnet_jax.errors import InputError
from alexnet_jax.models.alexnet import Conv, activations

# Where the config leaves it to the data, whose number of classes is known without reading it.
CLASSES = {"imagenet2012": 1000, "imagenette": 10, "cifar10": 10, "fashion_mnist": 10, "sample": 10}


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: conv1 … fc8.
        output: (height, width, maps) or (units,), of all columns, before what follows.
        parameters: weights and biases.
        multiply_adds: of one image, forward.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers(config: ConfigDict) -> list[Layer]:
    """The rows of a config whose number of classes is known."""
    model = network.make_model(config)
    params = network.abstract_params(config)
    size = (1, config.data.crop, config.data.crop, config.model.channels)
    images = jax.ShapeDtypeStruct(size, "float32")
    outputs = jax.eval_shape(lambda p, x: activations(model, p, x), params, images)
    rows = []
    for layer in model.config.layers:
        here = params[layer.name]
        shape = outputs[layer.name].shape
        if layer is model.config.layers[-1]:
            output = shape[1:]
        else:  # (columns, 1, …, maps)
            output = (*shape[2:-1], shape[0] * shape[-1])
        pixels = prod(output[:-1]) if isinstance(layer, Conv) else 1
        parameters = sum(prod(leaf.shape) for leaf in here.values())
        rows.append(Layer(layer.name, output, parameters, pixels * prod(here["kernel"].shape)))
    return rows


def with_classes(config: ConfigDict) -> ConfigDict:
    """The config with a number of classes, the data's where it names none."""
    config = config.copy_and_resolve_references()
    if not config.model.classes:
        if config.data.name not in CLASSES:
            raise InputError(
                f"how many classes {config.data.name} has is known only when it is read; "
                "give the number with --config.model.classes"
            )
        config.model.classes = CLASSES[config.data.name]
    return config


def table(rows: list[Layer]) -> str:
    """The rows as text, with their totals."""
    total = Layer("total", (), sum(r.parameters for r in rows), sum(r.multiply_adds for r in rows))
    lines = [f"{'layer':<8}{'output':>14}{'parameters':>14}{'multiply-adds':>18}"]
    for row in [*rows, total]:
        output = "×".join(map(str, row.output))
        lines.append(f"{row.name:<8}{output:>14}{row.parameters:>14,}{row.multiply_adds:>18,}")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """The command."""
    rows = layers(with_classes(flags.FLAGS.config))
    if flags.FLAGS.json:
        parameters = sum(row.parameters for row in rows)
        print(json.dumps({"layers": [asdict(row) for row in rows], "parameters": parameters}))
    else:
        print(table(rows))


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_bool("json", False, "One JSON object instead of a table.")
    command.run(main)
