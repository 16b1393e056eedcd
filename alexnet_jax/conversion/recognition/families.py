"""Recognize GoogLeNet and residual networks in the layers of a file, whatever its format."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.recognition.googlenet import take_googlenet
from alexnet_jax.conversion.recognition.graph import Concat, Graph, node_of
from alexnet_jax.conversion.recognition.layer_sequence import Layers, VariableArrays
from alexnet_jax.conversion.recognition.resnet import take_resnet
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig


@dataclass(frozen=True)
class Head:
    """The end of a classifier.

    Attributes:
        logits: name of the activations before the softmax.
        weight: weight in the loss; None if the file does not state it.
    """

    logits: str
    weight: float | None = None


def recognize(graph: Graph, heads: Sequence[Head], base: ModelConfig | None) -> BranchedModel:
    """Return the model that a graph is, GoogLeNet or a residual or plain network.

    Args:
        graph: the layers.
        heads: the auxiliary classifiers, and last the classifier.
        base: config of the same family, with the fields that a file does not state; None for the
            defaults.

    Raises:
        InputError: the model is of neither family, or not of that of `base`.
    """
    trunk = graph.sequence(heads[-1].logits)
    branches = [graph.branch(head.logits, trunk) for head in heads[:-1]]
    graph.check_all_used([trunk, *(items for _, items in branches)])
    is_googlenet = any(isinstance(node_of(item).op, Concat) for item in trunk)
    kind = GoogLeNetConfig if is_googlenet else ResNetConfig
    model = copy.deepcopy(base) or kind()
    if not isinstance(model, kind):
        raise InputError(
            f"the file has {'GoogLeNet' if is_googlenet else 'a residual network'}, and the config "
            f"a {type(model).__name__}; expected a {kind.__name__}"
        )
    found = VariableArrays()
    if isinstance(model, GoogLeNetConfig):
        layers = Layers(trunk, found, "GoogLeNet")
        weights = [head.weight for head in heads[:-1]]
        take_googlenet(layers, model, dict(branches), weights)
    else:
        if branches:
            raise InputError(f"the file has {len(heads)} classifiers; expected one")
        take_resnet(Layers(trunk, found, "a residual network"), model)
    if found.epsilon is not None:
        model.batch_norm.epsilon = found.epsilon
    return BranchedModel(model, found.arrays, found.sources)
