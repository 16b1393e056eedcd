"""Choose the layers of a model that the page shows, and describe them for its diagram."""

from dataclasses import dataclass

from alexnet_jax.analysis.receptive_fields import ReceptiveField
from alexnet_jax.analysis.summary import abstract_activations, compute_model_fields
from alexnet_jax.config import Config
from alexnet_jax.models.api import HiddenLayer
from alexnet_jax.models.ops import Conv, Dense, Op
from alexnet_jax.models.registry import family_of
from alexnet_jax.models.sequential_config import SequentialConfig

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
        kind: a kind of `HiddenLayer`, or "classifier".
        columns: number of columns that the layer is divided into.
        inputs: those of each column: "the image", "its own column" or "all columns".
        followers: what comes between this layer and the next one: "norm", "pool", "mean".
        branches: see `HiddenLayer`.
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
    branches: tuple[tuple[str, int], ...]
    field: ReceptiveField
    has_kernels: bool

    @property
    def text(self) -> str:
        """Return the size of the activations, such as "13×13×256" or "4096"."""
        return "×".join(map(str, self.shape))

    @property
    def takes_image(self) -> bool:
        """Return whether its inputs are the channels of the image, and its kernels have colors."""
        return self.inputs == "the image"

    @property
    def description(self) -> str:
        """Return a sentence for readers that do not see the diagram."""
        text = f"{self.kind}, {self.text}"
        if self.columns > 1:
            text += f", {self.columns} columns, each of which takes {INPUTS[self.inputs]}"
        if self.kind == "residual block":
            text += ", which adds its input to its output"
        if self.branches:
            *names, last = (name for name, _ in self.branches)
            text += f", which joins the branches {', '.join(names)} and {last}"
        return text + "".join(f", then {FOLLOWERS[name]}" for name in self.followers)

    def branch_of(self, channel: int) -> str:
        """Return the name of the branch that computes a channel; "" without branches."""
        end = 0
        for name, width in self.branches:
            end += width
            if channel < end:
                return name
        return ""


def find_layers(config: Config) -> list[ShownLayer]:
    """Return the hidden layers, or blocks, and the classifier, in order.

    Args:
        config: config with the number of classes.
    """
    shapes = {name: shape.shape[1:] for name, shape in abstract_activations(config).items()}
    fields = compute_model_fields(config)
    ops = config.model.ops if isinstance(config.model, SequentialConfig) else dict[str, Op]()
    *_, classifier = shapes
    found = (
        *family_of(config.model).hidden_layers(config.model),
        HiddenLayer(classifier, classifier, "classifier"),
    )
    return [
        ShownLayer(
            name=layer.name,
            op=layer.op,
            shape=shapes[layer.op],
            kind=layer.kind,
            columns=1 if layer.kind == "classifier" else config.model.columns(),
            inputs=_inputs_of(ops.get(layer.name), is_first=number == 0),
            followers=layer.followers,
            branches=layer.branches,
            field=fields[layer.op],
            has_kernels=layer.kind == "convolution",
        )
        for number, layer in enumerate(found)
    ]


def _inputs_of(op: Op | None, is_first: bool) -> str:
    """Return what each column of a layer takes, see `ShownLayer`."""
    if is_first:
        return "the image"
    return "its own column" if isinstance(op, Conv | Dense) and op.groups > 1 else "all columns"
