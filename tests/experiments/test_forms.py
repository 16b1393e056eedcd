"""The forms of ops against XLA's plain ones and in programs for a platform; all run on a CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from alexnet_jax import sharding
from alexnet_jax.analysis.collectives import abstract_train_step
from alexnet_jax.config import sequential_model
from alexnet_jax.layers.conv import LAYOUT
from alexnet_jax.layers.forms import PlatformForms
from configs.alexnet import get_config
from experiments.benchmark.accelerator import forms
from experiments.benchmark.accelerator.cases import CASES

Options = dict[str, Any]

RNG = np.random.default_rng(0)
NAMES = [(op, name) for op, named in forms.FORMS.items() for name in named]


def of_op(op: str) -> list[str]:
    """The names of the forms of an op."""
    return [*forms.FORMS[op]]


def compute(form: Callable[..., Any], *operands: Any) -> list[np.ndarray]:
    """The value of a form in float64 and its gradients, for cotangents that are whole numbers."""

    @jax.jit
    def results(*operands: Any) -> Any:
        value, pull_back = jax.vjp(form, *operands)
        cotangents = jax.tree.map(
            lambda y: (jnp.arange(y.size, dtype=y.dtype) % 7 - 3).reshape(y.shape), value
        )
        return value, pull_back(cotangents)

    with jax.enable_x64(True):
        return [np.asarray(leaf) for leaf in jax.tree.leaves(results(*operands))]


def check(form: Callable[..., Any], plain: Callable[..., Any], *operands: Any) -> None:
    """Compare values and gradients; sums in another order differ in float64's last digits."""
    found, expected = (compute(one, *operands) for one in (form, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-11)


def convolve(x: Any, kernel: Any, *, stride: int, padding: tuple[int, int], groups: int = 1) -> Any:
    """XLA's convolution, which JAX differentiates."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [(23, 11, 4, (0, 3)), (14, 7, 2, (3, 3)), (9, 3, 1, (1, 1)), (12, 5, 3, (2, 2))],
)
@pytest.mark.parametrize("name", of_op("conv1"))
def test_convolutions_of_images(
    name: str, side: int, size: int, stride: int, padding: tuple[int, int]
) -> None:
    """Catches: a form that computes another convolution or gradient: blocks cut off, channels in
    another order, padding at the wrong end."""
    options: Options = dict(stride=stride, padding=padding)
    x, kernel = RNG.normal(size=(2, side, side, 3)), RNG.normal(size=(size, size, 3, 4))
    form = partial(forms.FORMS["conv1"][name], **options)
    check(form, partial(convolve, **options), x, kernel)


@pytest.mark.parametrize("name", of_op("grouped_conv"))
def test_grouped_convolutions(name: str) -> None:
    """Catches: columns exchanged, or a column's kernels applied to the other one."""
    options: Options = dict(stride=1, padding=(2, 2))
    inputs = [RNG.normal(size=(2, 7, 7, 3)) for _ in range(2)]
    kernel = RNG.normal(size=(2, 5, 5, 3, 4))

    def plain(inputs: Any, kernel: Any) -> Any:
        return [convolve(x, k, **options) for x, k in zip(inputs, kernel, strict=True)]

    check(partial(forms.FORMS["grouped_conv"][name], **options), plain, inputs, kernel)


@pytest.mark.parametrize("name", of_op("kernel_gradient"))
def test_gradients_of_kernels(name: str) -> None:
    """Catches: a gradient of another stride, or with another padding."""
    options: Options = dict(stride=2, padding=(0, 1))
    x, kernel = RNG.normal(size=(3, 9, 9, 4)), RNG.normal(size=(3, 3, 4, 5))
    gradient = RNG.normal(size=(3, 4, 4, 5))
    with jax.enable_x64(True):
        found = forms.FORMS["kernel_gradient"][name](
            *map(jnp.asarray, (x, gradient, kernel)), **options
        )
        _, pull_back = jax.vjp(partial(convolve, x, **options), jnp.asarray(kernel))
        (expected,) = pull_back(jnp.asarray(gradient))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("name", of_op("lrn"))
def test_sums_of_normalization(name: str, axis: int) -> None:
    """Catches: a window that is shifted, too wide, along another axis, or not cut off at the ends.
    The oracle is a direct loop; the gradient of a sum over windows is the same sum."""
    x = RNG.normal(size=(2, 6, 5, 9))
    with jax.enable_x64(True):
        found = forms.FORMS["lrn"][name](jnp.asarray(x), axis=axis, size=5)
    rows = np.moveaxis(x, axis, 0)
    sums = [rows[max(0, i - 2) : i + 3].sum(axis=0) for i in range(len(rows))]
    np.testing.assert_allclose(found, np.moveaxis(np.array(sums), 0, axis), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(13, 8, 3, 2), (6, 7, 2, 2), (5, 9, 3, 1), (6, 5, 4, 3), (4, 4, 4, 4)],
)
@pytest.mark.parametrize("name", of_op("max_pool"))
def test_max_pooling(name: str, height: int, width: int, window: int, stride: int) -> None:
    """Catches: ties given to another maximum than the first, height for width, a window too few
    where the last one overhangs, and gradients off by one pixel. Inputs are full of ties."""
    x = np.round(RNG.normal(size=(2, height, width, 3)))
    options: Options = dict(window=window, stride=stride)
    plain = partial(forms.pool_by_reduce_window, **options)
    check(partial(forms.FORMS["max_pool"][name], **options), plain, x)


def test_forms_are_complete() -> None:
    """Catches: a form of the layers that is not among those compared and timed, and a candidate
    without a case of the whole step, or a case of what is used in any case."""
    own = set()
    for op, layer in forms.CHOICES.items():
        assert layer.accelerator is next(iter(forms.FORMS[op].values()))
        assert layer.cpu in forms.FORMS[op].values()
        own.add(f"{op}={of_op(op)[0]}")
    timed = [case.form for case in CASES if case.form]
    assert {*timed, *own} == {f"{op}={name}" for op, name in NAMES}
    assert len(timed) + len(own) == len(NAMES)


def trace_step(choice: str) -> str:
    """The step of the paper's first layers with a form, as text."""
    config = get_config()
    kept = ("conv1", "relu1", "norm1", "pool1", "conv2", "fc8")
    sequential_model(config).ops = {name: sequential_model(config).ops[name] for name in kept}
    config.model.num_classes, config.batch_size = 10, 8
    with forms.use_form(choice):
        step, arguments = abstract_train_step(config, sharding.make_mesh(config.parallel))
        return str(step.trace(*arguments).jaxpr)


def test_forms_in_the_step() -> None:
    """Catches: a choice that changes nothing, or is not taken back; a form that no step can have,
    as one whose gradients are not summed over devices."""
    texts = {choice: trace_step(choice) for choice in ["", *(c.form for c in CASES if c.form)]}
    assert len({*texts.values()}) == len(texts)
    assert trace_step("") == texts[""]


@pytest.mark.parametrize(("platform", "expected"), [("cpu", "sine"), ("cuda", "cosine")])
def test_the_form_is_the_platforms(platform: str, expected: str) -> None:
    """Catches: the forms exchanged, or both in a program. (Tests of layers look at TPUs.)"""
    choice = PlatformForms(cpu=jnp.sin, accelerator=jnp.cos)
    text = export.export(jax.jit(choice), platforms=[platform])(jnp.ones(3)).mlir_module()
    assert [word for word in ("sine", "cosine") if f"stablehlo.{word} " in text] == [expected]


def test_the_choice_leaves_nothing_in_the_compiled_program() -> None:
    """Catches: a choice that is made again at every step, or keeps arrays of the other form."""
    layer = forms.CHOICES["max_pool"]
    assert layer.cpu is not layer.accelerator
    sizes = []
    for form in (layer, layer.cpu):
        step = jax.jit(jax.grad(lambda x, form=form: form(x, window=3, stride=2).sum()))
        compiled = step.lower(jnp.ones((2, 9, 9, 8))).compile()
        assert "conditional" not in (compiled.as_text() or "conditional")
        memory = compiled.memory_analysis()
        assert memory is not None
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[0] == sizes[1]
