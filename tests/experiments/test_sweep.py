"""What all sweeps share: their table, their folder, their flags."""

import errno
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from helpers import processes
from helpers.sweeps import Executor, Job, Row, make_sweep

from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from configs.alexnet import get_config
from experiments import ablations, degradation, relu_tanh
from experiments.reproduce import __main__ as reproduce
from experiments.sweeps import sweep
from experiments.sweeps.exclusive import exclusive
from experiments.sweeps.rows import read_rows, write_rows
from experiments.sweeps.run import Base


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)


def test_what_failed_is_tried_again_and_nothing_else(tmp_path: Path) -> None:
    """Catches a sweep that ends at the first failure, starts again what is done or what would
    diverge again, leaves out what failed, or goes by the words of a message."""
    first = Executor({"b": "failed", "c": "diverged", "d": None})
    ended = make_sweep(tmp_path, ["a", "b", "c", "d"]).run_waiting(cast(Any, first))
    assert [(row.name, row.status) for row in ended] == [
        ("b", "failed, see its.log"),
        ("c", "diverged, see its.log"),
        ("d", "failed, see its.log"),
    ]
    assert first.started == ["a", "b", "c", "d"]
    second = Executor({})
    ended = make_sweep(tmp_path, ["a", "b", "c", "d"]).run_waiting(cast(Any, second))
    assert second.started == ["b", "d"]
    assert [row.name for row in ended] == ["c"]


def test_listed_commands_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: parentheses and spaces of a value that a shell takes for its own."""
    made = make_sweep(tmp_path, [])
    run = made.base.make_run(("a",), "", (), {"model.stage_sizes": (1, 2)})
    monkeypatch.setattr(made, "plan", lambda _: [run])
    made.dry_run()
    python, m, program, *arguments = shlex.split(capsys.readouterr().out)
    assert (python, m, program) == ("python", "-m", "alexnet_jax.main")
    assert tuple(arguments) == run.arguments


@pytest.mark.parametrize("jobs", [1, 4])
def test_what_the_rows_call_for_is_run_too(tmp_path: Path, jobs: int) -> None:
    """Catches a plan that is made before there are rows, and a run that is started twice."""
    executor = Executor({"b": "failed"})
    make_sweep(tmp_path, ["a", "b", "c", "d"], jobs, at_once=2).run_waiting(cast(Any, executor))
    assert executor.started == ["a", "b", "c", "d"]


def test_a_run_whose_arguments_change_is_not_started_again(tmp_path: Path) -> None:
    """Catches a failed run that is tried again, within one command, with other arguments."""
    made, executor = make_sweep(tmp_path, []), Executor({"a": "failed"})
    made.plan = lambda rows: [
        made.base.make_run((name,), "", (), {"epochs": 9 - len(rows)}) for name in "abc"
    ]
    made.run_waiting(cast(Any, executor))
    assert executor.started == ["a", "b", "c"]


def test_the_end_says_what_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a divergence that is passed over, or that is a failure to the shell, and a report
    that is not written or not printed where nothing is left to run."""
    monkeypatch.setattr(sweep.flags, "FLAGS", SimpleNamespace(list=False, dry_run=False))
    for errors, status, message in [
        ({"b": "failed", "c": "diverged"}, 1, "b: failed, see its.log\nc: diverged, "),
        ({}, 0, "\nc: diverged, see its.log\n"),
        ({}, 0, "c: diverged, see its.log\n"),
    ]:
        monkeypatch.setattr(sweep, "make_executor", lambda errors=errors: Executor(errors))
        assert make_sweep(tmp_path, ["a", "b", "c"]).main() == status
        out, err = capsys.readouterr()
        assert out == "3 rows\n" == (tmp_path / "rows.md").read_text()
        assert message in err
    assert make_sweep(tmp_path / "nothing", []).main() == 0
    assert capsys.readouterr().out == "0 rows\n"


def test_a_table_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """Catches what is done forgotten because the writing of one more row was cut off."""
    rows = [Row("a", 0, "done"), Row("b", 0, "done")]
    write_rows(tmp_path / "rows.csv", rows)
    with pytest.raises(TypeError):
        write_rows(tmp_path / "rows.csv", [rows[0], cast(Any, "no row"), rows[1]])
    assert read_rows(tmp_path / "rows.csv", Row) == rows


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Catches a number read as a word, and an empty field as 0 or as "None"."""
    rows = [Row("base-0", 0, "done", 0.1, 5.0), Row("tanh-1", 1, "failed, see x,y")]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv", Row) == rows
    assert read_rows(tmp_path / "none.csv", Row) == []


def test_the_rest_takes_as_long_as_what_is_done(tmp_path: Path) -> None:
    """Catches a run that failed at once counted as a short one, or as done."""
    write_rows(
        tmp_path / "rows.csv",
        [Row("a", 0, "done", seconds=100.0), Row("b", 0, "failed, see x", seconds=2.0)],
    )
    partly_done = make_sweep(tmp_path, ["a", "b", "c", "d"], jobs=2)
    assert [run.name for run in partly_done.waiting()] == ["b", "c", "d"]
    assert partly_done.estimate() == 150.0
    assert make_sweep(tmp_path / "new", ["a"]).estimate() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 50,
        b"name,seed,status,error,seconds\nbase-0,x,done,,\n",
        b"name,seed,status,error,seconds\nbase-0\n",
        b"name,seed,status,error,seconds\nbase-0,0,done,,,,7\n",
        b"name,seed,status,error,seconds\n\xff\xfe,0,done,,\n",
        b"name,other\n",
    ],
)
def test_a_damaged_table_is_a_message(tmp_path: Path, content: bytes) -> None:
    """Catches: a traceback for a table that a full disk or an editor has damaged; the table
    overwritten."""
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.csv is not a table of this sweep .*move it away"):
        make_sweep(tmp_path, ["a"])
    assert (tmp_path / "rows.csv").read_bytes() == content


def test_an_error_stops_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a traceback for a table or a workdir that cannot be written; jobs that go on without
    anybody to record them, also if the error is a defect."""

    def fill_up(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    jobs = []

    class Endless(Job):
        def done(self) -> bool:
            return "b" not in self.paths.stderr

        def cancel(self) -> None:
            jobs.append("canceled")

        def wait(self) -> None:
            jobs.append("waited for")

    class Started(Executor):
        def start(self, words: Sequence[str], name: str) -> Job:
            job = Endless(None)
            job.paths.stderr = name
            if name == "c":
                raise OSError("a defect")
            return job

    with pytest.raises(OSError, match="a defect"):
        make_sweep(tmp_path, ["a", "c"], jobs=2).run_waiting(cast(Any, Started({})))
    assert jobs == ["canceled", "waited for"]
    jobs.clear()
    (tmp_path / "runs" / "d").touch()
    with pytest.raises(InputError, match=r"^cannot write .*runs/d: File exists; check the disk"):
        make_sweep(tmp_path, ["a", "d"], jobs=2).run_waiting(cast(Any, Started({})))
    assert jobs == ["canceled", "waited for"]
    jobs.clear()
    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(InputError, match=r"^the disk is full: .*rows\.csv; make room, and run"):
        make_sweep(tmp_path, ["a", "b"], jobs=2).run_waiting(cast(Any, Started({})))
    assert jobs == ["canceled", "waited for"]


@pytest.mark.parametrize("content", ["", "{", '{"status": "diverged"}'])
def test_a_damaged_status_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """Catches: a sweep that ends at the damaged file of one run, or that takes it for diverged."""

    class Damaged(Executor):
        def start(self, words: Sequence[str], name: str) -> Job:
            job = super().start(words, name)
            if job.error is not None:
                (tmp_path / "runs" / "a" / "status.json").write_text(content)
            return job

    ended = make_sweep(tmp_path, ["a", "b"]).run_waiting(cast(Any, Damaged({"a": "diverged"})))
    assert [(row.name, row.status) for row in ended] == [("a", "failed, see its.log")]
    assert "is not the status of a run" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000], ids=len)
def test_a_damaged_config_is_a_message(tmp_path: Path, content: str) -> None:
    """Catches: a traceback; the record of the runs' config overwritten."""
    (tmp_path / "config.json").write_text(content)
    base = Base("configs/alexnet.py:sample", {}, get_config("sample"), tmp_path)
    with pytest.raises(InputError, match=r"config\.json is not the config of a sweep"):
        sweep.record_config(base)
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        ("a.py:sample", ("tanh",), "a.py:sample,tanh"),
        ("a.py", ("four", "tanh"), "a.py:four,tanh"),
        ("a.py:sample", (), "a.py:sample"),
        ("a.py", (), "a.py"),
    ],
)
def test_words_go_after_the_variant(file: str, words: tuple[str, ...], expected: str) -> None:
    """Catches a comma or a colon too many, which no config knows."""
    assert Base(file, {}, Config(), Path("out")).variant(*words) == expected


def test_another_config_is_refused(tmp_path: Path) -> None:
    """Catches: runs of one schedule taken for finished ones of another; a folder of the data
    that is spelled in another way taken for another config."""
    config = get_config("sample")
    base = Base("configs/alexnet.py:sample", {}, config, tmp_path)
    sweep.record_config(base)
    config.data.dir, config.data.resident = "elsewhere/", "off"
    sweep.record_config(base)
    config.epochs = 7
    with pytest.raises(InputError, match="has runs with epochs=16; given is 7"):
        sweep.record_config(base)


def test_help_lists_the_shared_flags() -> None:
    """Catches flags of this module that --help passes over."""
    output = processes.run("ablations", "--help", package="experiments").stdout
    for flag in ("--config", "--seeds", "--jobs", "--slurm_partition", "--[no]dry_run"):
        assert flag in output
    assert "--verbosity" not in output


@pytest.mark.parametrize("module", [ablations, degradation, relu_tanh, reproduce])
def test_a_second_command_in_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    """Catches: two commands that overwrite each other's rows; a command that cannot be listed
    while it runs, or that is refused once the other has ended or was killed; a folder left
    behind by a command that is refused for another reason."""
    output = tmp_path / "out"
    given = SimpleNamespace(list=False, dry_run=False, output=str(output))
    monkeypatch.setattr(sweep.flags, "FLAGS", given)
    message = "another command is starting runs in --output=.*; wait for its end, or give another"

    @exclusive
    def first(_: list[str]) -> int:
        with pytest.raises(InputError, match=message):
            module.main([])
        given.list = True
        assert exclusive(lambda _: 1)([]) == 1
        given.list = False
        raise InputError("another reason")

    with pytest.raises(InputError, match="another reason"):
        first([])
    assert not output.exists()
    output.mkdir()
    (output / ".lock").touch()
    assert exclusive(lambda _: 3)([]) == 3
