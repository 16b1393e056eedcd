"""Start a run from the parameters of another run, for fine-tuning and training in stages."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import distributed, fields, sharding
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, config_from_json, config_to_json, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import blocks
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.pytree import KeyPath, PyTree, Variables, leaves_by_path, path_name
from alexnet_jax.trained import restore_variables
from alexnet_jax.workdir import read_config, saved_steps

# Parameters by their path. The name of a layer is the path without its last part.
Leaves = dict[str, PyTree]

# Fields in which the configs of both runs may differ on purpose; a difference is printed on stderr.
WARN_IF_DIFFERENT = (
    *("data.mean", "data.given_mean", "data.scale", "data.std", "data.resize", "data.crop"),
)
# Fields in which a difference makes the parameters useless, and is rejected.
REJECT_IF_DIFFERENT = ("data.channel_order",)
REJECT_IF_DIFFERENT_IN_LAYERS = ("stride", "groups")


def check_init_from(config: Config, workdir: Path) -> None:
    """Raise InputError for an init_from that cannot be used, before anything that takes long.

    A run that has a checkpoint of its own continues from that and does not need the other run.
    Differences in preprocessing, and in the ops after the layers to take, are printed on stderr.

    Args:
        config: config of the new run.
        workdir: workdir of the new run.
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
    source = _source(config)
    if not saved_steps(source):
        raise InputError(
            f"init_from={source} has no checkpoint of a run; expected the --workdir of a model "
            "that was trained, or --config.init_from= to start without one"
        )
    source_config = read_config(source, "--config.init_from")
    # The number of classes may not be known yet.
    classes = config.model.num_classes or source_config.model.num_classes
    config_with_classes = with_changes(config, {"model.num_classes": classes})
    params = leaves_by_path(registry.abstract_variables(config_with_classes)["params"])
    source_params = leaves_by_path(registry.abstract_variables(source_config)["params"])
    layers, source_layers = _layers(params), _layers(source_params)
    if missing := [
        name
        for name in config.init_layers
        if not (_is_in_layers(name, layers) and _is_in_layers(name, source_layers))
    ]:
        raise InputError(
            f"init_layers names {', '.join(missing)}; expected layers that both models have. This "
            f"one has {', '.join(layers)}, that of {source} {', '.join(source_layers)}"
        )
    taken, _ = _choose_layers(config, params, source_params)
    _check_compatible(config, source_config, taken)


def _check_compatible(config: Config, source_config: Config, taken: list[str]) -> None:
    """Print or reject the differences between the configs that affect the layers to take."""
    in_layers = [f"model.ops.{layer}.{n}" for layer in taken for n in REJECT_IF_DIFFERENT_IN_LAYERS]
    for field, source_value, value in _relevant_differences(config, source_config, taken):
        message = (
            f"init_from={config.init_from}: {field} differs: {source_value!r} there, {value!r} here"
        )
        if field in (*REJECT_IF_DIFFERENT, *in_layers):
            raise InputError(
                f"{message}, so its parameters are useless in this model. Begin with that run's "
                f"own config, --config=configs/from_workdir.py:{_source(config)}"
            )
        if distributed.is_first():
            print(f"{message}.", file=sys.stderr)


def _relevant_differences(
    config: Config, source_config: Config, taken: list[str]
) -> Iterator[fields.Difference]:
    """Yield (field, source value, value) for the differences that affect the layers to take."""
    old, new = config_to_json(source_config), config_to_json(config)
    for field in (*REJECT_IF_DIFFERENT, *WARN_IF_DIFFERENT):
        section, name = field.split(".")
        yield from fields.differences(old[section][name], new[section][name], field)
    if type(config.model) is not type(source_config.model):
        yield "model.type", old["model"]["type"], new["model"]["type"]
        return
    if not isinstance(config.model, SequentialConfig):
        for difference in fields.differences(old["model"], new["model"], "model"):
            if difference[0] != "model.num_classes":
                yield difference
        return
    assert isinstance(source_config.model, SequentialConfig)
    old_blocks, new_blocks = blocks(source_config.model.ops), blocks(config.model.ops)
    for layer in taken:
        old_ops, new_ops = old_blocks[layer], new_blocks[layer]
        names = [[f"{n} ({type(op).__name__})" for n, op in b.items()] for b in (old_ops, new_ops)]
        if names[0] != names[1]:
            old_text, new_text = (", ".join(listed[1:]) or "none" for listed in names)
            yield f"the ops after {layer}", old_text, new_text
        for name in old_ops:
            if type(new_ops.get(name)) is type(old_ops[name]):
                old_op, new_op = fields.to_json(old_ops[name]), fields.to_json(new_ops[name])
                for irrelevant in ("type", "std", "bias", "features"):
                    old_op.pop(irrelevant, None)
                    new_op.pop(irrelevant, None)
                yield from fields.differences(old_op, new_op, f"model.ops.{name}")


def load_pretrained(config: Config, variables: Variables, mesh: Mesh) -> tuple[int, Variables]:
    """Replace initial variables by those of the run config.init_from where they fit.

    A layer fits if the other model has a layer with the same name and arrays of the same shapes.
    Hence a model for other classes takes all layers but the classifier. Only layers named in
    config.init_layers are taken; () takes all that fit. Both the layers that are taken and those
    that are not are printed on stderr. Running statistics are taken with their layer.

    Args:
        config: config of the new run, with the number of classes.
        variables: initial variables of the model, on the mesh.
        mesh: the mesh of devices.

    Returns:
        The step of the other run's checkpoint, and variables of the same structure, types and
        shardings as `variables`.

    Raises:
        InputError: no layer fits, or not all layers of init_layers do.
    """
    initial_leaves = leaves_by_path(variables["params"])
    with Checkpoints(_source(config)) as checkpoints:

        def read(step: int) -> Variables:
            source_config = config_from_json(checkpoints.metadata(step)["config"])
            template = _template(registry.abstract_variables(source_config), initial_leaves, mesh)
            return restore_variables(checkpoints, step, template)

        found = checkpoints.newest(read)
    if found is None:  # `check_init_from` has found one
        raise InputError(f"init_from={config.init_from} has no checkpoint any more")
    step, source = found
    taken, mismatches = _choose_layers(config, initial_leaves, leaves_by_path(source["params"]))
    source_leaves = leaves_by_path(source)
    new = [mismatches.get(name, name) for name in _layers(initial_leaves) if name not in taken]
    if distributed.is_first():
        print(
            f"From {config.init_from}, step {step}: took {', '.join(taken)}; "
            f"initialized anew: {'; '.join(new) or 'nothing'}.",
            file=sys.stderr,
        )

    def choose(path: KeyPath, leaf: Array) -> Array:
        is_taken = _layer_name(path_name(path[1:])) in taken  # without the collection
        chosen: Array = source_leaves[path_name(path)] if is_taken else leaf
        return chosen

    return step, jax.tree_util.tree_map_with_path(choose, variables)


def _source(config: Config) -> Path:
    """Return the folder config.init_from, in which "~" stands for the home folder."""
    return Path(os.path.expanduser(config.init_from))


def _layer_name(path: str) -> str:
    """Return the name of the layer to which the parameter at a path belongs."""
    return path.rpartition("/")[0]


def _layers(params: Leaves) -> list[str]:
    """Return the names of the layers of parameters, in order."""
    return list(dict.fromkeys(map(_layer_name, params)))


def _is_in_layers(name: str, layers: list[str]) -> bool:
    """Return whether a name is that of a layer, or of a module that contains layers."""
    return any(layer == name or layer.startswith(f"{name}/") for layer in layers)


def _choose_layers(
    config: Config, params: Leaves, source_params: Leaves
) -> tuple[list[str], dict[str, str]]:
    """Return the layers to take, and the mismatches of other layers by name.

    Args:
        config: config of the new run.
        params: parameters of the new run, or their shapes.
        source_params: parameters of the other run, or their shapes.

    Raises:
        InputError: no layer fits, or not all layers of init_layers do.
    """
    layers = _layers(params)
    mismatches = {
        name: reason for name in layers if (reason := _mismatch(name, params, source_params))
    }
    wanted = layers
    if config.init_layers:
        wanted = [n for n in layers if any(_is_in_layers(i, [n]) for i in config.init_layers)]
    taken = [name for name in wanted if name not in mismatches]
    if not taken or (config.init_layers and len(taken) < len(wanted)):
        reasons = "; ".join(mismatches[name] for name in wanted if name in mismatches)
        raise InputError(
            f"init_from={config.init_from} does not fit: {reasons}. Choose the layers to take "
            "with --config.init_layers, or a model of the same shape"
        )
    return taken, mismatches


def _template(source: Variables, params: Leaves, mesh: Mesh) -> dict[str, PyTree]:
    """Return the abstract variables of the other model, with shardings.

    Arrays with the shape of the new run's parameter get its sharding; others are replicated.
    """

    def add_sharding(path: KeyPath, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        param = params.get(path_name(path[1:]))  # without the collection, "params"
        leaf_sharding = sharding.replicated(mesh)
        if param is not None and param.shape == leaf.shape:
            leaf_sharding = param.sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)

    template: dict[str, PyTree] = jax.tree_util.tree_map_with_path(add_sharding, dict(source))
    return template


def _mismatch(layer: str, params: Leaves, source_params: Leaves) -> str:
    """Return why a layer does not fit; "" if it does."""
    # Kernels first, since their shapes say more than those of biases.
    for path, param in sorted(params.items(), key=lambda item: -len(item[1].shape)):
        if _layer_name(path) != layer:
            continue
        if path not in source_params:
            return f"{layer} (not there)"
        source_shape = source_params[path].shape
        if source_shape != param.shape:
            kind = path.rpartition("/")[2]
            return f"{layer} ({kind} {source_shape} there, {param.shape} here)"
    return ""
