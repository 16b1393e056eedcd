"""Check the config of a run against the devices, the parameters of its model, and its images."""

from alexnet_jax import sharding
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import check_images, check_padding
from alexnet_jax.data.resident import check_resident
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.schedules import check_patterns


def check_devices_and_patterns(config: Config) -> None:
    """Raise InputError if there are too few devices, or a pattern matches no parameter.

    `config.validated` has checked everything else that does not depend on the data.
    """
    sharding.make_mesh(config.parallel)
    check_patterns(config, registry.abstract_variables(config)["params"])


def complete_config(config: Config, pack: Pack) -> Config:
    """Return the config with the number of classes of the data.

    Raises:
        InputError: the config has another number of classes, or its crop, padding, channels, stages
            or schedule do not fit the data.
    """
    check_images(pack, config.data, config.model.channels)
    check_padding(pack, config.data)
    count = pack.splits["train"].count
    if config.data.stages and (most := max(images for _, images in config.data.stages)) > count:
        raise InputError(
            f"data.stages takes {most:,} training images, and {config.data.name} has {count:,}; "
            "lower the stages, or --config.data.validation_share"
        )
    check_resident(pack, config.data)
    if config.schedule.rule == "plateau" and "validation" not in pack.splits:
        raise InputError(
            f"schedule.rule=plateau needs validation images, and {config.data.name} has none; "
            "hold some out with --config.data.validation_share, or use schedule.rule=epochs"
        )
    classes = len(pack.class_names)
    if config.model.num_classes not in (0, classes):
        raise InputError(
            f"model.num_classes={config.model.num_classes}, but {config.data.name} has {classes} "
            "classes; leave it at 0 to take the data's"
        )
    return with_changes(config, {"model.num_classes": classes})
