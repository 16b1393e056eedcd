"""Time calls in turns, so that a machine whose speed drifts slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Result = dict[str, Any]  # of a case of experiments.benchmark
OURS = "ours"


def time_interleaved(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, `repeats` times in turns, after two warm-up calls each."""
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


def compare_times(seconds: dict[str, list[float]], peers: Sequence[str]) -> Result:
    """Compare OURS with the fastest of the peers.

    Args:
        seconds: from `time_interleaved`.
        peers: names of calls in `seconds`.

    Returns:
        seconds, peer_seconds (medians), peer (its name), and ratio, above 1 where ours is faster:
        the median over the turns, with ratio_low and ratio_high.
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


def time_against_peers(
    ours: Callable[[], None], peers: dict[str, Callable[[], None]], repeats: int
) -> Result:
    """Time our call and those of the peers in turns, and compare as `compare_times` does."""
    return compare_times(time_interleaved({OURS: ours, **peers}, repeats), list(peers))
