"""Declare parameters with the logical axis names by which `sharding` lays them out on devices."""

from collections.abc import Callable
from typing import cast

import flax.linen as nn
from jax import Array


def parameter(
    module: nn.Module, name: str, axes: tuple[str, ...], init: Callable[..., Array], *args: object
) -> Array:
    """Declare a parameter of a module, in its compact method, and return its value.

    Args:
        axes: logical name of each axis.
        init: function from (key, *args) to the initial value.
        args: arguments of `init` after the key, the shape first.
    """
    boxed_init = nn.with_logical_partitioning(init, axes)
    return cast(Array, module.param(name, boxed_init, *args))
