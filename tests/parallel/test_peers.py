"""A process that no longer answers: found by its number, and named by the others."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set
from helpers.runs import last_recorded_step

from alexnet_jax import distributed, peers
from alexnet_jax.peers import SilenceDetector
from alexnet_jax.status import read_status

# Runs main, which counts a process as lost after a few seconds.
IMPATIENT = """
import runpy, sys
from alexnet_jax import peers
peers.SILENT_SECONDS = 4.0
sys.argv[0] = "main"
runpy.run_module("alexnet_jax.main", run_name="__main__", alter_sys=True)
"""


def test_a_silent_process_is_found() -> None:
    """Catches: a process found too early, or never; another one named."""
    detector = SilenceDetector(0, 3, limit=10.0, now=0.0)
    for now in range(1, 25):
        detector.observe({0: str(now), 1: str(now), 2: str(min(now, 5))}, now)
        assert detector.find_silent(now) == (2 if now > 15 else None)


def test_a_process_that_has_ended_in_order_is_not_silent() -> None:
    """Catches: the others ended because one has finished a little earlier."""
    detector = SilenceDetector(0, 2, limit=10.0, now=0.0)
    for now in range(1, 40):
        detector.observe({0: str(now), 1: "done"}, now)
        assert detector.find_silent(now) is None


def test_a_service_that_does_not_answer_is_process_0() -> None:
    """Catches: any other process, or this one, named where the first one is stopped."""
    detector = SilenceDetector(2, 3, limit=10.0, now=0.0)
    detector.observe({0: "1", 1: "1", 2: "1"}, 1.0)
    found = [detector.find_silent(now) for now in (4.0, 8.0, 11.0, 12.0)]
    assert found == [None, None, None, 0]


def test_process_0_is_not_named_by_itself() -> None:
    """Catches: process 0 named as silent by its own detector, if its numbers come late, too."""
    detector = SilenceDetector(0, 2, limit=10.0, now=0.0)
    detector.observe({0: "1"}, 1.0)
    detector.observe({0: "1", 1: "1"}, 4.0)
    found = [detector.find_silent(now) for now in (5.0, 9.0, 12.0, 15.0)]
    assert found == [None, None, None, 1]


def test_a_process_that_was_stopped_itself_blames_nobody() -> None:
    """Catches: all others called silent after this one was stopped for a while."""
    detector = SilenceDetector(1, 3, limit=10.0, now=0.0)
    detector.observe({0: "1", 1: "1", 2: "1"}, 1.0)
    assert detector.find_silent(100.0) is None
    assert detector.find_silent(104.0) is None


def test_jax_is_more_patient() -> None:
    """Catches: JAX, which ends the process with a dump of its stack, before our message.

    Its processes call in twice in its limit, so that half of it may remain after the last call.
    """
    assert peers.SILENT_SECONDS + 10 < distributed.HEARTBEAT_SECONDS / 2


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_is_named(tmp_path: Path, stopped: int) -> None:
    """Catches: a wait for ever, JAX's dump, or a message without the process; "running" left in
    status.json by the first one."""
    write_idx_set(tmp_path / "data", train=40, test=10)
    config, workdir = processes.write_config(tmp_path, tmp_path / "data"), tmp_path / "run"
    port = processes.free_port()
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", IMPATIENT, f"--config={config}", f"--workdir={workdir}"),
                *("--config.parallel.data=2", "--config.max_steps=1000000", "--num_processes=2"),
                *(f"--coordinator_address=127.0.0.1:{port}", f"--process_id={number}"),
            ],
            cwd=ROOT,
            env=processes.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    other = started[1 - stopped]
    try:
        processes.wait_for(started[0], lambda: last_recorded_step(workdir) > 0)
        started[stopped].send_signal(signal.SIGSTOP)
        ended = processes.end(other)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert ended.returncode == 1
    message = f"process {1 - stopped} of 2: process {stopped} of 2 has not answered for 4 s"
    assert message in ended.stderr.splitlines()[-1]
    assert "Check failed" not in ended.stderr
    status = read_status(workdir)
    assert status is not None
    assert status.status == ("failed" if stopped else "running")
