"""The figure of experiments.relu_tanh: training errors over epochs, as in figure 1 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """The training error of a run.

    Attributes:
        epochs: (points,) epochs.
        errors: (points,) errors as fractions.
        is_fastest: whether the run has the fastest rate of its kind of units.
    """

    epochs: np.ndarray
    errors: np.ndarray
    is_fastest: bool


@dataclass(frozen=True)
class Kind:
    """The runs of a kind of units.

    Attributes:
        line: style of the lines.
        color: color of the lines.
        curves: the curves of all runs that have finished.
        label: text of the legend about the fastest rate.
        crossing: mean epoch at which the fastest rate reaches the threshold; None if none does.
    """

    line: str
    color: str
    curves: Sequence[Curve]
    label: str = ""
    crossing: float | None = None


def plot_curves(kinds: Sequence[Kind], threshold: float) -> Figure:
    """Plot the training errors of every seed, and the epochs to the threshold, a fraction.

    Slower rates are thin, and may lie above the figure.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    highest = threshold
    for kind in kinds:
        for curve in kind.curves:
            width, alpha = (1.8, 0.9) if curve.is_fastest else (0.7, 0.35)
            axis.plot(
                curve.epochs, 100 * curve.errors, kind.line,
                color=kind.color, linewidth=width, alpha=alpha,
            )  # fmt: skip
            if curve.is_fastest:
                highest = max(highest, curve.errors[0])
        if kind.crossing is not None:
            ends = [kind.crossing, kind.crossing]
            axis.plot(ends, [0, 100 * threshold], color=kind.color, linewidth=1, alpha=0.5)
            axis.plot([], [], kind.line, color=kind.color, linewidth=1.8, label=kind.label)
    if not all(curve.is_fastest for kind in kinds for curve in kind.curves):
        axis.plot([], [], color="0.6", linewidth=0.7, label="other rates")
    axis.axhline(100 * threshold, color="0.5", linewidth=1, linestyle=":", zorder=0)
    axis.set(xlabel="epochs", ylabel="training error, % (mean over an epoch)")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 110 * highest)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    return figure
