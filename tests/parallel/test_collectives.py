"""Who exchanges what, read from the lowered training step of a small model."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax
import pytest
from helpers.torch_reference import conv_op, small_config

from alexnet_jax import optimizer, sharding, train_step
from alexnet_jax.analysis import collectives as analysis
from alexnet_jax.analysis.collectives import (
    Collective,
    check_compiled,
    list_collectives,
    lower_train_step,
    parse_groups,
)
from alexnet_jax.config import Config, OptimizerConfig, ParallelConfig, sequential_model
from alexnet_jax.layers import columns
from alexnet_jax.models.ops import LRN, Conv, Dense
from configs.alexnet import get_config

ROWS = 8  # small_config's batch


def exchanges(data: int, column: int, config: Config | None = None) -> list[Collective]:
    config = config or small_config()
    config.parallel.data, config.parallel.columns = data, column
    mesh = sharding.make_mesh(config.parallel)
    return list_collectives(lower_train_step(config, mesh), config, mesh)


def test_columns_meet_where_the_paper_says() -> None:
    """Catches an exchange added or lost at any layer, in either direction, and a wrong size.

    Of the small model conv3, fc6, fc7 and the classifier see both columns. fc6 has fewer outputs
    than inputs, so it exchanges those.
    """
    found = [(one.layer, one.kind, one.axis, one.direction, one.bytes) for one in exchanges(1, 2)]
    channels = ROWS * 3 * 3 * 6 * 4  # conv2's, of the other column, in bytes
    units = ROWS * 6 * 4  # fc6's
    assert Counter(found) == Counter(
        [
            ("conv3", "all_gather", "column", "forward", channels),
            ("fc6", "reduce_scatter", "column", "forward", units),
            ("fc7", "all_gather", "column", "forward", units),
            ("logits", "all_reduce", "column", "forward", ROWS * 10 * 4),
            ("fc7", "reduce_scatter", "column", "backward", units),
            ("fc6", "all_gather", "column", "backward", units),
            ("conv3", "reduce_scatter", "column", "backward", channels),
        ]
    )


@pytest.mark.parametrize("added", [(), ("conv4",)])
def test_the_papers_model(added: tuple[str, ...]) -> None:
    """Catches an exchange at conv1, conv2, conv4 or conv5, and a table blind to one there."""
    config = get_config()
    config.model.num_classes = 1000
    for name in added:
        conv_op(config, name).groups = 1
    meet = {one.layer for one in exchanges(1, 2, config) if one.axis == "column"}
    assert meet == {"conv3", *added, "fc6", "fc7", "logits"}


def test_gradients_are_added_up_over_data_alone() -> None:
    """Catches gradients that are shared between columns, or not between the data's devices."""
    over_data = [one for one in exchanges(2, 2) if one.axis == "data"]
    assert {one.kind for one in over_data} == {"all_reduce"}
    parameters = Counter(one.layer for one in over_data if one.direction == "backward")
    layers = [
        n for n, op in sequential_model(small_config()).ops.items() if isinstance(op, Conv | Dense)
    ]
    assert parameters == dict.fromkeys(layers, 2)  # kernel and bias
    assert {one.layer for one in over_data if one.direction == "forward"} == {"loss"}


def by_layer(found: list[Collective], direction: str = "forward") -> dict[str, list[int]]:
    """[bytes, least] of the columns' exchanges of numbers."""
    return {
        one.layer: [one.bytes, one.minimum]
        for one in found
        if (one.axis, one.direction) == ("column", direction) and one.dtype != "ui32"
    }


def test_exchanges_against_the_least_that_would_do() -> None:
    """Catches a minimum of the wrong layer, of the wrong side of it, or of half the batch.

    conv3: 108 values in, 72 out; fc6: 72 in, 12 out; fc7: 12, 12; the classifier: 12, 10; a
    device has half of them.
    """
    values = {"conv3": (108, 72), "fc6": (12, 12), "fc7": (12, 12), "logits": (20, 10)}
    half = ROWS * 4 // 2
    for direction in ("forward", "backward"):
        expected = {name: [half * v for v in pair] for name, pair in values.items()}
        if direction == "backward":
            del expected["logits"]  # the all-reduce gave every device what it needs
        assert by_layer(exchanges(1, 2), direction) == expected


def test_bfloat16_halves_what_columns_exchange() -> None:
    """Catches float32 sent where bfloat16 would do; the logits alone stay float32."""
    config = small_config()
    config.compute_dtype = "bfloat16"
    wide, narrow = by_layer(exchanges(1, 2)), by_layer(exchanges(1, 2, config))
    expected = {name: [size // 2 for size in pair] for name, pair in wide.items()}
    # The logits are summed in float32; gathering fc7's 12 units would take less than 10 sums.
    sums = wide["logits"][0]
    assert narrow == {**expected, "logits": [sums, 12 * ROWS * 2 // 2]}


def test_one_weird_trick_exchanges() -> None:
    """Catches convolutions that exchange, and dense layers that gather what they could trade.

    Of fc6's 72 inputs a device gets 36, for the other's half of the batch: a quarter of all.
    """
    config = small_config()
    config.parallel.scheme = "one_weird_trick"
    found = exchanges(1, 2, config)
    between = [(o.layer, o.kind, o.bytes) for o in found if o.direction == "forward"]
    quarter = ROWS * 4 // 4
    assert between == [
        ("fc6", "all_to_all", 72 * quarter),
        ("fc6", "all_gather", ROWS * 4 // 2),  # the examples' numbers, for their masks
        ("fc6", "reduce_scatter", 12 * 2 * quarter),
        ("fc7", "all_gather", 12 * 2 * quarter),
        ("logits", "reduce_scatter", 10 * 2 * quarter),
        *[(o.layer, o.kind, o.bytes) for o in found if o.layer == "loss"],
    ]
    backward = [one for one in found if one.direction == "backward"]
    assert all(one.minimum == one.bytes for one in found)
    shared = {one.layer for one in backward if one.kind == "all_reduce"}
    assert shared == {"conv1", "conv2", "conv3", "fc8"}  # of fc8 the bias, which all hold


def test_one_device_exchanges_nothing() -> None:
    """Catches collectives over groups of one that are not left out."""
    assert exchanges(1, 1) == []


def test_an_added_exchange_shows_up_where_it_is() -> None:
    """Catches a table that does not look at the program: conv2 is made to see both columns."""
    config = small_config()
    conv_op(config, "conv2").groups = 1
    found = {(one.layer, one.kind, one.direction) for one in exchanges(1, 2, config)}
    assert ("conv2", "all_gather", "forward") in found
    assert ("conv2", "reduce_scatter", "backward") in found


def test_lrn_across_columns_exchanges_its_boundary() -> None:
    """Catches whole columns sent where two channels of each end do, or exchanges of no op."""
    config = small_config()
    ops = sequential_model(config).ops
    ops["norm1"] = LRN(size=5, alpha=0.4, across_columns=True)
    del ops["norm2"]
    found = [(one.layer, one.kind, one.bytes) for one in exchanges(1, 2, config)]
    ends = ROWS * 12 * 12 * (2 + 2) * 4  # of conv1's channels, in bytes
    assert found[0] == ("norm1", "all_gather", ends)
    assert [one for one in found if one[0] == "norm1"][1:] == [("norm1", "reduce_scatter", ends)]
    assert "conv1" not in [layer for layer, _, _ in found]


def test_the_compiler_adds_nothing_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an exchange in the update, which the lowered program does not show.

    Gradients divided by their norm: the compiler adds an all-reduce over both columns by itself.
    """
    rule = optimizer.make_optimizer

    def by_norm(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
        inner = rule(config)

        def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
            norm = 1 + optax.tree.norm(grads)
            return inner.update(jax.tree.map(lambda g: g / norm, grads), state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    monkeypatch.setattr(train_step, "make_optimizer", by_norm)
    config = small_config()
    config.parallel.data = config.parallel.columns = 2
    mesh = sharding.make_mesh(config.parallel)
    lowered = lower_train_step(config, mesh)
    with pytest.raises(ValueError, match=r"the compiler adds an all-reduce for jit\(train_step\)"):
        check_compiled(list_collectives(lowered, config, mesh), lowered.compile(), mesh)


@pytest.mark.parametrize(
    ("data", "scheme"), [(1, "columns"), (2, "columns"), (1, "one_weird_trick")]
)
def test_the_compiled_program_agrees(data: int, scheme: str) -> None:
    """Catches a table of exchanges that the compiler drops, or of the wrong groups."""
    config = small_config()
    config.parallel = ParallelConfig(columns=2, data=data, scheme=scheme)
    mesh = sharding.make_mesh(config.parallel)
    lowered = lower_train_step(config, mesh)
    found = list_collectives(lowered, config, mesh)
    compiled = lowered.compile()
    check_compiled(found, compiled, mesh)
    with pytest.raises(ValueError, match="reduce_scatter"):
        check_compiled([one for one in found if one.kind != "reduce_scatter"], compiled, mesh)
    with pytest.raises(ValueError, match="all_gather"):
        check_compiled([one for one in found if (one.layer, one.direction) != ("fc7", "forward")],
                compiled, mesh)  # fmt: skip


MESH = sharding.make_mesh(ParallelConfig(columns=2, data=2))

# Of every form in which compiled HLO has been seen to write the groups of a 2×2 mesh.
GROUPS = [
    ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
    ("[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    # from JAX 0.11 on
    ("mesh['data'=2,'column'=2] {'column'}", [[0, 1], [2, 3]]),
    ("mesh['data'=2,'column'=2] {'data'}", [[0, 2], [1, 3]]),
    ("mesh['data'=2,'column'=2] {'data','column'}", [[0, 1, 2, 3]]),
    # the same without quotes
    ("mesh['data'=2,'column'=2] {column}", [[0, 1], [2, 3]]),
    ("mesh['data'=2,'column'=2] {data}", [[0, 2], [1, 3]]),
    ("mesh['data'=2,'column'=2] {data,column}", [[0, 1, 2, 3]]),
]


@pytest.mark.parametrize(("text", "groups"), GROUPS)
@pytest.mark.parametrize("end", ["", ", use_global_device_ids=true", " metadata={}"])
def test_groups_as_hlo_writes_them(text: str, end: str, groups: list[list[int]]) -> None:
    """Catches an iota read without its transposition, and a mesh's axis read as the other one."""
    line = f"%all-gather.1 = f32[4] all-gather(%x), channel_id=1, replica_groups={text}{end}"
    np.testing.assert_array_equal(parse_groups(line, MESH), groups)


@pytest.mark.parametrize("text", ["", "replica_groups={}", "replica_groups=@groups"])
def test_groups_that_cannot_be_read(text: str) -> None:
    """Catches a form of the future that is taken for no groups at all."""
    with pytest.raises(ValueError, match="cannot be read: %x = f32"):
        parse_groups(f"%x = f32[4] all-gather(%y), {text}", MESH)


def mesh_axes(*names: str) -> Any:
    """An operation with groups as JAX 0.11 writes them in StableHLO, whose attribute the parser
    sees as text."""
    axes = ", ".join(f'#stablehlo.axis_ref<name = "{name}">' for name in names)
    mesh = '#stablehlo.mesh_axis<name = "data", size = 2>'
    text = f"#stablehlo.replica_group_mesh_axes<mesh = [{mesh}], axes = [{axes}]>"
    return SimpleNamespace(attributes={"replica_groups": text})


@pytest.mark.parametrize(
    ("axes", "groups", "name"),
    [
        (("column",), [[0, 1], [2, 3]], "column"),
        (("data",), [[0, 2], [1, 3]], "data"),
        (("data", "column"), [[0, 1, 2, 3]], "data+column"),
    ],
)
def test_groups_as_stablehlo_names_them(
    axes: tuple[str, ...], groups: list[list[int]], name: str
) -> None:
    """Catches names read from the description of the mesh, and one axis taken for the other."""
    found = analysis._groups(mesh_axes(*axes), MESH)
    np.testing.assert_array_equal(found, groups)
    assert analysis._axis(found, MESH) == name


def test_cross_columns_is_silent_where_all_columns_are() -> None:
    """Catches a collective on one device, where no axis exists."""
    column_arrays = [jax.numpy.ones((2, 3)), jax.numpy.zeros((2, 3))]
    placed = columns.cross_columns(column_arrays, columns.ColumnSharding(2, None))
    np.testing.assert_array_equal(placed, np.concatenate(column_arrays, axis=-1))
