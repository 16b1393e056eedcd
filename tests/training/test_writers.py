"""Records of a run: written once, cut back on resume, read back whole."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import ROOT

from alexnet_jax import writers
from alexnet_jax.errors import InputError
from alexnet_jax.progress import TrainingBar
from alexnet_jax.records import Record, append_record, read_records
from alexnet_jax.writers import RunWriter


def record(step: int, split: str = "train") -> Record:
    values: dict[str, Any] = dict(
        step=step, epoch=step / 10, split=split, loss=1.0, top1_error=0.5, top5_error=0.1
    )
    if split == "train":
        values.update(learning_rate=0.01, images_per_second=100.0)
    return cast(Record, {**values, "count": 8})


def test_log_goes_on_after_an_interruption(tmp_path: Path) -> None:
    """Catches records later than the restored step, or half of one, kept on resume."""
    writer = RunWriter(tmp_path, 0, TrainingBar(0, 40))
    for step in (10, 20, 30):
        writer.write_record(record(step))
        writer.write_record(record(step, "validation"))
    writer.close()
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(record(35))[:-20])
    before = [record(step, split) for step in (10, 20, 30) for split in ("train", "validation")]
    assert read_records(tmp_path) == before

    writer = RunWriter(tmp_path, 20, TrainingBar(20, 40))
    writer.write_record(record(30))
    writer.close()
    assert read_records(tmp_path) == [*before[:4], record(30)]
    assert path.read_text().count("\n") == 5
    assert [p.name for p in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_log_of_a_new_run(tmp_path: Path) -> None:
    """Catches a crash where there is nothing to cut, and records of a step never reached."""
    assert read_records(tmp_path) == []
    RunWriter(tmp_path, 0, TrainingBar(0, 40)).close()
    assert read_records(tmp_path) == []
    append_record(tmp_path, record(40, "test"))
    assert read_records(tmp_path) == [record(40, "test")]


def test_half_written_line_alone(tmp_path: Path) -> None:
    """Catches a resume that fails on a file with nothing but half of a line."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    RunWriter(tmp_path, 0, TrainingBar(0, 40)).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_what_is_lost_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a history lost in silence where checkpoints go on; the line where nothing is lost;
    steps of the loss that are not those."""
    path = tmp_path / "metrics.jsonl"
    RunWriter(tmp_path, 30, TrainingBar(30, 40), last_recorded=0).close()
    assert "lost" not in capsys.readouterr().err
    for found, expected in (
        (None, "is missing: the records of steps 1 to 30 are lost"),
        ("", "ends at step 0: the records of steps 1 to 30 are lost"),
        (json.dumps(record(20)) + "\n", "ends at step 20: the records of steps 21 to 30 are lost"),
        (json.dumps(record(30)) + "\n", ""),
    ):
        path.unlink()
        if found is not None:
            path.write_text(found)
        RunWriter(tmp_path, 30, TrainingBar(30, 40), last_recorded=30).close()
        output = capsys.readouterr().err
        assert expected in output
        assert bool(expected) == ("lost" in output)
    assert read_records(tmp_path) == [record(30)]


DAMAGE = {
    "garbage": b"\xff\xfe\x00{",
    "nested": b"[" * 100_000,
    "zeros": b"\0" * 200,
    "half": b'{"step": 1, "lo',
    "a list": b"[1]",
    "another object": b'{"step": 1}',
    "a word for a number": json.dumps({**record(10), "loss": "low"}).encode(),
    "a loss of NaN": json.dumps({**record(10), "loss": math.nan}).encode(),
    "an infinite rate": json.dumps(record(10)).replace("0.01", "1e999").encode(),
    "no learning rate": json.dumps(
        {name: value for name, value in record(10).items() if name != "learning_rate"}
    ).encode(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_line_is_named_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    """Catches: a traceback at a damaged line; records after it lost; the damaged file overwritten,
    also the second time; a reader that passes over the damage, or over numbers that no record
    has and that cannot be written again."""
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(step)).encode() for step in (10, 20)]
    content = lines[0] + b"\n" + damage + b"\n" + lines[1] + b"\n"
    for aside in ("damaged_metrics.jsonl", "damaged_metrics.1.jsonl"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"metrics.jsonl, line 2: no record of metrics"):
            read_records(tmp_path)
        with pytest.raises(InputError, match="line 2"):
            append_record(tmp_path, record(30))
        assert path.read_bytes() == content
        RunWriter(tmp_path, 20, TrainingBar(20, 40), last_recorded=20).close()
        assert f"line 2: no record of metrics; the file is kept as {aside}" in (
            capsys.readouterr().err
        )
        assert (tmp_path / aside).read_bytes() == content
        assert read_records(tmp_path) == [record(10), record(20)]


def test_a_file_of_zeros_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a file that a crash of the machine has emptied taken for an incomplete line."""
    (tmp_path / "metrics.jsonl").write_bytes(b"\0" * 500)
    RunWriter(tmp_path, 20, TrainingBar(20, 40), last_recorded=20).close()
    output = capsys.readouterr().err
    assert "line 1: no record of metrics; the file is kept as damaged_metrics.jsonl" in output
    assert "the records of steps 1 to 20 are lost" in output


def test_the_events_are_tensorboards(tmp_path: Path) -> None:
    """Catches: a wrong length, checksum or name in the file; later steps of an earlier file that
    are not hidden after a restart; a file overwritten by one of the same second.

    TensorFlow checks lengths and checksums.
    """
    tensorflow = pytest.importorskip("tensorflow")
    from tensorboardX.proto.event_pb2 import Event

    for begin, steps in ((0, (10, 20, 30)), (20, (25,))):
        writer = RunWriter(tmp_path, begin, TrainingBar(begin, 40))
        for step in steps:
            writer.write_record(record(step))
        writer.close()
    files = [*tmp_path.glob("events.out.tfevents.*")]
    found: dict[int, Any] = {}
    for file in files:
        content = tensorflow.data.TFRecordDataset(str(file)).as_numpy_iterator()
        version, start, *events = map(Event.FromString, content)
        assert version.file_version == "brain.Event:2"
        assert start.session_log.status == start.session_log.START
        found[start.step] = [
            (event.step, {value.tag: value.simple_value for value in event.summary.value})
            for event in events
        ]
    values = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.1}
    values |= {"learning_rate": 0.01, "images_per_second": 100.0}
    expected = pytest.approx({f"train/{name}": value for name, value in values.items()})
    assert found == {
        1: [(step, expected) for step in (10, 20, 30)],
        21: [(25, expected)],
    }


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
