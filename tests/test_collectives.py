"""Who talks to whom, read from the lowered training step of a small net."""

from collections import Counter
from typing import Any

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from torch_twin import config_module, small_config

from alexnet_jax import parallel, train
from alexnet_jax.collectives import Collective, collectives, confirm, lower_train_step
from alexnet_jax.collectives import _parse_groups as parse_groups
from alexnet_jax.models import columns

ROWS = 8  # small_config's batch


def exchanges(data: int, column: int, config: ConfigDict | None = None) -> list[Collective]:
    config = config or small_config()
    config.parallel.data, config.parallel.columns = data, column
    mesh = parallel.make_mesh(config)
    return collectives(lower_train_step(config, mesh), config, mesh)


def test_columns_meet_where_the_paper_says() -> None:
    """Catches an exchange added or lost at any layer, in either direction, and a wrong size.

    Of the small net conv3, fc6, fc7 and the classifier see both columns. fc6 has fewer outputs
    than inputs, so it exchanges those.
    """
    found = [(one.layer, one.kind, one.axis, one.direction, one.bytes) for one in exchanges(1, 2)]
    maps = ROWS * 3 * 3 * 6 * 4  # conv2's, of the other column, in bytes
    units = ROWS * 6 * 4  # fc6's
    assert Counter(found) == Counter(
        [
            ("conv3", "all_gather", "column", "forward", maps),
            ("fc6", "reduce_scatter", "column", "forward", units),
            ("fc7", "all_gather", "column", "forward", units),
            ("logits", "all_reduce", "column", "forward", ROWS * 10 * 4),
            ("fc7", "reduce_scatter", "column", "backward", units),
            ("fc6", "all_gather", "column", "backward", units),
            ("conv3", "reduce_scatter", "column", "backward", maps),
        ]
    )


@pytest.mark.parametrize("added", [(), ("conv4",)])
def test_the_papers_net(added: tuple[str, ...]) -> None:
    """Catches an exchange at conv1, conv2, conv4 or conv5, and a table blind to one there."""
    config = config_module()["get_config"]()
    config.model.classes = 1000
    for name in added:
        config.model.layers[name].sees = "both"
    meet = {one.layer for one in exchanges(1, 2, config) if one.axis == "column"}
    assert meet == {"conv3", *added, "fc6", "fc7", "logits"}


def test_gradients_are_added_up_over_data_alone() -> None:
    """Catches gradients that are shared between columns, or not between the data's devices."""
    over_data = [one for one in exchanges(2, 2) if one.axis == "data"]
    assert {one.kind for one in over_data} == {"all_reduce"}
    parameters = Counter(one.layer for one in over_data if one.direction == "backward")
    assert parameters == dict.fromkeys(small_config().model.layers, 2)  # kernel and bias
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
    config.model.layers.conv2.sees = "both"
    found = {(one.layer, one.kind, one.direction) for one in exchanges(1, 2, config)}
    assert ("conv2", "all_gather", "forward") in found
    assert ("conv2", "reduce_scatter", "backward") in found


def test_lrn_across_columns_exchanges_its_boundary() -> None:
    """Catches whole columns sent where two maps of each end do, or an exchange without a layer."""
    config = small_config()
    config.model.lrn.update(size=5, across_columns=True)
    config.model.layers.conv2.after = ("relu", "pool")
    found = [(one.layer, one.kind, one.bytes) for one in exchanges(1, 2, config)]
    ends = ROWS * 12 * 12 * (2 + 2) * 4  # of conv1's maps, in bytes
    assert found[0] == ("conv1", "all_gather", ends)
    assert [one for one in found if one[0] == "conv1"][1:] == [("conv1", "reduce_scatter", ends)]


def test_the_compiler_adds_nothing_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an exchange in the update, which the lowered program does not show.

    Gradients divided by their norm: the compiler adds an all-reduce over both columns by itself.
    """
    rule = train.make_optimizer

    def by_norm(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
        inner = rule(config)

        def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
            norm = 1 + optax.tree.norm(grads)
            return inner.update(jax.tree.map(lambda g: g / norm, grads), state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    monkeypatch.setattr(train, "make_optimizer", by_norm)
    config = small_config()
    config.parallel.data = config.parallel.columns = 2
    mesh = parallel.make_mesh(config)
    lowered = lower_train_step(config, mesh)
    with pytest.raises(ValueError, match=r"the compiler adds an all-reduce for jit\(train_step\)"):
        confirm(collectives(lowered, config, mesh), lowered.compile(), mesh)


@pytest.mark.parametrize(
    ("data", "scheme"), [(1, "columns"), (2, "columns"), (1, "one_weird_trick")]
)
def test_the_compiled_program_agrees(data: int, scheme: str) -> None:
    """Catches a table of exchanges that the compiler drops, or of the wrong groups."""
    config = small_config()
    config.parallel.update(data=data, columns=2, scheme=scheme)
    mesh = parallel.make_mesh(config)
    lowered = lower_train_step(config, mesh)
    found = collectives(lowered, config, mesh)
    compiled = lowered.compile()
    confirm(found, compiled, mesh)
    with pytest.raises(ValueError, match="reduce_scatter"):
        confirm([one for one in found if one.kind != "reduce_scatter"], compiled, mesh)
    with pytest.raises(ValueError, match="all_gather"):
        confirm([one for one in found if (one.layer, one.direction) != ("fc7", "forward")],
                compiled, mesh)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ],
)
def test_groups_as_hlo_writes_them(text: str, groups: list[list[int]]) -> None:
    """Catches an iota read without its transposition."""
    np.testing.assert_array_equal(parse_groups(text), groups)


def test_cross_columns_is_silent_where_all_columns_are() -> None:
    """Catches a collective on one device, where no axis exists."""
    here = [jax.numpy.ones((2, 3)), jax.numpy.zeros((2, 3))]
    placed = columns.cross_columns(here, columns.Placement(2, None))
    np.testing.assert_array_equal(placed, np.concatenate(here, axis=-1))
