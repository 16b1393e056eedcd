"""A run that starts from another run's parameters: fine-tuning, and training in stages."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import config as configs
from alexnet_jax import distributed, fields, sharding
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import SequentialConfig, blocks
from alexnet_jax.pytree import KeyPath, PyTree, Variables, leaves_by_path, path_name
from alexnet_jax.trained import restore_variables
from alexnet_jax.workdir import read_config, saved_steps

# Parameters by their path; a layer is what stands before the last slash.
Leaves = dict[str, PyTree]

# What parameters were trained with, beside their shapes: a difference is printed on stderr, since
# it may be meant …
WARN_IF_DIFFERENT = (
    *("data.mean", "data.given_mean", "data.scale", "data.std", "data.resize", "data.crop"),
)
# … and rejected where kernels would be applied to inputs that they have never seen.
REJECT_IF_DIFFERENT = ("data.channel_order",)
REJECT_IF_DIFFERENT_IN_LAYERS = ("stride", "groups")


def check(config: Config, workdir: Path) -> None:
    """Raise InputError, before anything long, for an init_from that cannot be used.

    A run that already has a checkpoint of its own continues from that, whatever has become of the
    other run since. Where the parameters to take would see other inputs, or other ops between
    them, than they were trained with, this is printed on stderr.
    """
    if not config.init_from:
        if config.init_layers:
            raise InputError(
                f"init_layers={config.init_layers} without init_from; give the --workdir "
                "to take them from with --config.init_from"
            )
        return
    if saved_steps(workdir):
        return
    source = Path(config.init_from)
    if not (source / "config.json").exists() or not saved_steps(source):
        raise InputError(
            f"init_from={source} has no checkpoint of a run; expected the --workdir of a model "
            "that was trained, or --config.init_from= to start without one"
        )
    recorded = read_config(source, "--config.init_from")
    classes = config.model.num_classes or recorded.model.num_classes  # not known yet
    complete = configs.with_changes(config, {"model.num_classes": classes})
    ours = leaves_by_path(registry.abstract_variables(complete)["params"])
    theirs = leaves_by_path(registry.abstract_variables(recorded)["params"])
    layers = [list(dict.fromkeys(map(_layer, leaves))) for leaves in (ours, theirs)]
    if missing := [n for n in config.init_layers if not all(_within(n, some) for some in layers)]:
        raise InputError(
            f"init_layers names {', '.join(missing)}; expected layers that both models have. This "
            f"one has {', '.join(layers[0])}, that of {source} {', '.join(layers[1])}"
        )
    taken, _ = _choose(config, ours, theirs)
    _compare(config, recorded, taken)


def _compare(config: Config, recorded: Config, taken: list[str]) -> None:
    """Print, or reject, what the layers to take were trained with and do not find here."""
    in_layers = [f"model.ops.{layer}.{n}" for layer in taken for n in REJECT_IF_DIFFERENT_IN_LAYERS]
    for field, there, here in _relevant_differences(config, recorded, taken):
        if field in (*REJECT_IF_DIFFERENT, *in_layers):
            raise InputError(
                f"init_from={config.init_from}: {field} differs: {there!r} there, {here!r} here, "
                "so that its parameters mean nothing in this model. Begin with that run's own "
                f"config, --config=configs/like.py:{config.init_from}"
            )
        if distributed.is_first():
            print(
                f"init_from={config.init_from}: {field} differs: {there!r} there, {here!r} here.",
                file=sys.stderr,
            )


def _relevant_differences(
    config: Config, recorded: Config, taken: list[str]
) -> Iterator[tuple[str, object, object]]:
    """Yield (field, there, here) of what matters to the layers to take."""
    old, new = configs.to_json(recorded), configs.to_json(config)
    for field in (*REJECT_IF_DIFFERENT, *WARN_IF_DIFFERENT):
        section, name = field.split(".")
        yield from fields.differences(old[section][name], new[section][name], field)
    if not isinstance(config.model, SequentialConfig):
        return
    if not isinstance(recorded.model, SequentialConfig):
        return
    old_blocks, new_blocks = blocks(recorded.model.ops), blocks(config.model.ops)
    for layer in taken:
        there, here = old_blocks[layer], new_blocks[layer]
        kinds = [[f"{n} ({type(op).__name__})" for n, op in b.items()] for b in (there, here)]
        if kinds[0] != kinds[1]:
            old_ops, new_ops = (", ".join(names[1:]) or "none" for names in kinds)
            yield f"the ops after {layer}", old_ops, new_ops
        for name in there:
            if type(here.get(name)) is type(there[name]):
                ours, theirs = fields.to_json(here[name]), fields.to_json(there[name])
                for unimportant in ("type", "std", "bias", "features"):
                    ours.pop(unimportant, None)
                    theirs.pop(unimportant, None)
                yield from fields.differences(theirs, ours, f"model.ops.{name}")


def load_pretrained(config: Config, params: PyTree, mesh: Mesh) -> tuple[int, PyTree]:
    """Replace initial parameters by those of the run config.init_from, where they fit.

    A layer fits where the other model has one of the same name whose arrays have the same shapes;
    so a model for other classes takes everything but the classifier. config.init_layers names the
    only ones to take; () is all that fit. What was taken and what was left is printed on stderr.

    Args:
        config: complete.
        params: all of the model's, as they are initialized and where they lie.
        mesh: on which they lie.

    Returns:
        The step of the other run's checkpoint, and parameters of the same structure, types and
        places.

    Raises:
        InputError: a layer of init_layers does not fit, or none does.
    """
    checkpoints = Checkpoints(config.init_from)
    ours = leaves_by_path(params)

    def read(step: int) -> PyTree:
        other = configs.from_json(checkpoints.metadata(step)["config"])
        abstract = registry.abstract_variables(other)
        return restore_variables(checkpoints, step, _template(abstract, ours, mesh))["params"]

    found = checkpoints.newest(read)
    checkpoints.close()
    assert found is not None  # `check` has seen one
    step, their_params = found
    theirs = leaves_by_path(their_params)
    taken, unfit = _choose(config, ours, theirs)
    left = [unfit.get(name, name) for name in dict.fromkeys(map(_layer, ours)) if name not in taken]
    if distributed.is_first():
        print(
            f"From {config.init_from}, step {step}: took {', '.join(taken)}; "
            f"initialized anew: {'; '.join(left) or 'nothing'}.",
            file=sys.stderr,
        )

    def choose(path: KeyPath, leaf: Array) -> Array:
        name = path_name(path)
        chosen: Array = theirs[name] if _layer(name) in taken else leaf
        return chosen

    return step, jax.tree_util.tree_map_with_path(choose, params)


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _within(name: str, layers: list[str]) -> bool:
    """Return whether a name is that of a layer, or of a module with layers in it."""
    return any(layer == name or layer.startswith(f"{name}/") for layer in layers)


def _choose(config: Config, ours: Leaves, theirs: Leaves) -> tuple[list[str], dict[str, str]]:
    """Return the layers to take, and why others cannot be, from parameters or their shapes.

    Raises:
        InputError: a layer of init_layers does not fit, or none does.
    """
    layers = list(dict.fromkeys(map(_layer, ours)))
    unfit = {name: reason for name in layers if (reason := _mismatch(name, ours, theirs))}
    wanted = layers
    if config.init_layers:
        wanted = [n for n in layers if any(_within(given, [n]) for given in config.init_layers)]
    taken = [name for name in wanted if name not in unfit]
    if not taken or (config.init_layers and len(taken) < len(wanted)):
        reasons = "; ".join(unfit[name] for name in wanted if name in unfit)
        raise InputError(
            f"init_from={config.init_from} does not fit: {reasons}. Choose the layers to take "
            "with --config.init_layers, or a model of the same shape"
        )
    return taken, unfit


def _template(abstract: Variables, ours: Leaves, mesh: Mesh) -> dict[str, PyTree]:
    """Return the shapes of the other model, in the places of ours where they are the same."""

    def one(path: KeyPath, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        mine = ours.get(path_name(path[1:]))  # without the collection, "params"
        place = sharding.replicated(mesh)
        if mine is not None and mine.shape == leaf.shape:
            place = mine.sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    template: dict[str, PyTree] = jax.tree_util.tree_map_with_path(one, dict(abstract))
    return template


def _mismatch(layer: str, ours: Leaves, theirs: Leaves) -> str:
    """Return why a layer cannot be taken; empty where it can."""
    # Kernels before biases, whose shapes tell less.
    for path, mine in sorted(ours.items(), key=lambda item: -len(item[1].shape)):
        if _layer(path) != layer:
            continue
        if path not in theirs:
            return f"{layer} (not there)"
        if theirs[path].shape != mine.shape:
            kind = path.rpartition("/")[2]
            return f"{layer} ({kind} {theirs[path].shape} there, {mine.shape} here)"
    return ""
