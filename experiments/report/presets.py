"""Find the config of this repository that is nearest to that of a run."""

import itertools
from collections.abc import Iterator
from typing import Any

from alexnet_jax.config import Config, config_to_json
from alexnet_jax.errors import InputError
from alexnet_jax.fields import differences
from configs import (
    alexnet,
    bvlc_alexnet,
    cifar,
    googlenet,
    one_weird_trick,
    resnet,
    source2012,
    variants,
    vgg,
    zfnet,
)


def presets(family: str) -> Iterator[tuple[str, Config]]:
    """Yield the configs of this repository with their names on the command line.

    Args:
        family: name of the class of the models' configs; those of other classes are left out.
    """
    for module, networks, data, changes in (
        (alexnet, (), alexnet.DATA, variants.ABLATIONS),
        (source2012, (), source2012.DATA, variants.ABLATIONS),
        (zfnet, zfnet.NETWORKS, zfnet.DATA, zfnet.CHANGES),
        (vgg, vgg.NETWORKS, vgg.DATA, vgg.CHANGES),
        (cifar, cifar.NETWORKS, cifar.DATA, cifar.CHANGES),
        (googlenet, (), googlenet.DATA, googlenet.CHANGES),
        (resnet, resnet.NETWORKS, resnet.DATA, resnet.CHANGES),
        (bvlc_alexnet, (), (), ()),
        (one_weird_trick, (), (), ()),
    ):
        if type(module.get_config().model).__name__ != family:
            continue
        file = f"configs/{module.__name__.rpartition('.')[2]}.py"
        for chosen in itertools.product(("", *networks), ("", *data), ("", *changes)):
            words = ",".join(filter(None, chosen))
            try:
                yield f"{file}:{words}".rstrip(":"), module.get_config(*filter(None, [words]))
            except InputError:  # words that cannot be combined
                continue


def nearest_preset(fields: dict[str, Any]) -> tuple[str, list[tuple[str, Any, Any]]]:
    """Find the preset that differs in the fewest fields, and list these fields.

    A number of classes that a preset leaves to the data does not count.

    Args:
        fields: of a config, from `configs.to_json`.

    Returns:
        The preset's name, and a list of (field, its value in the preset, its value in `fields`).
    """
    best: tuple[str, list[tuple[str, Any, Any]]] | None = None
    for name, preset in presets(fields["model"]["type"]):
        expected = config_to_json(preset)
        num_classes = expected["model"]["num_classes"] or fields["model"]["num_classes"]
        expected["model"]["num_classes"] = num_classes
        found = list(differences(expected, fields))
        if best is None or len(found) < len(best[1]):
            best = name, found
    assert best is not None
    return best
