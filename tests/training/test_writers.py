"""Records of a run: written once, cut back on resume, read back whole."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import ROOT

from alexnet_jax import writers
from alexnet_jax.writers import Record, RunWriter, append_record, read_records


def record(step: int, split: str = "train") -> Record:
    values: dict[str, Any] = dict(
        step=step, epoch=step / 10, split=split, loss=1.0, top1_error=0.5, top5_error=0.1
    )
    if split == "train":
        values.update(learning_rate=0.01, images_per_second=100.0)
    return cast(Record, {**values, "count": 8})


def test_log_goes_on_after_an_interruption(tmp_path: Path) -> None:
    """Catches records later than the restored step, or half of one, kept on resume."""
    writer = RunWriter(tmp_path, 0, 40)
    for step in (10, 20, 30):
        writer.write_record(record(step))
        writer.write_record(record(step, "validation"))
    writer.close()
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(record(35))[:-20])
    before = [record(step, split) for step in (10, 20, 30) for split in ("train", "validation")]
    assert read_records(tmp_path) == before

    writer = RunWriter(tmp_path, 20, 40)
    writer.write_record(record(30))
    writer.close()
    assert read_records(tmp_path) == [*before[:4], record(30)]
    assert path.read_text().count("\n") == 5
    assert [p.name for p in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_log_of_a_new_run(tmp_path: Path) -> None:
    """Catches a crash where there is nothing to cut, and records of a step never reached."""
    assert read_records(tmp_path) == []
    RunWriter(tmp_path, 0, 40).close()
    assert read_records(tmp_path) == []
    append_record(tmp_path, record(40, "test"))
    assert read_records(tmp_path) == [record(40, "test")]


def test_half_written_line_alone(tmp_path: Path) -> None:
    """Catches a resume that fails on a file with nothing but half of a line."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    RunWriter(tmp_path, 0, 40).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_hiding_torch_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: PyTorch that stays blocked after an import of tensorboardX, also a failed one, or
    that is dropped where a program has it already."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def fail() -> None:
        with writers._torch_hidden():
            with pytest.raises(ImportError):
                import torch  # noqa: F401
            raise KeyError("tensorboardX")

    with pytest.raises(KeyError, match="tensorboardX"):
        fail()
    assert "torch" not in sys.modules
    own: Any = object()
    for loaded in (own, None):
        monkeypatch.setitem(sys.modules, "torch", loaded)
        with writers._torch_hidden():
            assert sys.modules["torch"] is loaded
        assert sys.modules["torch"] is loaded


def test_records_are_read_without_jax() -> None:
    """Catches: seconds of imports for a program that only waits for a record."""
    program = "import sys, alexnet_jax.writers; assert not {'jax', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
