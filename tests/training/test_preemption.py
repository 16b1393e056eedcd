"""A first signal asks to stop, a second one stops."""

import signal
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_the_training_loop_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """Catches: "running" left in status.json by a SIGTERM during the final evaluation; a traceback;
    the exit status of the other signal."""

    def evaluate() -> int:
        signal.raise_signal(number)
        return 0

    monkeypatch.setattr(sys, "argv", ["main"])
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
