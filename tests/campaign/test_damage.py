"""Damage to every kind of file that a run writes: the same results, or a message, never others."""

import contextlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.damage import KINDS, damage, summarize, written_files
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.runs import newest_state
from helpers.tiny_model import tiny_config

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.prepare import prepare
from alexnet_jax.records import read_records
from alexnet_jax.status import read_status
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import read_config

Read = Callable[[Path], Any]


@dataclass
class Finished:
    """A run of 6 steps with checkpoints at 3 and 6, its pack, and what reading them returns."""

    folder: Path
    config: Config
    expected: dict[str, Any]


def evaluated(folder: Path) -> Any:
    """Evaluate the run in a folder on its test images."""
    model = load_trained(folder / "run")
    return model.step, evaluate([model])


def resumed(folder: Path) -> Any:
    """Train the run in a folder for two more steps; return its final state."""
    config = fields.replace(run_config(folder), {"max_steps": 8})
    assert train_here(config, folder / "run") == 0
    step, state = newest_state(folder / "run")
    return step, [leaf.tobytes() for leaf in jax.tree.leaves(state)]


def prepared(folder: Path) -> Any:
    """Read the whole pack in a folder."""
    pack = prepare(run_config(folder).data, progress=False)
    splits = pack.splits.items()
    records = {name: split.read(np.arange(split.count)) for name, split in splits}
    labels = {name: split.labels.tolist() for name, split in splits}
    return pack.class_names, pack.mean_image.tobytes(), records, labels


def recorded(folder: Path) -> None:
    """Read the log, the status and the config of the run in a folder.

    They are text without checksums, so that a changed digit cannot be noticed. No result depends
    on them: evaluation takes the config of the checkpoint.
    """
    read_records(folder / "run")
    read_status(folder / "run")
    read_config(folder / "run")


READERS: dict[str, Read] = dict(
    evaluated=evaluated, resumed=resumed, prepared=prepared, recorded=recorded
)


def run_config(folder: Path) -> Config:
    """Return the config of the run in a folder."""
    changes = {"max_steps": 6, "checkpoint_every": 3, "log_every": 2}
    return tiny_config(folder / "data", **changes, **{"data.pack_dir": str(folder / "pack")})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Make the run, and read a copy with each reader."""
    origin = tmp_path_factory.mktemp("origin")
    folder = origin / "copy"
    write_idx_set(folder / "data", train=60, test=20)
    assert train_here(run_config(folder), folder / "run") == 0
    shutil.copytree(folder, origin / "whole")
    expected = {name: read(folder) for name, read in READERS.items() if name != "resumed"}
    return Finished(origin, run_config(folder), expected | {"resumed": resumed(folder)})


def restore(finished: Finished) -> Path:
    """Return the folder of the run, undamaged; it is the same each time, for its paths are kept."""
    folder = finished.folder / "copy"
    shutil.rmtree(folder)
    shutil.copytree(finished.folder / "whole", folder)
    return folder


def outcome(read: Read, folder: Path, expected: Any) -> str:
    """Return what reading a damaged folder came to; any error but InputError passes through."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            found = read(folder)
    except InputError as error:
        return "refused" if str(folder) in str(error) else f"refused without a path: {error}"
    if found == expected:
        return "unharmed"
    reports = [line for line in errors.getvalue().splitlines() if str(folder) in line]
    reports = [line for line in reports if not line.startswith("Continuing")]
    return "reported" if reports else "different without a message"


@pytest.mark.parametrize("cases", [12, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file(
    finished: Finished, name: str, cases: int, record_property: Callable[[str, object], None]
) -> None:
    """Catches: a file read without a check of its content, whose damage ends in a traceback or in
    other numbers than the run's."""
    outcomes: Counter[str] = Counter()
    draw = random.Random(f"{name} {cases}")
    files = kinds_of_files(finished.folder / "whole")
    for _ in range(cases):
        folder = restore(finished)
        relative, kind = (
            draw.choice(files).relative_to(finished.folder / "whole"),
            draw.choice(KINDS),
        )
        damage(folder / relative, kind, draw)
        try:
            found = outcome(READERS[name], folder, finished.expected[name])
        except BaseException as error:
            error.add_note(f"{name} after {kind} of {relative}")
            raise
        assert found in ("refused", "unharmed", "reported"), (kind, relative, found)
        outcomes[found] += 1
    summarize(outcomes, record_property)


def kinds_of_files(folder: Path) -> list[Path]:
    """Return one file of each kind in a folder: of each name without its digits."""
    kinds: dict[str, Path] = {}
    for path in written_files(folder):
        if path.is_relative_to(folder / "data"):
            continue
        name = str(path.relative_to(folder))
        if "/d/" in name:  # orbax names files of array data by their content
            name = name.partition("/d/")[0]
        kinds["".join(c for c in name if not c.isdigit())] = path
    return [kinds[name] for name in sorted(kinds)]
