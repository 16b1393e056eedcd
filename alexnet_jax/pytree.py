"""Nested containers of arrays: their type, and the paths of their leaves."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

# As in JAX's own signatures: containers nested to any depth, with arrays, their shapes,
# shardings or specs as leaves.
PyTree: TypeAlias = Any

# Flax's variables by collection: {"params": …, "batch_stats": …}.
Variables: TypeAlias = Mapping[str, PyTree]


KeyPath: TypeAlias = tuple[object, ...]  # of a leaf, as `jax.tree_util` has it


def path_name(path: KeyPath) -> str:
    """Return the path of a leaf as text, such as "conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_path(tree: PyTree) -> dict[str, PyTree]:
    """Return the leaves of a tree by their paths as text, in order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
