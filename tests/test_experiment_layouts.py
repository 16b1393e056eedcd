"""The table of layouts, on a small net and few devices."""

import pytest
from ml_collections import ConfigDict
from torch_twin import config_module

from experiments import layouts


def small_config() -> ConfigDict:
    """The sample's net with an eighth of its features."""
    config = config_module()["get_config"]("sample")
    config.model.classes = 10
    for layer in config.model.layers.values():
        layer.features //= 8
    return config


def test_computed_as_compiled() -> None:
    """Catches a formula of another program: on two devices both can be had."""
    base = small_config()
    weird = layouts.layout(base, layouts.WEIRD, 2, batch=4)
    assert weird is not None
    compiled, computed = layouts.compiled(weird, layouts.WEIRD), layouts.fully_split(base, 2, 4)
    assert computed.received == compiled.received
    assert computed.parameters == compiled.parameters
    assert (computed.computed, compiled.computed) == (True, False)


def test_who_holds_and_receives_what() -> None:
    """Catches schemes that are mixed up, and sizes of the whole where a device's are meant."""
    found = {}
    for scheme in ("data parallel", "columns", layouts.APART, "one column"):
        config = layouts.layout(small_config(), scheme, 2, batch=4)
        assert config is not None
        found[scheme] = layouts.compiled(config, scheme)
    whole = found["data parallel"]
    assert whole.mesh == (2, 1)
    assert found["columns"].mesh == (1, 2)
    biases = 4 * 10  # of the classifier, which both devices hold
    assert found["columns"].parameters == (whole.parameters - biases) // 2 + biases
    assert found["one column"].parameters < whole.parameters
    # Gradients go round twice, halves of them on two devices, and four numbers of the loss.
    assert whole.received == whole.parameters + 4 * 4
    # The logits' sums alone; the small net's other layers see their own column.
    assert found[layouts.APART].received == 8 * 10 * 4


def test_the_table_is_markdown_and_says_what_is_computed() -> None:
    """Catches a computed row that passes for a compiled one."""
    row = layouts.fully_split(small_config(), 4, 4)
    *_, line = layouts.table([row]).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["one weird trick, fully split", "4", "1 × 4"]
    assert (cells[5], cells[7]) == ("", "computed")


@pytest.mark.parametrize("scheme", ["columns", layouts.WEIRD])
def test_one_device_has_nothing_to_share(scheme: str) -> None:
    """Catches rows that repeat the plain net under another name."""
    assert layouts.layout(small_config(), scheme, 1, batch=4) is None
