"""Types of nested containers of arrays, and the paths of their leaves."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

# Containers nested to any depth, with arrays, shapes, shardings or specs as leaves. JAX's own
# signatures use Any for them, too.
PyTree: TypeAlias = Any

# Variables of Flax by collection: {"params": …, "batch_stats": …}.
Variables: TypeAlias = Mapping[str, PyTree]


KeyPath: TypeAlias = tuple[object, ...]  # path of a leaf, from `jax.tree_util`


def path_name(path: KeyPath) -> str:
    """Return the path of a leaf as text, such as "conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_path(tree: PyTree) -> dict[str, PyTree]:
    """Return the leaves of a tree by their path names, in order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
