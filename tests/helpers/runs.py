"""Read what a run has written so far, and compare states."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import sharding
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.train_step import abstract_state
from alexnet_jax.workdir import read_config


def newest_state(workdir: Path) -> tuple[int, Any]:
    """Return the step and the whole state of a run's newest checkpoint."""
    state = abstract_state(read_config(workdir), sharding.make_data_mesh(1))
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.steps()[-1]
        found = (
            checkpoints.variables(step, state.saved_variables()),
            checkpoints.train_state(step, state.saved_train_state()),
        )
    return step, jax.tree.map(np.asarray, found)


def assert_same_bits(found: Any, expected: Any) -> None:
    """Assert that the arrays of two trees are equal to the last bit."""
    equal = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), found, expected
    )
    assert all(jax.tree.leaves(equal)), equal


def last_recorded_step(workdir: Path) -> int:
    """Return the step of the last record in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0
    complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(complete[-1])["step"] if complete else 0
