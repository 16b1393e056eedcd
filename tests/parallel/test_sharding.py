"""Where arrays lie on a mesh, by the names of their logical axes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from helpers.torch_reference import make_one_column, small_config
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import sharding
from alexnet_jax.config import Config, ParallelConfig, validated, with_changes
from alexnet_jax.models import registry
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.train_step import abstract_state, init_state
from configs import cifar

MESHES = [(1, 2), (2, 2)]  # data × column

COLUMN = P("column")
# By the scheme: what is split, and by which axis. Of the classifier's bias every device has all.
SPECS = {
    "columns": {
        **{f"conv{n}/{part}": COLUMN for n in (1, 2, 3) for part in ("kernel", "bias")},
        **{f"fc{n}/{part}": COLUMN for n in (6, 7) for part in ("kernel", "bias")},
        "fc8/kernel": COLUMN,
        "fc8/bias": P(),
    },
    "one_weird_trick": {
        **{f"conv{n}/{part}": P() for n in (1, 2, 3) for part in ("kernel", "bias")},
        **{f"fc{n}/{part}": COLUMN for n in (6, 7) for part in ("kernel", "bias")},
        "fc8/kernel": COLUMN,
        "fc8/bias": P(),
    },
}


def config(data: int, columns: int, scheme: str = "columns", rule: str = "epochs") -> Config:
    config = small_config()
    config.parallel = ParallelConfig(columns=columns, data=data, scheme=scheme)
    config.schedule.rule = rule
    return validated(config)


def mesh_of(data: int, columns: int) -> Mesh:
    return sharding.make_mesh(ParallelConfig(columns=columns, data=data))


def by_path(tree: Any, value: Callable[[Any], Any]) -> dict[str, Any]:
    return {path: value(leaf) for path, leaf in leaves_by_path(tree).items()}


def spec_of(leaf: jax.ShapeDtypeStruct) -> P:
    assert isinstance(leaf.sharding, NamedSharding)
    return leaf.sharding.spec


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("scheme", SPECS)
def test_parameters_by_scheme(mesh: tuple[int, int], scheme: str) -> None:
    """Catches rules of one scheme that are used for the other, dense layers with the logical axes
    of convolutions, and a bias that is laid out otherwise than its kernel."""
    state = abstract_state(config(*mesh, scheme), mesh_of(*mesh))
    assert by_path(state.params, spec_of) == SPECS[scheme]


@pytest.mark.parametrize("scheme", SPECS)
def test_one_device_of_the_axis_splits_nothing(scheme: str) -> None:
    """Catches a spec with an axis of one device, which JAX takes for another layout: what comes
    out of a step would be laid out otherwise than what went in."""
    rules = sharding.rules(config(1, 2, scheme))
    boxed = registry.abstract_boxed_variables(config(1, 1))
    specs = sharding.partition_specs(boxed, mesh_of(2, 1), rules)
    assert set(by_path(specs, lambda spec: spec).values()) == {P()}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("scheme", SPECS)
def test_optimizer_state_lies_as_its_parameters(mesh: tuple[int, int], scheme: str) -> None:
    """Catches a momentum that every device holds whole, at twice the memory."""
    state = abstract_state(config(*mesh, scheme, rule="plateau"), mesh_of(*mesh))
    (momentum,) = jax.tree.leaves(
        state.opt_state, is_leaf=lambda part: isinstance(part, dict) and "conv1" in part
    )
    places, shapes = (
        [by_path(tree, value) for tree in (momentum, state.params)]
        for value in (lambda leaf: leaf.sharding, lambda leaf: (leaf.shape, leaf.dtype))
    )
    assert places[0] == places[1]
    assert shapes[0] == shapes[1]
    scalars = jax.tree.leaves((state.step, state.schedule_state))
    assert len(scalars) == 4
    assert {spec_of(leaf) for leaf in scalars} == {P()}


def test_shapes_of_the_shards() -> None:
    """Catches an axis of the array that is split in place of its columns, and a mesh whose axes
    are swapped: the devices of one column must be those of one mesh column."""
    mesh = mesh_of(2, 2)
    state = abstract_state(config(2, 2), mesh)
    kernel = state.params["conv2"]["kernel"]
    assert kernel.shape == (2, 3, 3, 4, 6)
    assert kernel.sharding.shard_shape(kernel.shape) == (1, 3, 3, 4, 6)
    places = kernel.sharding.devices_indices_map(kernel.shape)
    for column in (0, 1):
        holders = {device for device, index in places.items() if index[0].start == column}
        assert holders == set(mesh.devices[:, column])


@pytest.mark.parametrize("rules", [sharding.COLUMN_RULES, sharding.ONE_WEIRD_TRICK_RULES])
def test_both_tables_have_the_same_names(rules: sharding.Rules) -> None:
    """Catches a name that a new layer adds to one table only, and rules that no layer uses."""
    names: set[str] = set()
    one_column = small_config()
    make_one_column(one_column)
    local = with_changes(cifar.get_config("13pct"), {"model.num_classes": 10})
    for chosen in (small_config(), one_column, local):
        boxed = jax.tree.leaves(
            registry.abstract_boxed_variables(chosen),
            is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
        )
        assert all(isinstance(leaf, nn.LogicallyPartitioned) for leaf in boxed)
        assert all(len(leaf.names) == leaf.value.ndim for leaf in boxed)
        names |= {str(name) for leaf in boxed for name in leaf.names}
    assert names == set(rules)


def test_name_without_a_rule() -> None:
    """Catches a logical axis without a rule that is silently not split."""
    boxed = {"kernel": nn.LogicallyPartitioned(jnp.zeros((2, 3)), ("expert", "dense_inputs"))}
    with pytest.raises(KeyError, match="expert"):
        sharding.partition_specs(boxed, mesh_of(1, 2))
    rules = {**sharding.COLUMN_RULES, "expert": "column"}
    assert sharding.partition_specs(boxed, mesh_of(1, 2), rules) == {"kernel": COLUMN}


def test_spec_by_name_and_not_by_rank() -> None:
    """Catches the first axis split whatever its name, or only the first one."""
    arrays = {
        "a": nn.LogicallyPartitioned(jnp.zeros((4, 2)), ("dense_inputs", "dense_column")),
        "b": nn.LogicallyPartitioned(jnp.zeros((2, 4, 4)), ("x", "dense_column", "classes")),
        "c": jnp.zeros((2, 2)),  # no box: on every device
    }
    rules: sharding.Rules = {**sharding.COLUMN_RULES, "x": "data"}
    specs = sharding.partition_specs(arrays, mesh_of(2, 2), rules)
    assert specs == {"a": P(None, "column"), "b": P("data", "column"), "c": P()}
    placed = sharding.with_shardings(arrays, mesh_of(2, 2), rules)
    assert by_path(placed, spec_of) == specs
    assert {name: leaf.shape for name, leaf in placed.items()} == {
        "a": (4, 2),
        "b": (2, 4, 4),
        "c": (2, 2),
    }


@pytest.mark.parametrize("mesh", [(2, 1), (4, 1)])
def test_plain_kernels_are_not_split(mesh: tuple[int, int]) -> None:
    """Catches a kernel without columns whose height, or input channels, are taken for columns."""
    chosen = small_config()
    make_one_column(chosen)
    chosen.parallel.data = mesh[0]
    state = abstract_state(validated(chosen), mesh_of(*mesh))
    assert set(by_path(state.params, spec_of).values()) == {P()}
    # On a mesh with columns, as of an evaluation that shares its devices with others, too.
    boxed = registry.abstract_boxed_variables(chosen)
    specs = sharding.partition_specs(boxed, mesh_of(2, 2))
    assert set(by_path(specs, lambda spec: spec).values()) == {P()}
    assert state.params["conv1"]["kernel"].shape == (5, 5, 1, 8)


def test_nothing_in_the_state_is_boxed() -> None:
    """Catches boxes that reach the state, and with it checkpoints and `shard_map`."""
    chosen = config(1, 1, rule="plateau")

    def kinds(tree: Any) -> set[type]:
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
        return {type(leaf) for leaf in leaves}

    assert kinds(abstract_state(chosen, mesh_of(1, 1))) == {jax.ShapeDtypeStruct}
    quick = {"xla_backend_optimization_level": 0}
    state = jax.jit(lambda: init_state(chosen), compiler_options=quick)()
    assert all(issubclass(kind, jax.Array) for kind in kinds(state))
    assert all(issubclass(kind, jax.Array) for kind in kinds(registry.init_variables(chosen)))
    assert kinds(registry.abstract_variables(chosen)) == {jax.ShapeDtypeStruct}
    expected = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    abstract = abstract_state(chosen, mesh_of(1, 1))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == expected


@pytest.mark.parametrize(
    ("scheme", "axes", "rows"),
    [("columns", ("data",), 4), ("one_weird_trick", ("data", "column"), 2)],
)
def test_batches(scheme: str, axes: tuple[str, ...], rows: int) -> None:
    """Catches a batch that the columns share under the scheme "columns", or do not under the
    other; and rows of this process that are repeated or left out."""
    chosen, mesh = config(2, 2, scheme), mesh_of(2, 2)
    place = sharding.batch_sharding(chosen, mesh)
    assert place.spec == P(axes)
    assert place.shard_shape((8, 3)) == (rows, 3)
    np.testing.assert_array_equal(sharding.local_rows(8, place), np.arange(8))
    batch = {"x": np.arange(24).reshape(8, 3), "y": np.arange(8)}
    placed: dict[str, Any] = sharding.shard_batch(batch, place)
    for name, array in placed.items():
        assert array.sharding == place
        np.testing.assert_array_equal(array, batch[name])
