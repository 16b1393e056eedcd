"""Plot the sizes of networks, with their published errors."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.families.content import NetworkSummary

# Okabe and Ito's colors, which color-blind readers can tell apart; the line styles do without.
STYLES = {
    "AlexNet": ("#000000", "-"),
    "ZFNet": ("#E69F00", "--"),
    "VGG": ("#0072B2", "-."),
    "GoogLeNet": ("#009E73", (0, (1, 1))),
    "ResNet": ("#D55E00", "-"),
}
POINTS_PER_MILLION = 5.0  # area of a circle in square points for a million parameters
LEGEND_SIZES = (10, 50, 150)  # millions of parameters

# Where names of crowded networks stand; others are above their circle and right of their end.
NAME_BELOW_CIRCLE = ("VGG-16 (D)", "ResNet-50", "ResNet-101")
NAME_BELOW_END = ("ZFNet", "VGG-11 (A)", "ResNet-50")
NAME_LEFT_OF_END = ("AlexNet", "GoogLeNet", "ResNet-18", "ResNet-101")


def plot_families(summaries: Sequence[NetworkSummary]) -> Figure:
    """Plot errors over multiply-adds, with parameters as areas, and receptive fields over depth."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_errors(left, summaries)
    plot_fields(right, summaries)
    return figure


def plot_errors(axis: Axes, summaries: Sequence[NetworkSummary]) -> None:
    """Plot the top-5 error of networks over their multiply-adds, if it is published."""
    for summary in summaries:
        color, _ = STYLES[summary.family]
        x, y = summary.multiply_adds / 1e9, summary.published.top5
        if y is None:
            continue
        area = POINTS_PER_MILLION * summary.parameters / 1e6
        axis.scatter(x, y, s=area, color=color, alpha=0.35, edgecolors=color)
        axis.scatter(x, y, s=6, color=color)
        is_below = summary.name in NAME_BELOW_CIRCLE
        axis.annotate(
            summary.name,
            (x, y),
            xytext=(0, (-1 if is_below else 1) * (area**0.5 / 2 + 3)),
            textcoords="offset points",
            ha="center",
            va="top" if is_below else "bottom",
            fontsize=8,
        )
    for millions in LEGEND_SIZES:
        area = POINTS_PER_MILLION * millions
        axis.scatter([], [], s=area, color="0.8", edgecolors="0.4", label=f"{millions} M")
    axis.legend(title="parameters", frameon=False, labelspacing=1.4, fontsize=8)
    axis.set(
        xscale="log",
        xlabel="multiply-adds of one crop, 10⁹",
        ylabel="published top-5 error, %",
        xlim=(0.4, 40),
        ylim=(0, 21),
    )
    axis.set_xticks([0.5, 1, 2, 5, 10, 20], labels=["0.5", "1", "2", "5", "10", "20"])
    axis.minorticks_off()
    _tidy(axis)


def plot_fields(axis: Axes, summaries: Sequence[NetworkSummary]) -> None:
    """Plot the receptive field of each convolution over its depth."""
    for summary in summaries:
        color, style = STYLES[summary.family]
        sizes = summary.receptive_fields
        axis.plot(range(1, len(sizes) + 1), sizes, color=color, linestyle=style, linewidth=1.2)
        axis.plot(len(sizes), sizes[-1], "o", color=color, markersize=4)
        is_left, is_below = summary.name in NAME_LEFT_OF_END, summary.name in NAME_BELOW_END
        axis.annotate(
            summary.name,
            (len(sizes), sizes[-1]),
            xytext=(-6 if is_left else 6, 4 if is_left else -9 if is_below else 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=2, foreground="white")],  # over curves
        )
    crop = summaries[0].crop
    axis.axhline(crop, color="0.5", linewidth=0.8)
    axis.annotate(f"side of the input, {crop} pixels", (0.95, 1.05 * crop), fontsize=8)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="convolution, counted from the image",
        ylabel="side of the receptive field, pixels",
        xlim=(0.9, 400),
    )
    axis.set_xticks([1, 2, 5, 10, 20, 50, 100], labels=["1", "2", "5", "10", "20", "50", "100"])
    ticks = [3, 10, 30, 100, 300, 1000]
    axis.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axis.minorticks_off()
    _tidy(axis)


def _tidy(axis: Axes) -> None:
    """Remove what distracts from the data."""
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
