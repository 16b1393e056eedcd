"""A run that starts from another run's parameters: fine-tuning, and training in stages."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import distributed, network
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError
from alexnet_jax.workdir import differences, read_config

Params = Mapping[str, Mapping[str, Array]]

# What parameters are used to, beside their shapes: a difference is said on stderr, since one may
# train on with another dropout or crop on purpose …
SAID = (
    *("data.mean", "data.given_mean", "data.scale", "data.std", "data.resize", "data.crop"),
    *("model.pool", "model.dropout", "model.inverted_dropout"),
)
SAID_OF_LAYERS = ("padding", "after")
# … and refused where kernels would be laid on what they have never seen.
REFUSED = ("data.channel_order",)
REFUSED_OF_LAYERS = ("stride", "sees")
RULES = ("lrn", "map_norm")  # said where a layer has a step of this name


def check(config: ConfigDict, workdir: Path) -> None:
    """Raise InputError, before anything long, for an init_from that cannot be used.

    A run that already has a checkpoint of its own goes on from that, whatever has become of the
    other run since. Where the parameters to take would see other inputs, or other steps between
    them, than they were trained with, this is said on stderr.
    """
    if not config.init_from:
        if config.init_layers:
            raise InputError(
                f"init_layers={tuple(config.init_layers)} without init_from; give the --workdir "
                "to take them from with --config.init_from"
            )
        return
    if _has_checkpoint(workdir):
        return
    source = Path(config.init_from)
    if not (source / "config.json").exists() or not _has_checkpoint(source):
        raise InputError(
            f"init_from={source} has no checkpoint of a run; expected the --workdir of a net "
            "that was trained, or --config.init_from= to start without one"
        )
    recorded, shapes = _recorded(source)
    theirs = recorded.model.layers
    if missing := [
        n for n in config.init_layers if n not in config.model.layers or n not in theirs
    ]:
        raise InputError(
            f"init_layers names {', '.join(missing)}; expected layers that both nets have. This "
            f"one has {', '.join(config.model.layers)}, that of {source} {', '.join(theirs)}"
        )
    complete = config.copy_and_resolve_references()
    complete.model.classes = config.model.classes or recorded.model.classes  # not known yet
    taken, _ = _choose(config, network.abstract_params(complete), shapes)
    _compare(config, recorded, taken)


def _recorded(source: Path) -> tuple[ConfigDict, Any]:
    """The config of the other run, and the shapes of its parameters."""
    recorded = read_config(source, "--config.init_from")
    try:
        return recorded, network.abstract_params(recorded)
    except (InputError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"init_from={source}: its config.json cannot be used: {error}") from None


def _compare(config: ConfigDict, recorded: ConfigDict, taken: list[str]) -> None:
    """Say, or refuse, what the layers to take were used to and do not find here."""
    old, new = (json.loads(c.to_json()) for c in (recorded, config))
    layers = [c["model"]["layers"].values() for c in (old, new)]
    steps = {step for some in layers for layer in some for step in layer["after"]}
    rules = tuple(f"model.{rule}" for rule in RULES if rule in steps)
    refused = REFUSED_OF_LAYERS if config.model.columns > 1 else ("stride",)  # one sees itself
    for field, there, here in differences(old, new):
        if _names(field, REFUSED, refused, taken):
            raise InputError(
                f"init_from={config.init_from}: {field} differs: {there!r} there, {here!r} here, "
                "so that its parameters mean nothing in this net. Begin with that run's own "
                f"config, --config=configs/like.py:{config.init_from}"
            )
        if distributed.is_first() and _names(field, (*SAID, *rules), SAID_OF_LAYERS, taken):
            print(
                f"init_from={config.init_from}: {field} differs: {there!r} there, {here!r} here.",
                file=sys.stderr,
            )


def _names(
    field: str, fields: tuple[str, ...], of_layers: tuple[str, ...], taken: list[str]
) -> bool:
    """Whether a field is one of these, below one of these, or one of a taken layer's."""
    known = (*fields, *(f"model.layers.{name}.{kind}" for name in taken for kind in of_layers))
    return any(f"{field}.".startswith(f"{name}.") for name in known)


def take_over(config: ConfigDict, params: Params, mesh: Mesh) -> tuple[int, Params]:
    """Initial parameters with those of the run config.init_from in their place, where they fit.

    A layer fits where the other net has one of the same name whose arrays have the same shapes;
    so a net for other classes takes everything but the classifier. config.init_layers names the
    only ones to take; () is all that fit. What was taken and what was left is said on stderr.

    Args:
        config: complete.
        params: all of the net's, as they are initialised and where they lie.
        mesh: on which they lie.

    Returns:
        The step of the other run's checkpoint, and parameters of the same structure, types and
        places.

    Raises:
        InputError: a layer of init_layers does not fit, or none does.
    """
    checkpoints = Checkpoints(config.init_from)

    def read(step: int) -> Params:
        theirs = network.abstract_params(ConfigDict(checkpoints.metadata(step)["config"]))
        return checkpoints.params(step, _template(theirs, params, mesh))

    found = checkpoints.newest(read)
    checkpoints.close()
    assert found is not None  # `check` has seen one
    step, theirs = found
    taken, unfit = _choose(config, params, theirs)
    left = [unfit.get(name, name) for name in params if name not in taken]
    if distributed.is_first():
        print(
            f"From {config.init_from}, step {step}: took {', '.join(taken)}; "
            f"initialised anew: {'; '.join(left) or 'nothing'}.",
            file=sys.stderr,
        )
    return step, {**params, **{name: theirs[name] for name in taken}}


def _choose(config: ConfigDict, ours: Any, theirs: Any) -> tuple[list[str], dict[str, str]]:
    """The layers to take, and why others cannot be, from parameters or their shapes.

    Raises:
        InputError: a layer of init_layers does not fit, or none does.
    """
    unfit = {name: reason for name in ours if (reason := _unfit(name, ours, theirs))}
    wanted = list(config.init_layers or ours)
    taken = [name for name in wanted if name not in unfit]
    if not taken or (config.init_layers and len(taken) < len(wanted)):
        reasons = "; ".join(unfit[name] for name in wanted if name in unfit)
        raise InputError(
            f"init_from={config.init_from} does not fit: {reasons}. Choose the layers to take "
            "with --config.init_layers, or a net of the same shape"
        )
    return taken, unfit


def _has_checkpoint(workdir: Path) -> bool:
    """Whether there is one, without opening it, for which processes would wait for each other."""
    names = (path.name.removeprefix("step_") for path in workdir.glob("checkpoints/step_*"))
    return any(name.isdigit() for name in names)


def _template(theirs: Any, ours: Params, mesh: Mesh) -> Any:
    """Shapes of the other net, in the places of ours where they are the same."""

    def one(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        layer, kind = (key.key for key in path)
        fits = layer in ours and ours[layer][kind].shape == leaf.shape
        place = ours[layer][kind].sharding if fits else NamedSharding(mesh, P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree_util.tree_map_with_path(one, theirs)


def _unfit(name: str, ours: Params, theirs: Params) -> str:
    """Why a layer cannot be taken over; empty where it can."""
    if name not in theirs:
        return f"{name} (not there)"
    for kind in ("kernel", "bias"):
        there, here = theirs[name][kind].shape, ours[name][kind].shape
        if there != here:
            return f"{name} ({kind} {there} there, {here} here)"
    return ""
