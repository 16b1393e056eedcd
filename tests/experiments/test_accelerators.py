"""What accelerators are given, seen without one: the paper's step, lowered for CUDA and TPU."""

import re
from collections import Counter
from collections.abc import Iterator
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
from experiments.benchmark import accelerator_benchmark
from experiments.benchmark.accelerator_benchmark import (
    format_step_result,
    measure_step,
    peak_tflops_of,
    step_flops,
)

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
    values = (*operation.operands, *operation.results)
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
    """Catches a layer or its gradient in float32, and a form made for CPUs on an accelerator:
    more or fewer convolutions and products than the layers have."""
    found = list(operations(lowered[platform]))
    columns = 2 // mesh[1]
    convolutions, products = named(found, "convolution"), named(found, "dot_general")
    assert len(convolutions) == 3 * CONVOLUTIONS[columns] - 1
    assert len(products) == 3 * (2 + columns)  # fc6 and fc7 multiply all columns together
    assert {kind for one in (*convolutions, *products) for kind in types(one)} == {"bf16"}


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


def test_operations_are_counted_as_the_formula_says() -> None:
    """Catches multiply-adds counted once, or a gradient for the images."""
    conv1 = 55 * 55 * 34_848  # pixels of its output × weights, and so on
    convolutions = conv1 + 27 * 27 * 307_200 + 13 * 13 * (884_736 + 663_552 + 442_368)
    dense = 37_748_736 + 16_777_216 + 4_096_000
    assert step_flops(paper(1, 1)) == 6 * (convolutions + dense) - 2 * conv1


def test_peaks() -> None:
    """Catches a peak "with sparsity", one of another card, and float32 taken for bfloat16."""
    assert peak_tflops_of("NVIDIA H100 80GB HBM3", "bfloat16") == 989
    assert peak_tflops_of("NVIDIA H100 PCIe", "bfloat16") == 756
    assert peak_tflops_of("NVIDIA A100-SXM4-80GB", "float32") == 156
    assert peak_tflops_of("TPU v5 lite", "bfloat16") == 197
    assert peak_tflops_of("TPU v5", "bfloat16") == 459
    assert peak_tflops_of("cpu", "float32") is None


def test_the_benchmark_counts_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rate per device, a peak of one device for two, and steps counted as one."""
    monkeypatch.setattr(accelerator_benchmark, "STEPS", 2)
    config = small_config()
    config.parallel.columns = 2
    result = {"name": "accelerator_step/float32/2", **measure_step(config, 1, peak_tflops=0.5)}
    rate = config.batch_size / result["seconds"]
    assert result["images_per_second"] == rate
    assert result["tflops"] == pytest.approx(rate * step_flops(config) / 1e12)
    assert result["peak_tflops"] == 1
    assert result["share_of_peak"] == pytest.approx(result["tflops"])
    assert "2 × cpu, batch 8" in format_step_result(result)
    assert f"({result['share_of_peak']:.1%} of 1)" in format_step_result(result)
