"""The checks of a new machine: each fails where it should, and all pass on a CPU."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import processes

from alexnet_jax.errors import InputError
from alexnet_jax.layers import conv
from alexnet_jax.models.registry import FAMILIES as MODEL_FAMILIES
from experiments.benchmark.accelerator import schedule, smoke, smoke_checks, smoke_config
from experiments.benchmark.accelerator.smoke_checks import CHECKS, CheckFailed


def test_every_family_takes_a_step() -> None:
    """Catches: a family of models that is added without a check."""
    checked = {type(make().model) for make in smoke_checks.FAMILIES.values()}
    assert {family.config_class for family in MODEL_FAMILIES} == checked


def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches: a check that passes whatever the device computes, of the gradients too."""
    assert "outputs 0.1" in smoke_checks.check_convolution("cpu", tmp_path)
    convolve = conv.convolve
    monkeypatch.setattr(conv, "convolve", lambda x, *others: convolve(x * 1.01, *others))
    with pytest.raises(CheckFailed, match=r"at most 0\.39% is expected"):
        smoke_checks.check_convolution("cpu", tmp_path)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([2.3, float("nan")], "losses of two steps are"),
        ([float("inf"), 1.0], "losses of two steps are"),
        ([2.3, 2.3], r"stays at 2\.3 after a step"),
    ],
)
def test_a_step_that_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], message: str
) -> None:
    """Catches: a step without an update, or one whose numbers are not finite, that passes."""
    monkeypatch.setattr(smoke_checks, "compute_losses", lambda *_: losses)
    with pytest.raises(CheckFailed, match=message):
        smoke_checks._check_family("alexnet")


@pytest.mark.parametrize(("narrow", "passes"), [(1.019, True), (1.021, False), (np.nan, False)])
def test_the_tolerance_of_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, narrow: float, passes: bool
) -> None:
    """Catches: a tolerance that NaN meets, and one other than stated."""
    by_dtype = {"float32": [1.0, 1.0], "bfloat16": [narrow, narrow]}
    monkeypatch.setattr(smoke_checks, "compute_losses", lambda c: by_dtype[c.compute_dtype])
    if passes:
        assert "1.90% apart" in smoke_checks.check_precision("cpu", tmp_path)
        return
    with pytest.raises(CheckFailed, match="at most 2% is expected"):
        smoke_checks.check_precision("cpu", tmp_path)


@pytest.mark.parametrize("wrong", ["", "second", "killed"])
def test_runs_that_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str) -> None:
    """Catches: a repeated or a continued run that is not compared."""
    monkeypatch.setattr(smoke_checks, "run_whole", lambda *_: None)
    monkeypatch.setattr(smoke_checks, "run_killed", lambda *_: 30)
    monkeypatch.setattr(
        smoke_checks, "_read_checksums", lambda workdir: {"a": 1, "b": 2 + (workdir.name == wrong)}
    )
    if not wrong:
        assert "2 arrays are the same" in smoke_checks.check_runs("cpu", tmp_path)
        return
    with pytest.raises(CheckFailed, match=r"has other b$"):
        smoke_checks.check_runs("cpu", tmp_path)


HANGS = "import time; print('here', flush=True); time.sleep(600)"

# A run in place of the command's: it saves a checkpoint, and goes on for a minute if it is the
# first of its workdir.
RUN = """
import pathlib, sys, time
workdir = pathlib.Path(sys.argv[1])
started = (workdir / "checkpoints" / "step_10").is_dir()
(workdir / "checkpoints" / "step_10").mkdir(parents=True, exist_ok=True)
time.sleep(0 if started else 60)
"""


@pytest.mark.parametrize("newest", [10, 200])
def test_a_run_is_killed_while_it_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, newest: int
) -> None:
    """Catches: a run that is waited for, one that is not continued, and one killed too late."""
    started = []

    def start(_: str, workdir: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", RUN, str(workdir)]
        started.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(smoke_checks, "_start_run", start)
    monkeypatch.setattr(smoke_checks, "_find_newest", lambda _: newest)
    if newest == smoke_config.get_config().max_steps:
        with pytest.raises(CheckFailed, match="had already saved its last step"):
            smoke_checks.run_killed("cpu", tmp_path)
        return
    assert smoke_checks.run_killed("cpu", tmp_path) == newest
    assert [process.returncode for process in started] == [-9, 0]


def run_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *programs: str
) -> Iterator[dict[str, Any]]:
    """Run programs in place of the first checks."""
    start_process = schedule.start_process
    waiting = list(programs)
    monkeypatch.setattr(
        smoke, "start_process", lambda _, *others: start_process(["-c", waiting.pop(0)], *others)
    )
    return smoke.run_checks(list(CHECKS)[: len(programs)], "cpu", tmp_path)


def test_outcomes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches: a failure or a hang that counts as passed, a hang that is not ended, and a result
    under another name."""
    monkeypatch.setattr(smoke, "LIMIT", 2)
    programs = ("print('a warning'); print('well')", "raise SystemExit('ill')", HANGS)
    results = {r["name"]: r for r in run_programs(monkeypatch, tmp_path, *programs)}
    well, ill, hangs = (results[name] for name in list(CHECKS)[:3])
    assert well["passed"] == "well"
    assert ill["failed"] == "ill"
    assert re.fullmatch(r"ended after \d+ s, having printed here", hangs["failed"])
    assert re.fullmatch(r"device: passed in \d+ s: well", smoke.format_check(well))


@pytest.mark.parametrize(("load", "factor"), [(0.1, 1), (1.0, 1), (3.0, 3), (7.0, 4)])
def test_a_busy_machine_is_no_hang(
    monkeypatch: pytest.MonkeyPatch, load: float, factor: float
) -> None:
    """Catches: a check that gets a share of a core ended as one that hangs; a limit that is lower
    on an idle machine; a hang that lasts for hours. The load is in processes for each core."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load * smoke.available_cores(), 99.0, 99.0))
    assert smoke.compute_limit() == pytest.approx(factor * smoke.LIMIT)


def test_a_missing_platform_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches: every check failing in turn where there is no GPU, and others that go on."""
    started = list[Any]()
    end_process = schedule.end_process

    def end(process: Any) -> None:
        started.append(process)
        end_process(process)

    monkeypatch.setattr(smoke, "end_process", end)
    programs = ("print('JAX finds only cpu'); raise SystemExit(2)", HANGS)
    with pytest.raises(InputError, match="JAX finds only cpu"):
        list(run_programs(monkeypatch, tmp_path, *programs))
    assert sorted(process.returncode for process in started) == [-9, 2]


def test_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a check that takes most of the memory, a convolution without autotuning, a user's
    flags that are lost, and runs whose first process takes the device."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_own=1")
    monkeypatch.delenv("JAX_PLATFORMS")
    for name in CHECKS:
        environment = smoke.make_check_environment(name, "gpu")
        assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        tuned = "--xla_gpu_autotune_level=0" not in environment["XLA_FLAGS"]
        assert tuned == (name == "convolution")
        assert environment["XLA_FLAGS"].startswith("--xla_own=1")
        assert ("JAX_PLATFORMS" in environment) == (name == "runs")
    assert os.environ["XLA_FLAGS"] == "--xla_own=1"


def run_smoke(*arguments: str) -> tuple[int, list[dict[str, str]], str]:
    """Run the command on a CPU; return its exit status, results and messages."""
    command = ("benchmark", "--platform=cpu", "--smoke", "--json", *arguments)
    ran = processes.run(*command, package="experiments")
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr


def test_the_command() -> None:
    """Catches: a check that cannot start in its own process, or that is not asked for."""
    status, results, messages = run_smoke("--only=device,convolution")
    assert status == 0, (results, messages)
    passed = {result["name"]: result["passed"] for result in results}  # in the order of their ends
    assert sorted(passed) == ["convolution", "device"]
    assert "1 × cpu" in passed["device"]
    assert "jaxlib" in passed["device"]
    assert passed["convolution"].startswith("errors outputs 0.")


def test_flags_that_do_not_go_together() -> None:
    """Catches: a flag that --smoke ignores."""
    status, _, messages = run_smoke("--repeats=3")
    assert status == 2
    assert "--repeats is not for --smoke" in messages


@pytest.mark.slow
def test_all_checks_pass_on_a_cpu() -> None:
    """Catches: a check that fails where nothing is wrong."""
    status, results, messages = run_smoke()
    assert status == 0, (results, messages)
    assert sorted(result["name"] for result in results) == sorted(CHECKS)
