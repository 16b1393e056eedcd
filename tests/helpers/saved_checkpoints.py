"""Checkpoints of made-up content: save it, read it back, compare it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint import Checkpoints

Tree = dict[str, Any]
STEPS = (10, 20)
METADATA = {
    "config": {"seed": 3, "data": {"crop": 24, "mean": "image"}},
    "class_names": ["ant", "bee"],
}


def make_content(step: int) -> Tree:
    """Return what is saved at a step: other numbers for every step, in every type of a state."""
    draw = np.random.default_rng(step).normal
    return dict(
        variables={
            "params": {
                "conv1": {"kernel": jnp.asarray(draw(size=(2, 3, 5)), jnp.float32)},
                "fc8": {"bias": jnp.asarray(draw(size=7), jnp.float32)},
            },
        },
        train_state={
            "step": jnp.int32(step),
            "opt_state": {"conv1": jnp.asarray(draw(size=(2, 3, 5)), jnp.float32)},
            "schedule_state": {"best": jnp.float32(jnp.inf)},
        },
        mean=draw(size=(6, 6, 1)).astype(np.float32),
        metadata={**METADATA, "step": step},
    )


def save_content(checkpoints: Checkpoints, step: int) -> None:
    """Save the content of a step."""
    tree = make_content(step)
    checkpoints.save(step, tree["variables"], tree["train_state"], tree["mean"], tree["metadata"])


def make_reader(checkpoints: Checkpoints, place: Any = None) -> Callable[[int], Tree]:
    """Return a function that reads all of a step's checkpoint, to one device or to a sharding."""
    place = place or jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def read(step: int) -> Tree:
        expected = make_content(step)
        metadata = checkpoints.metadata(step)
        return dict(
            variables=checkpoints.variables(step, abstract(expected["variables"])),
            train_state=checkpoints.train_state(step, abstract(expected["train_state"])),
            mean=checkpoints.mean(step),
            metadata={name: metadata[name] for name in expected["metadata"]},
        )

    return read


def is_same(found: Tree, expected: Tree) -> bool:
    """Return whether two contents agree to the last bit."""
    if found["metadata"] != expected["metadata"]:
        return False
    names = ("variables", "train_state", "mean")
    one, other = ({name: tree[name] for name in names} for tree in (found, expected))
    equal = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other
    )
    return all(jax.tree.leaves(equal))


def read_newest(workdir: Path) -> tuple[int, Tree] | None:
    """Return the step and the content of the newest sound checkpoint; None if there is none."""
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.newest(make_reader(checkpoints))
    finally:
        checkpoints.close()
