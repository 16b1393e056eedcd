"""Checksums and shapes of the arrays in a checkpoint, on any mesh of devices."""

import json
import math
import zlib

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.pytree import PyTree

MAX_PARTS = 256  # number of parts in which an array is summed, a power of 2


def compute_crc32(content: object) -> int:
    """Return the checksum of a JSON value."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def list_shapes(tree: PyTree) -> dict[str, list[int]]:
    """Return the shapes of the arrays of a tree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [*leaf.shape] for path, leaf in leaves}


@jax.jit
def _sums(tree: PyTree) -> PyTree:
    """Return a tree of the checksums of the arrays of a tree.

    A checksum is the sum of the array's 32-bit words multiplied by odd weights, modulo 2^32. A
    changed byte changes the sum. Sums of integers do not depend on the order, and so not on the
    mesh. An array is read in parts along an axis that is never split over devices (the first axis
    of kernels is), which avoids a copy of it.
    """

    def checksum(array: Array) -> Array:
        first, width = (array.shape[0], array.shape[-1]) if array.ndim > 1 else (1, array.size)
        array = array.reshape(first, -1, width)
        parts = math.gcd(array.shape[1], MAX_PARTS)
        part = (first, array.shape[1] // parts, width)
        a, b, c = (jax.lax.broadcasted_iota(jnp.uint32, part, axis) for axis in range(3))

        def add(index: Array, total: Array) -> Array:
            begin = index * part[1]
            values = jax.lax.dynamic_slice_in_dim(array, begin, part[1], axis=1)
            words = jax.lax.bitcast_convert_type(values, jnp.uint32)
            position = (a * array.shape[1] + begin + b) * width + c
            return total + words * (2 * position + 1)

        zeros = jnp.zeros(part, jnp.uint32)
        return jnp.sum(jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(parts), add, zeros))

    return jax.tree.map(checksum, tree)


def compute_checksums(tree: PyTree) -> dict[str, int]:
    """Return the checksums of a tree's arrays, of 32-bit numbers, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(_sums(tree))
    return {jax.tree_util.keystr(path): int(value) for path, value in leaves}
