"""A first signal asks to stop, a second one stops."""

import signal

import pytest

from alexnet_jax.preemption import PreemptionSignal


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
