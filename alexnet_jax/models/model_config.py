"""The base class of the configs of all model families."""

from dataclasses import dataclass
from typing import ClassVar

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section


@dataclass
class ModelConfig(Section):
    """Base class of the configs of all model families.

    Attributes:
        channels: number of channels of the input images.
        num_classes: number of classes; 0 takes that of the data.
    """

    is_variant: ClassVar[bool] = True
    channels: int = 3
    num_classes: int = 0

    def check(self, crop: int) -> None:
        """Raise InputError if the fields do not describe a model for crops of `crop` pixels."""
        raise NotImplementedError

    def normalizes_batches(self) -> bool:
        """Return whether batch normalization makes an example's output depend on the others."""
        return False

    def columns(self) -> int:
        """Return the number of columns, 1 for a model without groups."""
        return 1

    def check_columns(self, devices: int) -> None:
        """Raise InputError if the columns cannot be split over the devices.

        Args:
            devices: size of the mesh axis "column".
        """
        if devices > 1:
            raise InputError(
                f"parallel.columns={devices}: a {type(self).__name__} has no columns to split over "
                f"devices; expected parallel.columns=1, and parallel.data={devices} to split the "
                "batch"
            )
