"""The table of layouts, on a small model and few devices."""

import pytest

from alexnet_jax.config import Config, sequential_model
from alexnet_jax.models.ops import Conv, Dense
from configs.alexnet import get_config
from experiments import layouts

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def small_config() -> Config:
    """Return the sample's config with an eighth of its features."""
    config = get_config("sample")
    config.model.num_classes = 10
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.features //= 8
    return config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_computed_as_compiled(dtype: str) -> None:
    """Catches a formula of another program, and activations of another type: on two devices both
    can be had."""
    base = small_config()
    base.compute_dtype = dtype
    config = layouts.make_config(base, layouts.ONE_WEIRD_TRICK, 2, batch=4)
    assert config is not None
    compiled, computed = (
        layouts.measure_compiled(config, layouts.ONE_WEIRD_TRICK),
        layouts.compute_fully_split(base, 2, 4),
    )
    assert computed.received == compiled.received
    assert computed.parameters == compiled.parameters
    assert (computed.computed, compiled.computed) == (True, False)


def test_who_holds_and_receives_what() -> None:
    """Catches schemes that are mixed up, and sizes of the whole where a device's are meant."""
    found = {}
    for scheme in ("data parallel", "columns", layouts.NO_COMMUNICATION, "one column"):
        config = layouts.make_config(small_config(), scheme, 2, batch=4)
        assert config is not None
        found[scheme] = layouts.measure_compiled(config, scheme)
    data_parallel = found["data parallel"]
    assert data_parallel.mesh == (2, 1)
    assert found["columns"].mesh == (1, 2)
    biases = 4 * 10  # of the classifier, which both devices hold
    assert found["columns"].parameters == (data_parallel.parameters - biases) // 2 + biases
    assert found["one column"].parameters < data_parallel.parameters
    # Gradients go round twice, halves of them on two devices, and four numbers of the loss.
    assert data_parallel.received == data_parallel.parameters + 4 * 4
    # The logits' sums alone; the small model's other layers see their own column.
    assert found[layouts.NO_COMMUNICATION].received == 8 * 10 * 4


def test_the_table_is_markdown_and_says_what_is_computed() -> None:
    """Catches a computed row that passes for a compiled one."""
    row = layouts.compute_fully_split(small_config(), 4, 4)
    *_, line = layouts.format_costs([row]).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["one weird trick, fully split", "4", "1 × 4"]
    assert (cells[5], cells[7]) == ("", "computed")


@pytest.mark.parametrize("scheme", ["columns", layouts.ONE_WEIRD_TRICK])
def test_one_device_has_nothing_to_share(scheme: str) -> None:
    """Catches rows that repeat the plain model under another name."""
    assert layouts.make_config(small_config(), scheme, 1, batch=4) is None
