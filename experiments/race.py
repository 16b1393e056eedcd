"""Timings of calls that take turns, so that a machine whose speed drifts slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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


def straight_line(points: Sequence[tuple[int, float]]) -> Result:
    """The straight line through (size, seconds), each weighed by 1 / seconds.

    Returns:
        points, seconds_each (the slope), seconds_before (the intercept), largest_deviation: the
        largest distance of a point from the line, as a share of the line; and a summary in words.
    """
    sizes, seconds = (np.array(column, float) for column in zip(*points, strict=True))
    slope, intercept = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    line = slope * sizes + intercept
    deviation = float(np.abs(seconds / line - 1).max())
    return {
        "points": [list(point) for point in points],
        "seconds_each": float(slope),
        "seconds_before": float(intercept),
        "largest_deviation": deviation,
        "summary": ", ".join(f"{size:,} images {time:.3g} s" for size, time in points)
        + f"; straight line {1000 * slope:.3g} ms an image and {intercept:.2g} s, "
        f"largest deviation {deviation:.1%}",
    }
