"""Choose the layers of a model that the page shows, and describe them for its diagram."""

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_jax.analysis.receptive_fields import ReceptiveField
from alexnet_jax.analysis.summary import abstract_activations, compute_model_fields
from alexnet_jax.config import Config
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    LocalConv,
    MaxPool,
    ModelConfig,
    Op,
    SequentialConfig,
    WithinChannelLRN,
)
from experiments.figures.predictions import hidden_ops

# What comes after a layer, as the diagram and its description have it.
FOLLOWERS = {"norm": "normalization", "pool": "pooling", "mean": "the mean over all pixels"}

# What each column of a layer takes, as the description has it.
INPUTS = {
    "the image": "the image",
    "its own column": "only its own channels",
    "all columns": "the channels of all columns",
}


@dataclass(frozen=True)
class ShownLayer:
    """A layer, or a block of a model with branches.

    Attributes:
        name: conv1 … fc8, conv2_1, inception_3a.
        op: name of the op whose activations are shown.
        shape: of these activations over all columns, (height, width, channels) or (units,).
        kind: "convolution", "locally-connected layer", "fully-connected layer", "residual block",
            "block", "Inception module" or "classifier".
        columns: number of columns that the layer is divided into.
        inputs: those of each column: "the image", "its own column" or "all columns".
        followers: what comes between this layer and the next one: "norm", "pool", "mean".
        field: receptive field.
        has_kernels: whether it is a convolution with kernels of its own.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    kind: str
    columns: int
    inputs: str
    followers: tuple[str, ...]
    field: ReceptiveField
    has_kernels: bool

    @property
    def text(self) -> str:
        """Return the size of the activations, such as "13×13×256" or "4096"."""
        return "×".join(map(str, self.shape))

    @property
    def description(self) -> str:
        """Return a sentence for readers that do not see the diagram."""
        text = f"{self.kind}, {self.text}"
        if self.columns > 1:
            text += f", {self.columns} columns, each of which takes {INPUTS[self.inputs]}"
        return text + "".join(f", then {FOLLOWERS[name]}" for name in self.followers)


def find_layers(config: Config) -> list[ShownLayer]:
    """Return the hidden layers, or blocks, and the classifier, in order.

    Args:
        config: config with the number of classes.
    """
    shapes = {name: shape.shape[1:] for name, shape in abstract_activations(config).items()}
    fields, names = compute_model_fields(config), list(shapes)
    ops: Mapping[str, Op] = {}
    if isinstance(config.model, SequentialConfig):
        ops = config.model.ops
    shown = {**hidden_ops(config), names[-1]: names[-1]}
    ends = [names.index(op) for op in [*shown.values()][1:]] + [len(names)]
    layers = []
    for number, ((name, op), end) in enumerate(zip(shown.items(), ends, strict=True)):
        between = [n for n in names[names.index(op) + 1 : end] if "/" not in n]
        kind = _kind_of(config.model, name, ops.get(name), len(shapes[op]), op == names[-1])
        has_columns = config.model.columns() > 1 and kind != "classifier"
        layers.append(
            ShownLayer(
                name=name,
                op=op,
                shape=shapes[op],
                kind=kind,
                columns=config.model.columns() if has_columns else 1,
                inputs=_inputs_of(ops.get(name), is_first=number == 0),
                followers=_followers(between, ops),
                field=fields[op],
                has_kernels=kind == "convolution",
            )
        )
    return layers


def _inputs_of(op: Op | None, is_first: bool) -> str:
    """Return what each column of a layer takes, see `ShownLayer`."""
    if is_first:
        return "the image"
    return "its own column" if isinstance(op, Conv | Dense) and op.groups > 1 else "all columns"


def _kind_of(model: ModelConfig, name: str, op: Op | None, axes: int, is_last: bool) -> str:
    """Return the kind of a layer, see `ShownLayer`."""
    if is_last:
        return "classifier"
    if axes == 1:
        return "fully-connected layer"
    if isinstance(op, LocalConv):
        return "locally-connected layer"
    match model:
        case ResNetConfig() if "_" in name:
            return "block" if model.shortcut == "none" else "residual block"
        case GoogLeNetConfig() if "inception" in name:
            return "Inception module"
    return "convolution"


def _followers(names: list[str], ops: Mapping[str, Op]) -> tuple[str, ...]:
    """Return what some ops are called in the diagram, without repetitions.

    Args:
        names: names of ops.
        ops: those of a sequential model; of other models the names are known.
    """
    found = []
    for name in names:
        match ops.get(name):
            case LRN() | WithinChannelLRN():
                found.append("norm")
            case MaxPool() | AvgPool():
                found.append("pool")
            case None if name == "global_pool":
                found.append("mean")
            case None if name.startswith("pool"):
                found.append("pool")
            case None if name.startswith("norm"):
                found.append("norm")
    return tuple(dict.fromkeys(found))
