"""The same training on 1×1, 1×2, 2×1 and 2×2 devices."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_reference import conv_op, dense_op, random_params, small_config
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import sharding
from alexnet_jax.config import Config, ParallelConfig, sequential_model, validated
from alexnet_jax.data.batch import Batch
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Dropout
from alexnet_jax.train_step import TrainState, abstract_state, make_state, make_train_step

pytestmark = pytest.mark.usefixtures("quick_to_compile")

LAYOUTS = [(1, 1), (1, 2), (2, 1), (2, 2)]
WEIRD = [(1, 2), (2, 2)]  # "one weird trick" differs where there are columns to share
STEPS, IMAGES = 4, 16  # two epochs


class Run(NamedTuple):
    """A training, and what its compiled step did."""

    losses: list[float]
    params: dict[str, dict[str, jax.Array]]
    compilations: int
    shards: dict[str, set[tuple[int, ...]]]


def config(data: int, columns: int, scheme: str = "columns") -> Config:
    """Return a config with dropout, light, a rate that drops, and an odd number of classes."""
    config = small_config()
    config.model.num_classes = 7
    config.learning_rate = 0.02
    config.schedule.drop_epochs = (2,)
    config.parallel = ParallelConfig(columns=columns, data=data, scheme=scheme)
    return config


def host_batch(step: int) -> Batch:
    rng = np.random.default_rng(step)
    return Batch(
        image=rng.integers(0, 256, (8, 24, 24, 1), np.uint8),
        label=rng.integers(0, 7, 8).astype(np.int32),
        offset=rng.integers(0, 5, (8, 2)).astype(np.int32),
        flip=rng.integers(0, 2, 8).astype(bool),
        shift=rng.normal(0, 20, (8, 1)).astype(np.float32),
        gain=rng.uniform(0.5, 1, 8).astype(np.float32),
        example=np.arange(8 * step, 8 * step + 8, dtype=np.uint32),
        mask=np.ones(8, bool),
    )


def start(config: Config, mesh: jax.sharding.Mesh) -> tuple[TrainState, jax.Array]:
    """Return the first state and the mean image, where the trainer puts them."""
    params = jax.tree.map(jnp.float32, random_params(config))
    mean = np.random.default_rng(9).uniform(100, 150, (28, 28, 1)).astype(np.float32)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    state = jax.device_put(make_state(config, {"params": params}), places)
    return state, jax.device_put(mean, NamedSharding(mesh, P()))


@cache
def run(data: int, columns: int, scheme: str = "columns", rule: str = "epochs") -> Run:
    chosen = config(data, columns, scheme)
    chosen.schedule.rule = rule
    mesh = sharding.make_mesh(chosen.parallel)
    step: Any = make_train_step(chosen, mesh, IMAGES)
    state, mean = start(chosen, mesh)
    places = sharding.batch_sharding(chosen, mesh)
    losses = []
    for number in range(STEPS):
        batch = sharding.shard_batch(host_batch(number), places)
        # Compiling moves the program's constants to the device: the first step may.
        with jax.transfer_guard("disallow" if number else "allow"):
            state, metrics = step(state, mean, batch)
        losses.append(float(metrics.sums.loss) / float(metrics.sums.count))
        if number == 1 and state.schedule_state is not None:  # as after a validation
            seen = state.schedule_state.observe(0.5, patience=3)
            seen = jax.device_put(seen, sharding.replicated(mesh))
            state = state.replace(schedule_state=seen)
    shards = {
        f"{name}/{part}": {shard.data.shape for shard in array.addressable_shards}
        for name, layer in state.params.items()
        for part, array in layer.items()
    }
    return Run(losses, jax.device_get(state.params), step._cache_size(), shards)


@pytest.mark.parametrize(
    ("data", "columns", "scheme"),
    [
        *((*layout, "columns") for layout in LAYOUTS[1:]),
        *((*layout, "one_weird_trick") for layout in WEIRD),
    ],
)
def test_layouts_agree(data: int, columns: int, scheme: str) -> None:
    """Catches masks that differ by device, half a gradient, a psum too many, swapped columns.

    Float32 sums are taken in another order on each layout: 6e-8 of each, and more after a few
    steps. Parameters may differ by their last digit and 1e-5 of what training moved them
    (seen: 2e-6, and nothing between 1×1 and 1×2).
    """
    one, other = run(1, 1), run(data, columns, scheme)
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-6)
    before = random_params(config(1, 1))
    for name, layer in one.params.items():
        for part, expected in layer.items():
            moved = np.abs(expected - before[name][part]).max()
            assert moved > 1e-4
            got = other.params[name][part]
            np.testing.assert_allclose(got, expected, rtol=1.2e-7, atol=1e-5 * moved)


def test_lrn_across_columns_agrees_between_layouts() -> None:
    """Catches neighbors taken from the wrong side or device, and gradients that do not return.

    Four columns, so that inner devices have neighbors on both sides. Float32: as above.
    """
    results = []
    for devices in (1, 2, 4):
        chosen = config(1, devices)
        model = sequential_model(chosen)
        model.num_columns = 4
        conv_op(chosen, "conv2").groups = 4
        for name in ("conv3", "relu3", "fc7", "relu7", "drop7"):  # these have no normalization
            del model.ops[name]
        for op in model.ops.values():
            if isinstance(op, LRN):
                op.size, op.across_columns = 5, True
            elif isinstance(op, Dropout):
                op.inverted = True
        dense_op(chosen, "fc6").features = 16
        mesh = sharding.make_mesh(chosen.parallel)
        state, mean = start(chosen, mesh)
        batch = sharding.shard_batch(host_batch(0), sharding.batch_sharding(chosen, mesh))
        state, metrics = make_train_step(chosen, mesh, IMAGES)(state, mean, batch)
        results.append((float(metrics.sums.loss), jax.device_get(state.params)))
    (loss, one), *others = results
    before = random_params(chosen)
    for other_loss, other in others:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        for name, layer in one.items():
            moved = np.abs(layer["kernel"] - before[name]["kernel"]).max()
            got = other[name]["kernel"]
            np.testing.assert_allclose(got, layer["kernel"], rtol=1.2e-7, atol=1e-5 * moved)


@pytest.mark.parametrize(
    ("data", "columns", "rule"), [*((*layout, "epochs") for layout in LAYOUTS), (2, 2, "plateau")]
)
def test_compiled_once(data: int, columns: int, rule: str) -> None:
    """Catches a state that comes out of a step, or of a validation, laid out otherwise."""
    assert run(data, columns, rule=rule).compilations == 1


@pytest.mark.parametrize(("data", "columns"), LAYOUTS)
def test_parameters_are_split(data: int, columns: int) -> None:
    """Catches columns that every device holds: the same numbers, at twice the memory."""
    params, shards = run(data, columns).params, run(data, columns).shards
    for name, layer in params.items():
        for part, array in layer.items():
            held, *shape = array.shape
            per_device = held if (name, part) == ("fc8", "bias") else held // columns
            assert shards[f"{name}/{part}"] == {(per_device, *shape)}
    assert params["fc8"]["kernel"].shape == (2, 12 // 2, 7)


@pytest.mark.parametrize(("data", "columns"), WEIRD)
def test_one_weird_trick_splits_the_dense_layers_alone(data: int, columns: int) -> None:
    """Catches convolutions that hold one column, dense layers that hold both, recompilation."""
    chosen = run(data, columns, "one_weird_trick")
    assert chosen.compilations == 1
    for name, shapes in chosen.shards.items():
        layer, part = name.split("/")
        held, *shape = chosen.params[layer][part].shape
        split = layer.startswith("fc") and name != "fc8/bias"
        assert shapes == {(held // columns if split else held, *shape)}


def test_transfer_guard_works_here() -> None:
    """Catches a guard that sees nothing on this platform, so that `run` would prove nothing."""
    square = jax.jit(lambda x: x * x)
    square(np.ones(3, np.float32))
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(Exception, match="Disallowed host-to-device transfer"),
    ):
        square(np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        (0, 1, r"parallel\.data=0"),
        (1, 3, r"parallel\.columns=3 devices cannot share model\.num_columns=2"),
        (3, 1, r"batch_size=8 is not a multiple of parallel\.data=3"),
    ],
)
def test_impossible_meshes(data: int, columns: int, message: str) -> None:
    """Catches a traceback of JAX's in place of the field that is to be changed."""
    with pytest.raises(InputError, match=message):
        validated(config(data, columns))


def test_more_devices_than_there_are() -> None:
    """Catches a traceback of JAX's in place of the way to simulate devices."""
    chosen = validated(config(4, 2))
    with pytest.raises(InputError, match=r"needs 8 devices; this machine has 4 .*device_count=8"):
        sharding.make_mesh(chosen.parallel)


def test_one_weird_trick_shares_the_batch_further() -> None:
    """Catches a batch that the columns' devices cannot share, and a scheme with a typo."""
    chosen = config(2, 2, "one_weird_trick")
    chosen.batch_size = 6
    with pytest.raises(InputError, match=r"not a multiple of parallel\.data=2 × parallel\.col"):
        validated(chosen)
    with pytest.raises(InputError, match=r"parallel\.scheme=weird; expected .*columns, one_"):
        validated(config(1, 2, "weird"))
