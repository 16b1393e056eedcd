"""Programs that sweeps start on this machine: how they are started, and stopped."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set

from alexnet_jax.errors import InputError
from alexnet_jax.status import read_status
from alexnet_jax.workdir import is_in_use, saved_steps
from experiments.ablations import Result
from experiments.sweeps import jobs
from experiments.sweeps.rows import read_rows


def start_in_a_session(words: list[str]) -> subprocess.Popen[str]:
    """Start Python as a terminal's foreground process, whose group a Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=processes.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_saves_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """Catches: a Ctrl-C of the terminal that reaches the training, too, which then stops at its
    second signal without saving; a SIGTERM that leaves the training alone; a sweep that ends before
    the training has saved; a run that is stopped recorded as failed, or not resumed; a run of which
    nothing is said until it ends. Checkpoints are written at the end only, or when the training is
    stopped."""
    write_idx_set(tmp_path / "data", train=120, test=20)
    words = ["-m", "experiments.ablations", f"--output={tmp_path / 'out'}", "--only=base"]
    words += [f"--config={processes.write_config(tmp_path, tmp_path / 'data')}", "--seeds=1"]
    words += ["--config.max_steps=1500", "--config.checkpoint_every=1500"]
    words += ["--config.epochs=1500"]
    workdir = tmp_path / "out" / "runs" / "base-0"
    sweep = start_in_a_session(words)
    log = workdir / "metrics.jsonl"
    processes.wait_for(sweep, lambda: log.exists() and log.stat().st_size > 0)
    if number == signal.SIGINT:
        os.killpg(sweep.pid, number)
    else:
        sweep.send_signal(number)
    sweep.wait(processes.TIMEOUT)
    in_use = is_in_use(workdir)
    ended = processes.end(sweep)
    assert not in_use
    assert ended.returncode == 128 + number, ended.stderr
    messages = tmp_path / "out" / "logs" / "base-0.log"
    assert f"base-0: started; its messages are in {messages}\n" in ended.stderr
    assert "base-0: stopped; the same command continues from the checkpoints\n" in ended.stderr
    status = read_status(workdir)
    assert status is not None
    assert (status.status, saved_steps(workdir)) == ("interrupted", [status.step])
    assert 0 < status.step < 1500
    assert read_rows(tmp_path / "out" / "ablations.csv", Result) == []
    if number == signal.SIGTERM:
        return  # what was saved is the same
    again = processes.end(start_in_a_session(words))
    assert again.returncode == 0, again.stderr
    assert max(saved_steps(workdir)) == 1500
    (row,) = read_rows(tmp_path / "out" / "ablations.csv", Result)
    assert row.status == "done"
    assert f"after step {status.step} of" in messages.read_text()


def test_a_program_sees_the_devices_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: GPUs hidden from the runs; a log without the messages, or that is begun anew when a
    run goes on; a failure that is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    program = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES']); sys.exit('failed')"
    executor = jobs.LocalExecutor(tmp_path / "logs")
    for _ in range(2):
        job = executor.start([sys.executable, "-c", program], "base-0")
        assert isinstance(job.exception(), subprocess.CalledProcessError)
        assert job.done()
    assert job.paths.stderr == tmp_path / "logs" / "base-0.log"
    lines = job.paths.stderr.read_text().splitlines()
    command = shlex.join([sys.executable, "-c", program])
    assert sorted(lines) == sorted(2 * [command, "1,2", "failed"])
    job = executor.start([sys.executable, "-c", ""], "base-1")
    assert job.exception() is None


# Runs a program, as experiments run others, whose end takes a while.
PARENT = """
from alexnet_jax import command
from experiments.sweeps.jobs import run_program

command.run(lambda _: run_program([sys.executable, "-c", PROGRAM]))
"""
# Counts its signals; on the first one it goes on for a second, on a second one it stops at once.
PROGRAM = """
received = []

def receive(number, frame):
    received.append(number)
    Path(FILE).write_text(f"{received}")
    if received[1:]:
        sys.exit("stopped at once")

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, receive)
Path(FILE).touch()
limit = time.monotonic() + 60
while not received and time.monotonic() < limit:
    time.sleep(0.01)
time.sleep(SECONDS)
Path(FILE).write_text(f"{received}, saved")
"""
IMPORTS = "import signal, sys, time\nfrom pathlib import Path\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("twice", [False, True])
def test_a_program_in_a_program_is_stopped_by_one_signal(
    tmp_path: Path, number: signal.Signals, twice: bool
) -> None:
    """Catches: a program that receives the terminal's Ctrl-C and a SIGTERM; one that is killed, or
    left behind, while it saves; one that cannot be stopped without saving."""
    file = tmp_path / "received"
    program = IMPORTS + PROGRAM.replace("FILE", repr(str(file)))
    program = program.replace("SECONDS", "60" if twice else "1")
    parent = start_in_a_session(["-c", IMPORTS + PARENT.replace("PROGRAM", repr(program))])
    processes.wait_for(parent, file.exists)
    os.killpg(parent.pid, number)
    if twice:
        processes.wait_for(parent, lambda: file.read_text() == "[15]")
        os.killpg(parent.pid, number)
    parent.wait(processes.TIMEOUT)
    received = file.read_text()  # before the program, if left behind, closes the pipe of messages
    ended = processes.end(parent)
    assert ended.returncode == 128 + number, ended.stderr
    assert received == ("[15, 15]" if twice else "[15], saved")


def test_a_job_of_slurm_saves_before_its_time_limit(tmp_path: Path) -> None:
    """Catches: a program that the signal before the limit ends, since all processes of a job
    receive it; one that is not told, or that is left behind; a failure that is none."""
    file = tmp_path / "received"
    program = IMPORTS + PROGRAM.replace("FILE", repr(str(file))).replace("SECONDS", "0.5")
    program += "sys.exit(143)"
    words = [sys.executable, "-c", program]
    call = f"from experiments.sweeps.slurm import Program\nProgram({words!r})()"
    job = start_in_a_session(["-c", call])
    processes.wait_for(job, file.exists)
    os.killpg(job.pid, signal.SIGUSR2)
    ended = processes.end(job)
    assert file.read_text() == "[15], saved"
    assert "returned non-zero exit status 143" in ended.stderr


def test_what_cannot_be_started_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a traceback for a folder without permission, or for a machine without memory for
    one more process; a message without the path."""
    (tmp_path / "logs").touch()
    executor = jobs.LocalExecutor(tmp_path / "logs")
    with pytest.raises(InputError, match=r"cannot write .*/logs/base-0\.log: File exists; check"):
        executor.start([sys.executable], "base-0")
    (tmp_path / "logs").unlink()

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(InputError, match="run base-0 cannot be started: Resource temporarily"):
        executor.start([sys.executable], "base-0")


def test_a_signal_while_a_program_is_started_comes_afterwards() -> None:
    """Catches: a program that goes on unattended since the signal came before it was known; a
    signal that is lost; the delay of later ones."""
    known = []

    def start() -> None:
        with jobs.delay_interrupts():
            signal.raise_signal(signal.SIGINT)
            known.append("a program")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert known
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
