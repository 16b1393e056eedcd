"""An op of a sequential model that no module has a rule for."""

from dataclasses import dataclass
from typing import ClassVar

from alexnet_jax.models.ops import Op


@dataclass
class Unknown(Op):
    """An op that is not among those of the package."""

    prefix: ClassVar[str] = "unknown"
