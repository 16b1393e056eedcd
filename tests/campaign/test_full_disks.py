"""A disk that is full at any moment: one message, and the same result once there is room."""

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import processes
from helpers.damage import summarize
from helpers.image_sets import write_idx_set
from helpers.runs import newest_state
from jax.tree_util import tree_leaves

PAGE = 4096  # bytes; a file system in memory counts whole pages


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount(folder, "size=64m")
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    """Mount an empty file system in memory, or mount it again with other options."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        return subprocess.CompletedProcess(command, 1, stderr="there is no command mount")
    return subprocess.run(command, capture_output=True, text=True, check=False)


def final_state(workdir: Path) -> tuple[int, list[bytes]]:
    """Return the step and the arrays of the newest checkpoint."""
    step, state = newest_state(workdir)
    return step, [leaf.tobytes() for leaf in tree_leaves(state)]


@pytest.mark.parametrize("sizes", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_full_disk(
    disk: Path, tmp_path: Path, sizes: int, record_property: Callable[[str, object], None]
) -> None:
    """Catches: a second error over the message of the full disk; a process that hangs after a
    failed save; an empty config or half a record, which stops the run for good."""
    draw = random.Random(sizes)
    outcomes: Counter[str] = Counter()
    write_idx_set(tmp_path / "data", train=120, test=20)
    config = processes.write_config(tmp_path, tmp_path / "data")

    def train(workdir: Path) -> subprocess.CompletedProcess[str]:
        pack = f"--config.data.pack_dir={workdir.parent / 'pack'}"
        return processes.run("main", f"--config={config}", f"--workdir={workdir}", pack)

    assert train(disk / "run").returncode == 0
    expected = final_state(disk / "run")
    pages = shutil.disk_usage(disk).used // PAGE
    for _ in range(sizes):
        for path in disk.iterdir():
            shutil.rmtree(path)
        assert not mount(disk, f"remount,size={draw.randrange(1, pages) * PAGE}").returncode
        ended = train(disk / "run")
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.returncode in (0, 2), ended.stderr
        if ended.returncode:
            assert ended.stderr.count("the disk is full") == 1, ended.stderr
        outcomes["full" if ended.returncode else "large enough"] += 1
        assert not mount(disk, "remount,size=64m").returncode
        again = train(disk / "run")
        assert again.returncode == 0, again.stderr
        assert final_state(disk / "run") == expected
    summarize(outcomes, record_property)
