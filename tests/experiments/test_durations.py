"""Durations on the command line."""

import pytest

from alexnet_jax.errors import InputError
from experiments.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("8m", 480), ("90", 90), ("90s", 90), ("1.5h", 5400), ("0.5m", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    """Catches: a unit taken for another."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "8 m", "-3s", "0", "8min", "1e3"])
def test_wrong_durations(text: str) -> None:
    """Catches: a budget of nothing, or a traceback."""
    with pytest.raises(InputError, match="is no duration; expected one such as"):
        parse_duration(text)
