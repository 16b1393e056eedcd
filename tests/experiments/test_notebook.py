"""The notebook: it runs on a small fresh run, and what is committed was executed as it stands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, processes
from helpers.explored_run import make_explored_run
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

from configs import resnet

NOTEBOOK = ROOT / "experiments" / "figures" / "inspect_params.ipynb"
LARGEST = 1_000_000  # bytes that a reader of the repository downloads for it
EXECUTE = "from nbclient.cli import main; main()"  # `jupyter execute`


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds(cell: dict[str, Any]) -> list[list[str]]:
    """Return the type and formats of each output of a cell.

    The messages of Matplotlib and others on stderr depend on the machine.
    """
    return [
        [output["output_type"], *sorted(output.get("data", []))]
        for output in cell["outputs"]
        if output.get("name") != "stderr"
    ]


def test_the_committed_outputs_are_of_one_run_from_top_to_bottom() -> None:
    """Catches cells that were edited and run out of order or not at all, errors and warnings among
    the outputs, another machine's folders, and images too large to keep."""
    cells = code_cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell["outputs"], "".join(cell["source"])
        assert {output["output_type"] for output in cell["outputs"]}.isdisjoint({"error"})
        assert {output.get("name") for output in cell["outputs"]}.isdisjoint({"stderr"})
    text = NOTEBOOK.read_text()
    for trace in ("/home/", "/root/", "/tmp/", "/Users/", "Warning"):
        assert trace not in text
    assert len(text) < LARGEST


def execute(workdir: Path, directory: Path) -> list[dict[str, Any]]:
    """Run the notebook on a run as `jupyter execute` does, and return its code cells.

    Args:
        workdir: folder of the run.
        directory: where files are written and from where it is run.
    """
    executed = directory / "executed.ipynb"
    variables = dict(
        WORKDIR=str(workdir),
        JUPYTER_DATA_DIR=str(directory / "jupyter"),
        JUPYTER_RUNTIME_DIR=str(directory / "jupyter"),
        IPYTHONDIR=str(directory / "ipython"),
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    environment = {**processes.environment(), **variables}
    del environment["PYTHONPATH"]
    ended = subprocess.run(
        [sys.executable, "-c", EXECUTE, f"--output={executed}", str(NOTEBOOK)],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return code_cells(executed)


@pytest.mark.usefixtures("quick_to_compile")
def test_it_runs_on_a_fresh_run(tmp_path: Path) -> None:
    """Catches a cell that fails, that needs the sample's model, or whose committed output is of
    another kind than what it gives now; and a notebook that finds the package or the run only
    where it was written."""
    write_idx_set(tmp_path / "data", train=60, test=20)
    fields = dict(max_steps=6, checkpoint_every=2, keep_checkpoints=9)
    assert train_here(tiny_config(tmp_path / "data", **fields), tmp_path / "run") == 0
    executed = execute(tmp_path / "run", tmp_path)
    assert executed[0]["outputs"][0]["text"] == ["idx: 5 classes, 6 steps\n"]
    assert len(executed) == len(code_cells(NOTEBOOK))
    for new, committed in zip(executed, code_cells(NOTEBOOK), strict=True):
        assert kinds(new) == kinds(committed), "".join(new["source"])


@pytest.mark.usefixtures("quick_to_compile")
def test_it_runs_on_a_residual_network(tmp_path: Path) -> None:
    """Catches a cell that fails for a model with branches and one column, parameters without
    those of blocks, and a figure of batch normalization that is left out."""
    network = resnet.get_config("sample").model
    run = make_explored_run(tmp_path, network, width=2, stage_sizes=(1,))
    executed = execute(run, tmp_path)
    text = ["execute_result", "text/markdown", "text/plain"]
    figure = ["execute_result", "image/png", "text/plain"]
    expected = [["stream"], text, figure, figure, figure, text, figure, figure]
    assert [kinds(cell) for cell in executed] == [[kind] for kind in expected]
    parameters = "".join(executed[1]["outputs"][0]["data"]["text/markdown"])
    assert "| conv2_1/conv1/kernel | 3 × 3 × 2 × 2 |" in parameters
    color = "".join(executed[5]["outputs"][0]["data"]["text/markdown"])
    assert "The model has one column." in color
