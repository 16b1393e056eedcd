"""Workdirs that a command cannot use: another run's, of earlier versions, in use, or none."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import processes
from helpers.in_process import run_here, train_here
from helpers.processes import message

from alexnet_jax import fields
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data.sources.cifar10_binary import FOLDER
from alexnet_jax.workdir import write_config


def test_workdir_of_another_config(config_file: Path, config: Config, tmp_path: Path) -> None:
    """Catches: going on with another batch size; the field, old or new value left unsaid."""
    write_config(tmp_path, with_changes(config, {"model.num_classes": 5}), 0)
    other = [f"--config={config_file}", "--config.batch_size=4", f"--workdir={tmp_path}"]
    output = message(processes.run("main", *other))
    assert "batch_size was 8, is 4" in output
    assert str(tmp_path) in output


def finished_run(config: Config, workdir: Path) -> Path:
    """Train for two steps and return the folder of the run."""
    assert train_here(fields.replace(config, {"max_steps": 2}), workdir) == 0
    return workdir


def make_config_of_earlier_format(workdir: Path) -> None:
    """Turn config.json into one of the format before ops, which had no version."""
    path = workdir / "config.json"
    recorded = json.loads(path.read_text())
    del recorded["format_version"], recorded["optimizer"]
    layer = {"features": 4, "kernel": 3, "stride": 3, "sees": "own", "after": ["relu", "lrn"]}
    recorded.update(
        momentum=0.9,
        weight_decay=0.0005,
        model={"columns": 2, "classes": 5, "layers": {"conv1": layer}},
    )
    path.write_text(json.dumps(recorded))


def make_checkpoints_of_earlier_format(workdir: Path) -> None:
    """Rename the items of the checkpoints as they were called in the first format."""
    for step in (workdir / "checkpoints").iterdir():
        for now, before in (
            ("metadata", "about"),
            ("train_state", "rest"),
            ("variables", "params"),
        ):
            (step / now).rename(step / before)


@pytest.mark.parametrize("part", ["config", "checkpoints"])
@pytest.mark.parametrize("module", ["main", "evaluate", "predict", "init_from"])
def test_run_of_an_earlier_version(
    config_file: Path, config: Config, tmp_path: Path, part: str, module: str
) -> None:
    """Catches: fields that are all called different or unknown; a checkpoint called damaged,
    renamed or passed over; training anew in the folder of a run; status 1 with a traceback."""
    old = finished_run(config, tmp_path / "old")
    if part == "config":
        make_config_of_earlier_format(old)
    else:
        make_checkpoints_of_earlier_format(old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    train_old = ["--config.max_steps=4", f"--workdir={old}"]
    init_from_old = [f"--config.init_from={old}", f"--workdir={tmp_path / 'new'}"]
    arguments: dict[str, list[str]] = dict(
        main=[f"--config={config_file}", *train_old],
        evaluate=[f"--workdir={old}"],
        predict=[f"--workdir={old}", "image.png"],
        init_from=[f"--config={config_file}", *init_from_old],
    )
    ended = processes.run("main" if module == "init_from" else module, *arguments[module])
    output = message(ended)
    assert str(old) in output
    if part == "config":
        flag = "--config.init_from" if module == "init_from" else "--workdir"
        assert f"{flag}={old} was made by another version of this program" in output
        assert output.count("\n") == 1
    else:
        assert "was made by an earlier version of alexnet_jax" in output
        assert "damaged" not in output
    after = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    if module == "main" and part == "checkpoints":
        assert after.pop(old / "status.json")
    assert after == before


def test_workdir_that_is_a_file(config_file: Path, tmp_path: Path) -> None:
    """Catches: a FileExistsError after the images have been prepared."""
    (tmp_path / "file").touch()
    output = message(
        processes.run("main", f"--config={config_file}", f"--workdir={tmp_path / 'file'}")
    )
    assert f"cannot write to --workdir={tmp_path / 'file'}" in output


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_folder_without_a_run(tmp_path: Path, module: str) -> None:
    """Catches: a traceback, or a run made there."""
    output = message(
        processes.run(module, f"--workdir={tmp_path}", *["x.png"] * (module != "evaluate"))
    )
    assert str(tmp_path) in output
    assert "no config.json" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "x.png", "--workdir=~"], "--workdir=HOME has no config.json"),
        (["evaluate", "--workdir=~,~/b"], "--workdir=HOME has no config.json"),
        (["convert", "--input=~/w.onnx", "--workdir=~"], "HOME/w.onnx"),
    ],
)
def test_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    """Catches: a folder named "~", which shells do not replace after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = run_here(*arguments)
    assert expected.replace("HOME", str(tmp_path)) in message(ended)


def test_data_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a --data_dir in which "~" is a name, so that data in the home folder are missing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / FOLDER).mkdir()
    ended = processes.run("reproduce", "--data_dir=~", "--output=~/out", package="experiments")
    assert ended.returncode == 2
    assert f"--data_dir={tmp_path} has the folder of the files" in ended.stderr


def test_a_second_process(config_file: Path, tmp_path: Path) -> None:
    """Catches: two processes writing into one run."""
    workdir = tmp_path / "run"
    command = [f"--config={config_file}", f"--workdir={workdir}", "--config.max_steps=1000000"]
    first = processes.start("main", *command)
    seconds: list[subprocess.CompletedProcess[str]] = []

    def second_ended() -> bool:
        if (workdir / ".lock").exists():
            seconds.append(processes.run("main", *command))
        return bool(seconds)

    first_ended = processes.signal_when(first, second_ended, signal.SIGKILL)
    assert first_ended.returncode == -signal.SIGKILL
    assert "another process is training in" in message(seconds[0])
