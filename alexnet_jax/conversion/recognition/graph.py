"""Layers of a file that branch and join, as nested sequences that do not depend on the format.

A reader adds the layers in the order of the file, each with the names of the activations that it
takes. `Graph.sequence` then returns the layers from the images to an output as a list, in which a
`Join` stands for all branches that it adds or concatenates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, ReLU


@dataclass(frozen=True)
class BatchNorm:
    """A batch normalization at test time, with its scale and bias; see `layers.batch_norm`.

    Attributes:
        epsilon: constant that is added to the variance.
    """

    epsilon: float


@dataclass(frozen=True)
class Pool:
    """A pooling over square windows.

    Attributes:
        kind: "max" or "average".
        window: side of the windows in pixels.
        stride: distance between windows in pixels.
        padding: pixels before the activations that are part of windows, but not of results.
        ceil_modes: the values of `layers.pooling.max_pool`'s ceil_mode that give as many windows
            as the file states, for activations of this size.
    """

    kind: str
    window: int
    stride: int
    padding: int
    ceil_modes: tuple[bool, ...]


@dataclass(frozen=True)
class GlobalPool:
    """The mean of each channel over all pixels."""


@dataclass(frozen=True)
class Sum:
    """The sum of several activations of one shape."""


@dataclass(frozen=True)
class Concat:
    """The channels of several activations, one after another."""


GraphOp = Conv | Dense | BatchNorm | ReLU | LRN | Pool | GlobalPool | Dropout | Sum | Concat
LayerArrays = dict[str, np.ndarray]  # the numbers of a layer; see `Node.arrays`


@dataclass(frozen=True)
class Node:
    """A layer of a file.

    Attributes:
        name: its name in the file, for messages.
        op: what it computes.
        inputs: names of the activations that it takes.
        output: name of the activations that it computes.
        side: side of its output in pixels; 1 for units.
        arrays: its numbers by name, in the layout of other programs: weight and bias of a `Conv` or
            `Dense`, as in `layout.Weights`; scale, bias, mean and var of a `BatchNorm`.
    """

    name: str
    op: GraphOp
    inputs: tuple[str, ...]
    output: str
    side: int
    arrays: LayerArrays = field(default_factory=dict)


@dataclass(frozen=True)
class Join:
    """Branches from the same activations, and the layer that adds or concatenates their outputs.

    Attributes:
        node: that layer.
        branches: the layers of each branch, in the order of the inputs of `node`; none for a branch
            that is the activations themselves.
    """

    node: Node
    branches: tuple[tuple["Item", ...], ...]


Item = Node | Join


class Graph:
    """The layers of a file.

    Attributes:
        side: side of the images in pixels.
    """

    joins: ClassVar = (Sum, Concat)

    def __init__(self, images: str, side: int) -> None:
        """Make a graph without layers.

        Args:
            images: name of the images.
            side: their side in pixels.
        """
        self.side = side
        self._nodes: dict[str, Node] = {}  # by the names of their outputs
        # The activations through which all paths from the images lead, the last ones before a
        # layer's output, and their number.
        self._before: dict[str, str] = {}
        self._depth = {images: 0}

    def side_of(self, activations: str) -> int:
        """Return the side of activations in pixels.

        Raises:
            InputError: no layer computes them.
        """
        if activations not in self._depth:
            raise InputError(
                f"{activations[:60]!r} is computed by no layer before those that take it; expected "
                "a model that is computed from the images alone, in the order of its layers"
            )
        node = self._nodes.get(activations)
        return node.side if node else self.side

    def add(self, node: Node) -> None:
        """Add a layer.

        Raises:
            InputError: no layer computes its inputs, or they differ in size.
        """
        sides = [self.side_of(name) for name in node.inputs]
        if len({*sides}) != 1:
            raise InputError(f"{node.name} takes activations of {sides} pixels; expected one size")
        if node.output in self._depth:
            raise InputError(f"two layers compute {node.output[:60]!r}; expected different names")
        before = node.inputs[0]
        for name in node.inputs[1:]:
            before = self._common(before, name)
        self._nodes[node.output], self._before[node.output] = node, before
        self._depth[node.output] = self._depth[before] + 1

    def _common(self, first: str, second: str) -> str:
        """Return the last activations through which all paths to both lead."""
        while first != second:
            if self._depth[first] < self._depth[second]:
                first, second = second, first
            first = self._before[first]
        return first

    def sequence(self, output: str) -> list[Item]:
        """Return the layers from the images to an output."""
        return self._sequence(output, next(iter(self._depth)))

    def branch(self, output: str, trunk: Sequence[Item]) -> tuple[str, list[Item]]:
        """Return the layers from a sequence to another output, and where they begin.

        Args:
            output: name of the other output.
            trunk: the sequence.

        Returns:
            The name of the activations of the trunk that the layers take, and the layers.
        """
        computed = {node_of(item).output for item in trunk}
        start = output
        while start not in computed and start in self._before:
            start = self._before[start]
        return start, self._sequence(output, start)

    def _sequence(self, output: str, start: str) -> list[Item]:
        """Return the layers from activations through which all paths to an output lead, to it."""
        items: list[Item] = []
        while output != start:
            node, before = self._nodes[output], self._before[output]
            if isinstance(node.op, self.joins):
                branches = tuple(tuple(self._sequence(name, before)) for name in node.inputs)
                items.append(Join(node, branches))
            else:
                items.append(node)
            output = before
        return items[::-1]

    def check_all_used(self, sequences: Sequence[Sequence[Item]]) -> None:
        """Raise InputError for layers that are in none of the sequences."""
        used = {node.output for items in sequences for node in nodes_of(items)}
        for output, node in self._nodes.items():
            if output not in used:
                raise InputError(
                    f"the output of {node.name} has no effect on that of the model; expected one "
                    "classifier, without layers for other purposes"
                )


def node_of(item: Item) -> Node:
    """Return the layer that computes the output of an item."""
    return item.node if isinstance(item, Join) else item


def nodes_of(items: Sequence[Item]) -> list[Node]:
    """Return all layers of a sequence, with those of branches."""
    nodes: list[Node] = []
    for item in items:
        if isinstance(item, Join):
            for branch in item.branches:
                nodes += nodes_of(branch)
        nodes.append(node_of(item))
    return nodes


def conv_side(name: str, op: Conv, side: int) -> int:
    """Return the side of the output of a convolution in pixels.

    Args:
        name: name of the layer, for messages.
        op: the convolution.
        side: side of its input in pixels.

    Raises:
        InputError: the kernel does not fit, or the stride or the kernel is 0.
    """
    return 1 + _extent(name, op.kernel, op.stride, side + sum(op.padding)) // op.stride


def make_pool(
    name: str, kind: str, window: int, stride: int, pads: tuple[int, int], side: int, *, ceil: bool
) -> tuple[Pool | GlobalPool, int]:
    """Return a pooling, and the side of its output in pixels.

    Args:
        name: name of the layer, for messages.
        kind: see `Pool`.
        window: see `Pool`.
        stride: see `Pool`.
        pads: pixels before and after the activations. They enter no result.
        side: side of the activations in pixels.
        ceil: whether a last window that overhangs is kept. Caffe omits one that begins after the
            activations and the padding before them.

    Raises:
        InputError: the windows do not fit, or no pooling here has as many.
    """
    before, after = pads
    extent = _extent(name, window, stride, side + before + after)
    count = 1 + (-(-extent // stride) if ceil else extent // stride)
    if before and (count - 1) * stride >= side + before:
        count -= 1
    if kind == "average" and count == 1 and window >= side + before:
        return GlobalPool(), 1
    extent = side + 2 * before - window
    counts = {True: 1 - (-extent // stride), False: 1 + extent // stride}
    modes = tuple(ceil_mode for ceil_mode, windows in counts.items() if windows == count)
    if not modes or (kind == "average" and any(pads)):
        raise InputError(
            f"{name} is {kind} pooling with {count} windows per row and {pads} pixels of padding; "
            f"expected {counts[True]} or {counts[False]} windows, and no padding of averages"
        )
    return Pool(kind, window, stride, before, modes), count


def _extent(name: str, window: int, stride: int, side: int) -> int:
    """Return by how many pixels a window can be moved.

    Raises:
        InputError: it does not fit, or a number is 0.
    """
    if window < 1 or stride < 1 or window > side:
        raise InputError(
            f"{name} has windows of {window}×{window} with stride {stride}, and activations of "
            f"{side} pixels with their padding; expected windows that fit"
        )
    return side - window
