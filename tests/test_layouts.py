"""The same training on 1×1, 1×2, 2×1 and 2×2 devices."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from torch_twin import random_params, small_config

from alexnet_jax import parallel, train
from alexnet_jax.errors import InputError
from alexnet_jax.optimizer import Plateau, make_optimizer

LAYOUTS = [(1, 1), (1, 2), (2, 1), (2, 2)]
WEIRD = [(1, 2), (2, 2)]  # "one weird trick" differs where there are columns to share
STEPS, IMAGES = 4, 16  # two epochs


class Run(NamedTuple):
    """A training, and what its compiled step did."""

    losses: list[float]
    params: dict[str, dict[str, jax.Array]]
    compilations: int
    shards: dict[str, set[tuple[int, ...]]]


def config(data: int, columns: int, scheme: str = "columns") -> ConfigDict:
    """Dropout, light, a rate that drops, and an odd number of classes."""
    config = small_config()
    config.model.classes = 7
    config.learning_rate = 0.02
    config.schedule.drop_epochs = (2,)
    config.parallel.update(data=data, columns=columns, scheme=scheme)
    return config


def host_batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (8, 24, 24, 1), np.uint8),
        "label": rng.integers(0, 7, 8).astype(np.int32),
        "offset": rng.integers(0, 5, (8, 2)).astype(np.int32),
        "flip": rng.integers(0, 2, 8).astype(bool),
        "shift": rng.normal(0, 20, (8, 1)).astype(np.float32),
        "gain": rng.uniform(0.5, 1, 8).astype(np.float32),
        "example": np.arange(8 * step, 8 * step + 8, dtype=np.uint32),
    }


def start(config: ConfigDict, mesh: jax.sharding.Mesh) -> tuple[train.TrainState, jax.Array]:
    """The first state and the mean image, where the trainer puts them."""
    params = jax.tree.map(jnp.float32, random_params(config))
    velocity = make_optimizer(config).init(params)
    state = train.TrainState(jnp.int32(0), params, velocity, Plateau.start())
    mean = np.random.default_rng(9).uniform(100, 150, (28, 28, 1)).astype(np.float32)
    layout = parallel.shardings(state, mesh, parallel.whole_layers(config))
    state = jax.device_put(state, layout)
    return state, jax.device_put(mean, NamedSharding(mesh, P()))


@cache
def run(data: int, columns: int, scheme: str = "columns") -> Run:
    chosen = config(data, columns, scheme)
    mesh = parallel.make_mesh(chosen)
    step: Any = train.make_train_step(chosen, mesh, IMAGES)
    state, mean = start(chosen, mesh)
    sharding = parallel.batch_sharding(chosen, mesh)
    losses = []
    for number in range(STEPS):
        batch = parallel.shard_batch(host_batch(number), sharding)
        # Compiling moves the program's constants to the device: the first step may.
        with jax.transfer_guard("disallow" if number else "allow"):
            state, sums = step(state, mean, batch)
        losses.append(float(sums["loss"]) / float(sums["count"]))
        if number == 1:  # as after a validation
            plateau = state.plateau.observe(0.5, patience=3)
            plateau = jax.device_put(plateau, parallel.shardings(plateau, mesh))
            state = state.replace(plateau=plateau)
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
    """Catches neighbours taken from the wrong side or device, and gradients that do not return.

    Four columns, so that inner devices have neighbours on both sides. Float32: as above.
    """
    results = []
    for devices in (1, 2, 4):
        chosen = config(1, devices)
        chosen.model.columns = 4
        chosen.model.lrn.update(size=5, across_columns=True)
        chosen.model.inverted_dropout = True
        for layer in ("conv3", "fc7"):  # these have no normalisation
            del chosen.model.layers[layer]
        chosen.model.layers.fc6.features = 16
        mesh = parallel.make_mesh(chosen)
        state, mean = start(chosen, mesh)
        batch = parallel.shard_batch(host_batch(0), parallel.batch_sharding(chosen, mesh))
        state, sums = train.make_train_step(chosen, mesh, IMAGES)(state, mean, batch)
        results.append((float(sums["loss"]), jax.device_get(state.params)))
    (loss, one), *others = results
    before = random_params(chosen)
    for other_loss, other in others:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        for name, layer in one.items():
            moved = np.abs(layer["kernel"] - before[name]["kernel"]).max()
            got = other[name]["kernel"]
            np.testing.assert_allclose(got, layer["kernel"], rtol=1.2e-7, atol=1e-5 * moved)


@pytest.mark.parametrize(("data", "columns"), LAYOUTS)
def test_compiled_once(data: int, columns: int) -> None:
    """Catches a state that comes out of a step, or of a validation, laid out otherwise."""
    assert run(data, columns).compilations == 1


@pytest.mark.parametrize(("data", "columns"), LAYOUTS)
def test_parameters_are_split(data: int, columns: int) -> None:
    """Catches columns that every device holds: the same numbers, at twice the memory."""
    params, shards = run(data, columns).params, run(data, columns).shards
    for name, layer in params.items():
        for part, array in layer.items():
            held, *rest = array.shape
            here = held if (name, part) == ("fc8", "bias") else held // columns
            assert shards[f"{name}/{part}"] == {(here, *rest)}
    assert params["fc8"]["kernel"].shape == (2, 12 // 2, 7)


@pytest.mark.parametrize(("data", "columns"), WEIRD)
def test_one_weird_trick_splits_the_dense_layers_alone(data: int, columns: int) -> None:
    """Catches convolutions that hold one column, dense layers that hold both, recompilation."""
    chosen = run(data, columns, "one_weird_trick")
    assert chosen.compilations == 1
    for name, shapes in chosen.shards.items():
        layer, part = name.split("/")
        held, *rest = chosen.params[layer][part].shape
        split = layer.startswith("fc") and name != "fc8/bias"
        assert shapes == {(held // columns if split else held, *rest)}


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
        (4, 2, r"needs 8 devices; this machine has 4 .*device_count=8"),
        (0, 1, r"parallel\.data=0"),
        (1, 3, r"parallel\.columns=3 devices cannot share model\.columns=2"),
        (3, 1, r"batch_size=8 is not a multiple of parallel\.data=3"),
    ],
)
def test_impossible_meshes(data: int, columns: int, message: str) -> None:
    """Catches a traceback of JAX's in place of the field that is to be changed."""
    with pytest.raises(InputError, match=message):
        parallel.make_mesh(config(data, columns))


def test_one_weird_trick_shares_the_batch_further() -> None:
    """Catches a batch that the columns' devices cannot share, and a scheme with a typo."""
    chosen = config(2, 2, "one_weird_trick")
    chosen.batch_size = 6
    with pytest.raises(InputError, match=r"not a multiple of parallel\.data=2 × parallel\.col"):
        parallel.make_mesh(chosen)
    with pytest.raises(InputError, match=r"parallel\.scheme is 'weird'; expected columns or one_"):
        parallel.make_mesh(config(1, 2, "weird"))
