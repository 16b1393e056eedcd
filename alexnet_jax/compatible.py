"""Check that models can be averaged."""

from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel

# Fields of config.data that must be equal for models whose predictions are averaged.
SHARED_FIELDS = (
    *("name", "image_size", "enlarge", "resize", "crop", "scale_jitter"),
    *("validation_share", "test_share", "split_seed"),
)


def shared_settings(model: TrainedModel) -> dict[str, object]:
    """Return what must be equal for models whose predictions are averaged, by name."""
    data = model.config.data
    return {
        "classes": model.class_names,
        **{f"data.{name}": getattr(data, name) for name in SHARED_FIELDS},
        "channels": model.config.model.channels,
    }


def check_compatible(first: TrainedModel, second: TrainedModel) -> None:
    """Raise InputError for models that need different images and so cannot be averaged.

    Digests of the images on which they were trained are compared if both are known.
    """
    other = shared_settings(second)
    for name, value in shared_settings(first).items():
        if value != other[name]:
            raise InputError(
                f"models whose {name} differ cannot be averaged: {value} and {other[name]}"
            )
    digests = [model.source_digest for model in (first, second)]
    if None not in digests and digests[0] != digests[1]:
        places = [model.config.data.dir or model.config.data.name for model in (first, second)]
        raise InputError(
            "models trained on different images cannot be averaged: those of "
            f"{places[0]} (digest {digests[0]}) and {places[1]} (digest {digests[1]}); evaluate "
            "each alone, or all on the images of --data_dir"
        )
