"""A run that is killed again and again, whose newest files are cut, ends as one left alone."""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers import processes
from helpers.damage import damage, summarize, written_files
from helpers.image_sets import write_folder
from helpers.runs import newest_state

pytestmark = pytest.mark.usefixtures("quick_to_compile")

# What a process is doing when it is killed, by the files that exist then.
MOMENTS: dict[str, str] = {
    "starting": "run/.lock",
    "preparing": "pack.partial",
    "first files": "run/config.json",
    "saving": "run/checkpoints/*tmp*",
    "training": "run/metrics.jsonl",
}


def command(folder: Path) -> list[str]:
    """Return the flags of main for the run in a folder."""
    return [
        f"--config={folder / 'tiny.py'}",
        f"--workdir={folder / 'run'}",
        f"--config.data.pack_dir={folder / 'pack'}",
    ]


def write_run(folder: Path) -> None:
    """Write the images and the config of a run; its images are prepared for every run anew."""
    write_folder(folder / "data", {"cat": 60, "dog": 60}, side=96)
    path = processes.write_config(folder, folder / "data")
    text = (
        path.read_text()
        .replace('name = "idx"', 'name = "folder"')
        .replace("channels=1", "channels=3")
    )
    path.write_text(
        text.replace("    return config", "    config.data.image_size = 32\n    return config")
    )


def kill_once(folder: Path, draw: random.Random) -> subprocess.CompletedProcess[str] | None:
    """Start the run and kill it at some moment; return what it printed where it ended before."""
    name = draw.choice([*MOMENTS, "any"])
    delay = draw.uniform(0, 0.3) if name != "any" else draw.uniform(0, 8)
    process = processes.start("main", *command(folder))
    while name != "any" and process.poll() is None and not any(folder.glob(MOMENTS[name])):
        time.sleep(0.001)
    deadline = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    ended = processes.end(process)
    return None if ended.returncode == -signal.SIGKILL else ended


def final_state(folder: Path) -> tuple[int, list[bytes]]:
    """Return the step and the arrays of the newest checkpoint."""
    step, state = newest_state(folder / "run")
    return step, [leaf.tobytes() for leaf in jax.tree.leaves(state)]


def finish(folder: Path) -> subprocess.CompletedProcess[str]:
    """Start the run a last time, and let it end."""
    return processes.run("main", *command(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train once without a kill; return the final state and the records."""
    folder = tmp_path_factory.mktemp("whole")
    write_run(folder)
    with processes.compiled_quickly():
        ended = finish(folder)
    assert ended.returncode == 0, ended.stderr
    return final_state(folder), processes.records(folder / "run")


@pytest.mark.parametrize("kills", [4, pytest.param(250, marks=pytest.mark.slow)])
def test_kills(
    whole: Any, tmp_path: Path, kills: int, record_property: Callable[[str, object], None]
) -> None:
    """Catches: anything that is written in place, or in the wrong order; a restart that takes a
    part of a file for the whole; a step trained twice or not at all."""
    draw = random.Random(kills)
    outcomes: Counter[str] = Counter()
    write_run(tmp_path)
    for _ in range(kills):
        ended = kill_once(tmp_path, draw)
        outcomes["killed" if ended is None else "ended before"] += 1
        if ended is not None or draw.random() < 0.1:
            check_and_begin_anew(tmp_path, whole, ended)
    check_and_begin_anew(tmp_path, whole, None)
    summarize(outcomes, record_property)


def check_and_begin_anew(
    folder: Path, whole: Any, ended: subprocess.CompletedProcess[str] | None
) -> None:
    """Check the end of a run against that of the whole one, and remove what it wrote."""
    ended = ended or finish(folder)
    assert ended.returncode == 0, ended.stderr
    assert "damaged" not in ended.stderr
    assert (final_state(folder), processes.records(folder / "run")) == whole
    for name in ("run", "pack"):
        shutil.rmtree(folder / name)


@pytest.mark.parametrize("cuts", [2, pytest.param(150, marks=pytest.mark.slow)])
def test_kills_that_cut_the_newest_files(
    whole: Any, tmp_path: Path, cuts: int, record_property: Callable[[str, object], None]
) -> None:
    """Catches: a file that was not flushed to disk before it is relied on, as after a power cut,
    whose damage ends in a traceback at every start from then on."""
    draw = random.Random(cuts)
    outcomes: Counter[str] = Counter()
    write_run(tmp_path)
    for _ in range(cuts):
        kill_once(tmp_path, draw)
        written = [
            path
            for name in ("run", "pack.partial", "pack")
            for path in written_files(tmp_path / name)
        ]
        for path in written_newest(written, draw):
            damage(path, draw.choice(("truncate", "empty", "zeros")), draw)
        ended = finish(tmp_path)
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.returncode == 0:
            assert final_state(tmp_path) == whole[0]
            outcomes["went on" if "damaged" in ended.stderr else "unharmed"] += 1
        else:
            assert ended.returncode == 2, ended.stderr
            assert str(tmp_path) in ended.stderr
            outcomes["refused"] += 1
        for name in ("run", "pack", "pack.partial"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    summarize(outcomes, record_property)


def written_newest(paths: list[Path], draw: random.Random) -> list[Path]:
    """Return one to three of the newest files."""
    newest = sorted(paths, key=lambda path: -path.stat().st_mtime_ns)
    return newest[: draw.randint(1, 3)]
