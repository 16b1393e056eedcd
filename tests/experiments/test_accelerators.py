"""What accelerators are given, seen without one: the paper's step, lowered for CUDA and TPU."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_reference import small_config
from jax import export

from alexnet_jax import sharding
from alexnet_jax.analysis.collectives import abstract_train_step
from alexnet_jax.config import Config, ParallelConfig
from configs.alexnet import get_config

MESHES = [(1, 1), (1, 2), (2, 2)]  # data × column
PLATFORMS = ["cuda", "tpu"]
# By the columns of a device, forward; conv1 and conv3, whose columns see the same, are one. As many
# again for the kernels' gradients, and all but conv1 for the inputs'.
CONVOLUTIONS = {1: 5, 2: 8}


def paper(data: int, column: int, dtype: str = "bfloat16") -> Config:
    """The paper's config, its layers at their size, with few images."""
    config = get_config()
    config.model.num_classes, config.batch_size, config.compute_dtype = 1000, 4, dtype
    config.parallel = ParallelConfig(columns=column, data=data)
    return config


def operations(parent: Any) -> Iterator[Any]:
    """Every operation inside an MLIR operation."""
    for region in parent.regions:
        for block in region:
            for inner in block:
                yield inner.operation
                yield from operations(inner.operation)


def named(found: list[Any], name: str) -> list[Any]:
    return [one for one in found if one.name == f"stablehlo.{name}"]


def types(operation: Any) -> set[str]:
    """Element types of the operands and results."""
    return element_types((*operation.operands, *operation.results))


def element_types(values: Iterable[Any]) -> set[str]:
    return {str(value.type.element_type) for value in values}


def scope(operation: Any) -> str:
    """The named scopes in which JAX wrote it: jit(train_step)/…/conv1/…"""
    return str(operation.location).split('"')[1]


@pytest.fixture(scope="module", params=MESHES, ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
def mesh(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(scope="module")
def step(mesh: tuple[int, int]) -> tuple[Any, tuple[Any, ...]]:
    """The jitted step in bfloat16, and the shapes of what it takes."""
    config = paper(*mesh)
    return abstract_train_step(config, sharding.make_mesh(config.parallel))


@pytest.fixture(scope="module")
def lowered(step: Any) -> dict[str, Any]:
    """Its StableHLO for each platform."""
    jitted, arguments = step
    traced = jitted.trace(*arguments)
    modules = {p: traced.lower(lowering_platforms=(p,)).compiler_ir() for p in PLATFORMS}
    return {platform: module.operation for platform, module in modules.items()}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_step_can_be_exported(step: Any, mesh: tuple[int, int], platform: str) -> None:
    """Catches an operation that only the CPU has, or that lives in this process alone."""
    jitted, arguments = step
    exported = export.export(jitted, platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
    assert exported.nr_devices == mesh[0] * mesh[1]
    assert exported.mlir_module_serialized


@pytest.mark.parametrize("platform", PLATFORMS)
def test_products_are_plain_and_in_bfloat16(
    lowered: dict[str, Any], mesh: tuple[int, int], platform: str
) -> None:
    """Catches a layer or its gradient in float32, factors of two types, logits rounded to bfloat16,
    and a form made for CPUs on an accelerator: more or fewer convolutions and products than the
    layers have."""
    found = list(operations(lowered[platform]))
    columns = 2 // mesh[1]
    convolutions, products = named(found, "convolution"), named(found, "dot_general")
    assert len(convolutions) == 3 * CONVOLUTIONS[columns] - 1
    assert len(products) == 3 * (2 + columns)  # fc6 and fc7 multiply all columns together
    factors = (operand for one in (*convolutions, *products) for operand in one.operands)
    assert element_types(factors) == {"bf16"}
    assert {kind for one in convolutions for kind in types(one)} == {"bf16"}
    wide = [scope(one) for one in products if element_types(one.results) != {"bf16"}]
    assert len(wide) == columns  # the logits' own, once forward for each column
    assert all("/fc8/" in place and "transpose" not in place for place in wide)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_normalization_and_softmax_are_float32(
    lowered: dict[str, Any], mesh: tuple[int, int], platform: str
) -> None:
    """Catches sums of squares, roots, exponentials or logarithms in bfloat16.

    Everything from which a root is taken is looked at, back to where it came from bfloat16.
    """
    found = list(operations(lowered[platform]))
    for name in ("exponential", "log"):
        assert {kind for one in named(found, name) for kind in types(one)} == {"f32"}
    roots = named(found, "rsqrt")
    assert len(roots) == 2 * 2 * (2 // mesh[1])  # two layers, forward and backward
    for root in roots:
        kinds, widened = upstream(root)
        assert kinds - {"i32"} == {"f32"}  # integers: what `pad` fills up with
        assert widened


def upstream(operation: Any) -> tuple[set[str], bool]:
    """The types of all that an operation is computed from, as far as the next conversion; and
    whether there is one from bfloat16."""
    kinds, widened, queue, seen = set(types(operation)), False, [operation], set()
    while queue:
        for operand in queue.pop().operands:
            owner = operand.owner
            if operand in seen or not hasattr(owner, "operands"):  # an argument of the function
                continue
            seen.add(operand)
            if owner.name == "stablehlo.convert":
                widened |= types(owner) == {"bf16", "f32"}
                continue
            kinds |= types(owner)
            queue.append(owner)
    return kinds, widened


@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_is_transposed_between_convolutions(
    lowered: dict[str, Any], mesh: tuple[int, int], platform: str
) -> None:
    """Catches a layout that is turned around and back on the way through the layers.

    JAX itself transposes the gradients of matrix products' kernels, one each, and nothing else.
    """
    transposed = named(list(operations(lowered[platform])), "transpose")
    places = Counter(part for one in transposed for part in re.findall(r"/(\w+\d)/", scope(one)))
    assert places == {"fc6": 1, "fc7": 1, "fc8": 2 // mesh[1]}
    assert len(transposed) == sum(places.values())
    assert all("transpose(jvp" in scope(one) for one in transposed)  # on the way back


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_state_is_float32_and_its_buffers_are_given_away(
    lowered: dict[str, Any], step: Any, platform: str
) -> None:
    """Catches a state in bfloat16, and one that is kept beside the new one."""
    state = step[1][0]
    main = next(one for one in operations(lowered[platform]) if one.name == "func.func")
    donated = [
        "tf.aliasing_output" in attributes or "jax.buffer_donor" in attributes
        for attributes in main.attributes["arg_attrs"]
    ]
    leaves = len(jax.tree.leaves(state))
    assert donated == [True] * leaves + [False] * (len(donated) - leaves)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds == {np.dtype("float32")}


def test_the_new_state_lies_where_the_old_one_was() -> None:
    """Catches donation that the compiler cannot use, as where types or layouts differ."""
    config = small_config()
    jitted, (shapes, *others) = abstract_train_step(config, sharding.make_mesh(config.parallel))
    # Made by JAX: what lies in NumPy's memory is not its to give away.
    state = jax.jit(lambda: jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes))()
    mean, batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), others)
    before = addresses(state)
    new, _ = jitted(state, mean, batch)
    assert addresses(new) == before
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def addresses(state: Any) -> list[int]:
    arrays = jax.tree.leaves((state.params, state.opt_state))
    return [array.unsafe_buffer_pointer() for array in arrays]
