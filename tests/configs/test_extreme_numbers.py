"""Extreme numbers in every numeric field of a config: accepted, or one message with the field."""

import re

import jax
import jax.numpy as jnp
import pytest
from helpers.in_process import run_config_here

from alexnet_jax import command, fields, run_config
from alexnet_jax.config import config_to_json, with_changes
from alexnet_jax.schedules import PlateauState, learning_rate, learning_rates
from configs.alexnet import get_config

SAMPLE = "--config=configs/alexnet.py:sample"
VALUES = (str(10**30), str(-(10**30)), "1e400", "-1e400", "nan", "inf", "7" * 5000)
# Fields whose default is an empty tuple, or a tuple in which a number has a certain place.
TUPLES = {
    "init_layers": None,  # text only
    "data.given_mean": "({},)",
    "schedule.multipliers": "(('conv1/.*', {}, 1.0),)",
    "optimizer.decay_multipliers": "(('conv1/.*', {}),)",
}


def numeric_fields() -> dict[str, str]:
    """Return a pattern for the value of every field of numbers, by the path of the field."""
    found: dict[str, str | None] = {}
    for path, value in fields.leaves(config_to_json(get_config("sample"))):
        if isinstance(value, list):
            numbers = ["{}", *map(str, value[1:])]
            found[path] = TUPLES.get(path, f"({', '.join(numbers)},)")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = "{}"
    return {path: pattern for path, pattern in found.items() if pattern}


def check() -> None:
    """Check a config as far as is possible without data."""
    run_config.check_devices_and_patterns(command.validated_config())


@pytest.mark.parametrize(("path", "pattern"), numeric_fields().items())
def test_extreme_numbers(path: str, pattern: str) -> None:
    """Catches: a number that overflows in a check or in a message; a message that does not name
    the field."""
    for value in VALUES:
        ended = run_config_here(check, SAMPLE, f"--config.{path}={pattern.format(value)}")
        assert ended.returncode in (0, 2)
        if ended.returncode:
            assert re.search(rf"\b{re.escape(path)}\b", ended.stderr[:300]), ended.stderr[:500]
            assert ended.stderr.count("\n") == 1, ended.stderr[:500]
        assert not (ended.returncode == 0 and value in VALUES[2:]), f"{path}={value[:9]} is taken"


@pytest.mark.parametrize("epoch", [1e30, 1e300])
def test_epochs_far_away(epoch: float) -> None:
    """Catches: the step of an epoch that overflows the type of the step in the compiled program."""
    changes = {
        "schedule.drop_epochs": (1.0, epoch),
        "schedule.multipliers": (("a", epoch, 7.0),),
    }
    config = with_changes(get_config("sample"), changes)

    @jax.jit
    def rates(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        rate = learning_rate(config, 1000, step, None)
        return rate, learning_rates(config, 1000, step, rate, {"a": 0})["a"]

    for step in (0, 5000):
        for rate in rates(jnp.int32(step)):
            assert float(rate) == pytest.approx(config.learning_rate * config.schedule.factor)


@pytest.mark.parametrize("drops", [2**31, 2**63 - 1])
def test_more_drops_than_a_step_can_count(drops: int) -> None:
    """Catches: a limit that overflows the type of the number of drops."""
    config = with_changes(
        get_config("sample"), {"schedule.rule": "plateau", "schedule.drops": drops}
    )
    state = PlateauState(jnp.int32(2), jnp.float32(0.5), jnp.int32(0))
    rate = jax.jit(lambda step: learning_rate(config, 1000, step, state))(jnp.int32(3))
    assert float(rate) == pytest.approx(config.learning_rate * config.schedule.factor**2)


@pytest.mark.parametrize("steps", [2**31, 2**63 - 1])
def test_more_steps_of_warmup_than_a_run_has(steps: int) -> None:
    """Catches: a number of steps that overflows the type of the step."""
    config = with_changes(get_config("sample"), {"schedule.warmup_steps": steps})
    rate = jax.jit(lambda step: learning_rate(config, 1000, step, None))(jnp.int32(3))
    assert float(rate) == pytest.approx(config.learning_rate * config.schedule.warmup_factor)
