"""Fit and plot time against the number of images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.benchmark.timing import Result

if TYPE_CHECKING:  # processes whose memory is measured should not load it
    from matplotlib.figure import Figure


def fit_line(points: Sequence[tuple[int, float]]) -> Result:
    """Fit a straight line to (size, seconds), each point weighted by 1 / seconds.

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
        + f"; straight line {1000 * slope:.3g} ms per image and {intercept:.2g} s, "
        f"largest deviation {deviation:.1%}",
    }


def plot_scaling(measured: Mapping[str, Result]) -> "Figure":
    """Plot seconds, and milliseconds per image, against size, with the fitted line.

    Args:
        measured: results of `fit_line` by the title of their panels.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(measured), 5.2), layout="constrained")
    axes = figure.subplots(2, len(measured), squeeze=False, sharex="col")
    for (above, below), (title, result) in zip(axes.T, measured.items(), strict=True):
        sizes, seconds = (np.array(column) for column in zip(*result["points"], strict=True))
        every = np.linspace(sizes[0], sizes[-1], 400)
        line = result["seconds_each"] * every + result["seconds_before"]
        for axis, straight, points in (
            (above, line, seconds),
            (below, 1000 * line / every, 1000 * seconds / sizes),
        ):
            axis.plot(every, straight, color="0.6", label="straight line")
            axis.plot(sizes, points, "o", color="C0", label="measured (median)")
            axis.set_ylim(0, 1.1 * max(*straight, *points))
            axis.spines[["top", "right"]].set_visible(False)
        above.set_title(title, fontsize=11)
        above.set_ylabel("seconds")
        below.set_ylabel("milliseconds per image")
        below.set_xlabel("images")
        below.set_xticks(sizes[-3:], [f"{size:,}" for size in sizes[-3:]])
    axes[0, 0].legend(frameon=False)
    return figure
