"""Time calls alternately, so that a machine whose speed drifts slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Result = dict[str, Any]  # of a benchmark case
OURS = "ours"


def time_interleaved(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, `repeats` times alternately, after two warm-up calls."""
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


def compare_times(seconds: dict[str, list[float]], references: Sequence[str]) -> Result:
    """Compare OURS with the fastest of the references.

    Args:
        seconds: from `time_interleaved`.
        references: names of calls in `seconds`.

    Returns:
        seconds and reference_seconds (medians), reference (its name), and ratio, above 1 where
        OURS is faster: the median over the repeats, with ratio_low and ratio_high.
    """
    reference = min(references, key=lambda name: statistics.median(seconds[name]))
    ratios = sorted(b / a for a, b in zip(seconds[OURS], seconds[reference], strict=True))
    return {
        "seconds": statistics.median(seconds[OURS]),
        "reference": reference,
        "reference_seconds": statistics.median(seconds[reference]),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }


def format_ratio(compared: Result) -> str:
    """Return the ratio of `compare_times` with its lowest and highest value."""
    return f"{compared['ratio']:.2f} ({compared['ratio_low']:.2f}–{compared['ratio_high']:.2f})"


def add_rates(compared: Result, images: int) -> Result:
    """Return the result of `compare_times` with rates, where each call takes so many images."""
    ours, reference = (images / compared[key] for key in ("seconds", "reference_seconds"))
    return {"images_per_second": ours, "reference_images_per_second": reference, **compared}


def time_with_references(
    ours: Callable[[], None], references: dict[str, Callable[[], None]], repeats: int
) -> Result:
    """Time our call and the references alternately, and compare them as `compare_times` does."""
    return compare_times(time_interleaved({OURS: ours, **references}, repeats), list(references))
