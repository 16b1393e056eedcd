"""Take the layers of a file in the order in which a model of ours applies them, and name arrays."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from alexnet_jax.conversion.recognition.graph import (
    BatchNorm,
    GraphOp,
    Item,
    Join,
    Node,
    Pool,
    node_of,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_layers import same_padding
from alexnet_jax.models.ops import Conv, Dense, Dropout, ReLU

STEMS = {(7, 2): "imagenet", (3, 1): "small"}  # by kernel and stride of the first convolution
AnyOp = TypeVar("AnyOp", bound=GraphOp)


@dataclass
class VariableArrays:
    """Arrays of a file by the paths of the variables to which they belong.

    Attributes:
        arrays: see `branched.BranchedModel`.
        sources: their names in messages, by the same paths.
        epsilon: that of the batch normalizations; None before the first.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    epsilon: float | None = None

    def add(self, path: str, node: Node, part: str, array: np.ndarray | None = None) -> None:
        """Add an array of a layer, or one computed from it."""
        self.arrays[path] = node.arrays[part] if array is None else array
        self.sources[path] = f"the {part} of {node.name}"

    def add_layer(self, layer: str, node: Node) -> None:
        """Add the kernel and the bias of a layer."""
        self.add(f"params/{layer}/kernel", node, "weight")
        self.add(f"params/{layer}/bias", node, "bias")

    def add_normalized(self, layer: str, conv: Node, norm_layer: str, norm: Node) -> None:
        """Add the kernel of a convolution, and the batch normalization after it.

        The models here have no bias before a normalization. Its only effect, on the mean, is
        subtracted from that.
        """
        bias, mean = conv.arrays["bias"], norm.arrays["mean"]
        if bias.shape != mean.shape:
            raise InputError(
                f"the mean of {norm.name} is {mean.shape}; expected {bias.shape}, as {conv.name} "
                "has filters"
            )
        self.add(f"params/{layer}/kernel", conv, "weight")
        self.add(f"params/{norm_layer}/scale", norm, "scale")
        self.add(f"params/{norm_layer}/bias", norm, "bias")
        shifted = mean - bias.astype(np.float64) if bias.any() else mean
        self.add(f"batch_stats/{norm_layer}/mean", norm, "mean", shifted)
        self.add(f"batch_stats/{norm_layer}/var", norm, "var")
        assert isinstance(norm.op, BatchNorm)
        if self.epsilon not in (None, norm.op.epsilon):
            raise InputError(
                f"{norm.name} has the epsilon {norm.op.epsilon}, and others {self.epsilon}; "
                "expected one"
            )
        self.epsilon = norm.op.epsilon


class Layers:
    """Layers in their order, of which one after another is taken.

    Attributes:
        found: the arrays of the layers that were taken.
        family: name of the family of models, for messages.
    """

    def __init__(
        self, items: Sequence[Item], found: VariableArrays, family: str, before: str = "the images"
    ) -> None:
        """Make a sequence.

        Args:
            items: the layers.
            found: see above.
            family: see above.
            before: what is before the first layer, for messages.
        """
        self.found, self.family = found, family
        self._items, self._last = [*items], before

    def next_is(self, *kinds: type[GraphOp]) -> bool:
        """Return whether the next layer is of one of these kinds."""
        return bool(self._items) and isinstance(node_of(self._items[0]).op, kinds)

    def next_branches(self) -> tuple[tuple[Item, ...], ...]:
        """Return the branches that the next layer joins; () if it is no join."""
        item = self._items[0] if self._items else None
        return item.branches if isinstance(item, Join) else ()

    def is_empty(self) -> bool:
        """Return whether all layers were taken."""
        return not self._items

    def take(self, kind: type[AnyOp], what: str) -> tuple[Node, AnyOp]:
        """Return the next layer and its op.

        Args:
            kind: the expected kind.
            what: the expected layer, for messages.

        Raises:
            InputError: the layer is of another kind, or there is none.
        """
        if not self._items:
            raise self.mismatch("nothing", what)
        node = node_of(self._items.pop(0))
        if not isinstance(node.op, kind):
            raise self.mismatch(f"{node.name}, a {type(node.op).__name__}", what)
        self._last = node.name
        return node, node.op

    def within(self, items: Sequence[Item]) -> "Layers":
        """Return other layers of the same model."""
        return Layers(items, self.found, self.family, self._last)

    def end(self) -> None:
        """Raise InputError if a layer is left."""
        if self._items:
            raise self.mismatch(node_of(self._items[0]).name, "nothing")

    def mismatch(self, found: str, expected: str) -> InputError:
        """Return the error for a layer in the place of another."""
        return InputError(
            f"the layers are not those of {self.family}: after {self._last} comes {found}; "
            f"expected {expected}"
        )

    def wrong_hyperparameters(self, node: Node, found: str, expected: str) -> InputError:
        """Return the error for a layer with other hyperparameters than the family's."""
        return InputError(
            f"the layers are not those of {self.family}: {node.name} is {found}; expected "
            f"{expected}"
        )

    def conv(self, geometry: Collection[tuple[int, int]]) -> tuple[Node, Conv]:
        """Return the next layer, a convolution of one of these kernels and strides."""
        known = " or ".join(f"{kernel}×{kernel} with stride {s}" for kernel, s in geometry)
        node, op = self.take(Conv, f"a convolution, {known}")
        padding = same_padding(op.kernel)
        if (op.kernel, op.stride) not in geometry or op.padding != padding or op.groups != 1:
            found = (
                f"a convolution of {op.kernel}×{op.kernel} with stride {op.stride}, padding "
                f"{op.padding} and {op.groups} groups"
            )
            raise self.wrong_hyperparameters(node, found, f"{known}, padding {padding} and 1 group")
        return node, op

    def max_pool(self, windows: Collection[int], stride: int, padding: int | None) -> Pool:
        """Return the next layer, a max pooling; any padding is allowed if it is None."""
        sides = " or ".join(f"{w}×{w}" for w in windows)
        what = f"max pooling of {sides} with stride {stride}"
        node, op = self.take(Pool, what)
        is_expected = op.kind == "max" and op.window in windows and op.stride == stride
        if not is_expected or padding not in (None, op.padding):
            raise self.wrong_hyperparameters(
                node,
                f"{op.kind} pooling of {op.window}×{op.window} with stride {op.stride} and padding "
                f"{op.padding}",
                what if padding is None else f"{what} and padding {padding}",
            )
        return op

    def relu(self) -> None:
        """Take the next layer, a ReLU."""
        self.take(ReLU, "a ReLU")

    def classifier(self) -> int:
        """Take the classifier, which must be the last layer, and return the number of classes."""
        node, op = self.take(Dense, "the classifier, fully-connected")
        self.found.add_layer("fc", node)
        self.end()
        return op.features

    def dropout(self) -> float:
        """Return the rate of the next layer if it is dropout, which is taken, and else 0."""
        return self.take(Dropout, "dropout")[1].rate if self.next_is(Dropout) else 0.0
