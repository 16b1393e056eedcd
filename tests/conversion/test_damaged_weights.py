"""Files of every format with random damage: refused in one line, or read with the right numbers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.damage import summarize
from helpers.weight_files import MAKERS, Maker, read

from alexnet_jax.errors import InputError
from alexnet_jax.trained import TrainedModel

HEADER = 3000  # bytes at the start, where names, types and sizes are


def damaged(content: bytes, rng: np.random.Generator) -> tuple[bytes, int]:
    """Return changed content and the largest number of weights that may differ.

    The content is cut off, loses some bytes, or has up to three bytes changed.
    """
    place, end = sorted(rng.integers(0, len(content), 2))
    match rng.integers(4):
        case 0:
            return content[:place], 0
        case 1:
            return content[:place] + content[min(end, place + 64) :], 0
        case where:
            changed = bytearray(content)
            places = rng.integers(0, len(content) if where == 2 else HEADER, 3) % len(content)
            for at in places:
                changed[at] = rng.integers(256)
            return bytes(changed), len(places)


def attempt(path: Path, make: Maker) -> tuple[TrainedModel | None, str]:
    """Return the model in a file and "", or None and the message of the refusal."""
    try:
        return read(path, make), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize("changes", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", MAKERS)
def test_random_damage(
    tmp_path: Path, make: Maker, changes: int, record_property: Callable[[str, object], None]
) -> None:
    """Catches a traceback, a message of several lines or with bytes of the file, and weights that
    are shifted or lost, for a file that is damaged anywhere.

    No formats but .npz and PyTorch's archives have checksums: in others a changed number, if
    finite, is taken.
    """
    rng = np.random.default_rng([*make.__name__.encode()])
    path = make(tmp_path)
    content, good = path.read_bytes(), read(path, make)
    found = Counter[str]()
    for _ in range(changes):
        changed, may_differ = damaged(content, rng)
        path.write_bytes(changed)
        model, message = attempt(path, make)
        assert message.isprintable()
        assert len(message) < 1500
        if model is None:
            found["refused"] += 1
            continue
        found["read"] += 1
        if model.config == good.config:
            pairs = zip(jax.tree.leaves(model.params), jax.tree.leaves(good.params), strict=True)
            assert sum(int((a != b).sum()) for a, b in pairs) <= may_differ
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.variables))
    assert found["refused"]
    summarize(found, record_property)
