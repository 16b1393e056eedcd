"""A first signal asks to stop, a second one stops, also where nobody reads stderr any more."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.runs import last_recorded_step, newest_state

from alexnet_jax import command
from alexnet_jax.preemption import PreemptionSignal
from alexnet_jax.status import read_status, track_status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_a_wish_and_a_second_stops(number: signal.Signals) -> None:
    """Catches: a second Ctrl-C that is swallowed; handlers not restored."""
    came: list[int] = []
    before = signal.signal(number, lambda n, _: came.append(n))
    seen = []
    try:
        with PreemptionSignal() as own:
            for _ in range(2):
                seen.append((own.signal, len(came)))
                signal.raise_signal(number)
            seen.append((own.signal, len(came)))
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert seen == [(None, 0), (number, 0), (number, 1)]
    assert came == [number] * 2


def test_hangups(restored_hangup: None) -> None:
    """Catches: a second SIGHUP that stops a run before it has saved; one that is ignored from the
    start, as under nohup, and stops it; the exit status of the SIGHUP for that of a signal before;
    a SIGHUP after the loop that ends the program while it still saves."""
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    for first in (signal.SIGHUP, signal.SIGTERM):
        with PreemptionSignal() as own:
            for number in (first, signal.SIGHUP, signal.SIGHUP):
                signal.raise_signal(number)
        assert own.signal == first
        signal.raise_signal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with PreemptionSignal():
        pass
    assert signal.getsignal(signal.SIGHUP) == signal.default_int_handler
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with PreemptionSignal() as own:
        signal.raise_signal(signal.SIGHUP)
    assert own.signal is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.fixture
def restored_hangup() -> Iterator[None]:
    """Restore the handler of SIGHUP after a test."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_outside_the_training_loop_is_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restored_hangup: None,
    number: signal.Signals,
    status: int,
) -> None:
    """Catches: "running" left in status.json by a SIGTERM during the final evaluation; a traceback;
    the exit status of the other signal."""

    def evaluate() -> int:
        signal.raise_signal(number)
        return 0

    monkeypatch.setattr(sys, "argv", ["main"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            command.run(lambda _: track_status([tmp_path], evaluate))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == status
    found = read_status(tmp_path)
    assert found is not None
    assert found.status == "interrupted"


@pytest.mark.parametrize(
    ("is_terminal", "number", "status"),
    [(False, signal.SIGINT, 130), (True, signal.SIGHUP, 129)],
    ids=["pipe", "terminal"],
)
def test_a_lost_stderr_does_not_keep_a_run_from_saving(
    tmp_path: Path, is_terminal: bool, number: signal.Signals, status: int
) -> None:
    """Catches: an exception in the handler that writes to a closed pipe, or to a terminal that is
    gone, or in a later line of the progress, so that nothing is saved, or the exit status is
    that of a closed pipe or a bug."""
    write_idx_set(tmp_path / "data", train=120, test=20)
    config, workdir = processes.write_config(tmp_path, tmp_path / "data"), tmp_path / "run"
    endless = {"max_steps": 10**6, "epochs": 10**6, "checkpoint_every": 10**6}
    overrides = [f"--config.{name}={value}" for name, value in endless.items()]
    reader, writer = os.openpty() if is_terminal else os.pipe()
    with processes.compiled_quickly():
        arguments = (f"--config={config}", f"--workdir={workdir}", *overrides)
        process = processes.start("main", *arguments, stderr=writer)
    os.close(writer)
    os.set_blocking(reader, False)

    def has_begun() -> bool:
        with suppress(BlockingIOError):
            os.read(reader, 2**16)
        return last_recorded_step(workdir) >= 8

    processes.wait_for(process, has_begun)
    os.close(reader)
    reached = last_recorded_step(workdir)
    process.send_signal(number)
    assert processes.end(process).returncode == status
    step, _ = newest_state(workdir)
    assert step >= reached
    found = read_status(workdir)
    assert found is not None
    assert (found.status, found.step) == ("interrupted", step)
    assert found.message == f"stopped by {number.name}"
