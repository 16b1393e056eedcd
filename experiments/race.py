"""Timings of calls that take turns, so that a machine whose speed drifts slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Result = dict[str, Any]  # of a case of experiments.benchmark
OURS = "ours"


def take_turns(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times in turns, after two of each to warm up."""
    for call in calls.values():
        call()
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: dict[str, list[float]], peers: Sequence[str]) -> Result:
    """What `take_turns` says of OURS and the fastest of the peers.

    Returns:
        seconds, peer_seconds (medians), peer (its name), ratio, above 1 where ours is faster: the
        median over the turns, with ratio_low and ratio_high.
    """
    peer = min(peers, key=lambda name: statistics.median(seconds[name]))
    ratios = sorted(b / a for a, b in zip(seconds[OURS], seconds[peer], strict=True))
    return {
        "seconds": statistics.median(seconds[OURS]),
        "peer": peer,
        "peer_seconds": statistics.median(seconds[peer]),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }


def race(ours: Callable[[], None], peers: dict[str, Callable[[], None]], repeats: int) -> Result:
    """Ours and the peers in turns, ours against the fastest of them: see `compare`."""
    return compare(take_turns({OURS: ours, **peers}, repeats), list(peers))
