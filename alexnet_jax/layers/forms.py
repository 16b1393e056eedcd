"""Choose between forms of an op that compute the same, by the platform of the compiled program."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax import lax

Form = Callable[..., Any]  # (*arrays, **options) → arrays


@dataclass(eq=False)
class PlatformForms:
    """An op in two forms that compute the same up to rounding.

    The choice is made when a program is lowered, not when it is traced, so that a program for an
    accelerator can be made on any machine. To time another form in a training step,
    `experiments/benchmark/accelerator/forms.py` replaces these.

    Attributes:
        cpu: the form on CPUs.
        accelerator: the form on GPUs and TPUs.
    """

    cpu: Form
    accelerator: Form

    def __call__(self, *operands: Any, **options: Any) -> Any:
        """Apply the form of the platform.

        Args:
            operands: arrays, or containers of arrays.
            options: arguments that are known when the op is traced, such as sizes.
        """
        if self.cpu is self.accelerator:
            return self.cpu(*operands, **options)
        cpu, accelerator = partial(self.cpu, **options), partial(self.accelerator, **options)
        return lax.platform_dependent(*operands, cpu=cpu, default=accelerator)
