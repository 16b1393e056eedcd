"""The results of figure 1's runs: epochs to a training error, the fastest rates, and the report."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.records import read_records
from experiments.relu_tanh_plot import Curve, Kind, plot_curves
from experiments.sweeps import sweep
from experiments.sweeps.run import Base, Run, run_name
from experiments.sweeps.training_error import compute_training_error, find_crossing

UNITS = {"relu": "ReLU", "tanh": "tanh"}
PAPER = "in the paper 6, at 25 % on CIFAR-10"


@dataclass(frozen=True)
class Result:
    """A row of relu_tanh.csv.

    Attributes:
        units: "relu" or "tanh".
        rate: the learning rate.
        threshold: of the training error, as a fraction.
        epochs: until the training error reaches the threshold; None if it never does.
        last_error: the training error of the last epoch, as a fraction.
        seconds: of the whole command that ended last.
    """

    units: str
    rate: float
    seed: int
    status: str
    threshold: float
    epochs: float | None = None
    last_error: float | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the run, such as tanh-0.01-2."""
        return run_name(self.units, self.rate, self.seed)

    @property
    def outcome(self) -> str:
        """When the threshold was reached, or why it was not."""
        if self.status != "done":
            return self.status
        if self.last_error is None:
            return "not reached, in less than an epoch"
        if self.epochs is None:
            return f"not reached, {_format_percent(self.last_error)} in the last epoch"
        return f"{self.epochs:.1f} epochs to {_format_percent(self.threshold)}"


def _format_percent(fraction: float) -> str:
    """Return a fraction in percent with three digits, such as 25 %."""
    return f"{100 * fraction:.3g} %"


def load_curve(base: Base, row: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return `compute_training_error` of a row's run."""
    return compute_training_error(read_records(base.workdir(row.name)))


def measure_row(base: Base, threshold: float, row: Result) -> Result:
    """Return the row with the epochs and the error of its run."""
    row = replace(row, threshold=threshold)
    if row.status != "done":
        return row
    epochs, errors = load_curve(base, row)
    last = float(errors[-1]) if errors.size else None
    return replace(row, epochs=find_crossing(threshold, epochs, errors), last_error=last)


def measure_again(base: Base, threshold: float, rows: list[Result]) -> list[Result]:
    """Measure the rows again for a threshold, and drop finished runs that must run again for it.

    A finished run is dropped if it stopped at a higher threshold, or if its records are gone and
    its row was measured for another threshold. If its records are gone and the threshold is the
    same, its row is kept.
    """
    found = []
    for row in rows:
        if row.status == "done" and not read_records(base.workdir(row.name)):
            if row.threshold == threshold:
                found.append(row)
        elif row.status != "done" or row.threshold <= threshold:
            found.append(measure_row(base, threshold, row))
    return found


def make_result(
    base: Base, threshold: float, run: Run, status: str, seconds: float | None
) -> Result:
    """Return the row of a run that has ended."""
    units, rate, seed = run.key
    return measure_row(
        base, threshold, Result(units, rate, seed, status, threshold, seconds=seconds)
    )


def fastest_rate(results: list[Result], units: str) -> float | None:
    """Return the rate whose first seed reaches the threshold first; None if none does."""
    first = first_seed_epochs(results, units)
    return min(first, key=lambda rate: first[rate], default=None)


def first_seed_epochs(results: list[Result], units: str) -> dict[float, float]:
    """Return the epochs to the threshold by rate, of the first seeds that reach it."""
    return {
        r.rate: r.epochs
        for r in results
        if (r.units, r.seed) == (units, 0) and r.epochs is not None
    }


def unknown_rates(results: list[Result], units: str, rates: Sequence[float]) -> set[float]:
    """Return the rates whose first seed has not been run to an end."""
    ended = {r.rate for r in results if (r.units, r.seed) == (units, 0) and not sweep.has_failed(r)}
    return {*rates} - ended


def warn_if_at_edge(results: list[Result], units: str) -> str:
    """Return a warning where the fastest rate is the lowest or the highest; "" elsewhere."""
    best = fastest_rate(results, units)
    rates = sorted({r.rate for r in results if r.units == units and not sweep.has_failed(r)})
    if best is None or best not in (rates[0], rates[-1]):
        return ""
    side, more = ("lowest", "lower") if best == rates[0] else ("highest", "higher")
    return f"{UNITS[units]}'s fastest rate, {best:g}, is the {side} tried: add {more} ones"


def select_seeds(results: list[Result], units: str, rate: float) -> list[Result]:
    """Return the rows of a rate."""
    return [r for r in results if (r.units, r.rate) == (units, rate)]


def reached_epochs(seeds: list[Result]) -> list[float]:
    """Return the epochs to the threshold of the seeds that reached it."""
    return [row.epochs for row in seeds if row.epochs is not None]


def format_results(results: list[Result], threshold: float) -> str:
    """Return Markdown: the epochs to the threshold, a learning rate a line, the fastest bold."""
    heads = [f"{name}: epochs to {_format_percent(threshold)}" for name in UNITS.values()]
    lines = [
        f"| learning rate | {' | '.join(heads)} |",
        f"|{'---|' * (1 + len(UNITS))}",
    ]
    for rate in sorted({r.rate for r in results}):
        cells = [_format_cell(results, units, rate) for units in UNITS]
        lines.append(f"| {rate:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_cell(results: list[Result], units: str, rate: float) -> str:
    """Return the mean epochs of the seeds of a rate, or why no seed reached the threshold."""
    seeds = select_seeds(results, units, rate)
    reached = reached_epochs(seeds)
    if not seeds:
        return "not run"
    if not reached:
        return "; ".join(dict.fromkeys(row.outcome.split(",")[0] for row in seeds))
    mean = f"{statistics.mean(reached):.1f}"
    mean = f"**{mean}**" if rate == fastest_rate(results, units) else mean
    return mean if len(seeds) == 1 else f"{mean} ({_format_spread(seeds)})"


def _format_spread(seeds: list[Result]) -> str:
    """Return how many seeds reached the threshold, with the fewest and the most epochs."""
    reached = reached_epochs(seeds)
    count = f"{len(reached)}" if len(reached) == len(seeds) else f"{len(reached)} of {len(seeds)}"
    return f"{count} seeds, {min(reached):.1f} to {max(reached):.1f}"


def summarize_results(
    results: list[Result], threshold: float, rates: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return the findings, one sentence per line.

    Args:
        results: the rows.
        threshold: of the training error, as a fraction.
        rates: the rates to be run, by kind of units.
    """
    lines, means, goal = [], {}, f"{_format_percent(threshold)} training error"
    for units, name in UNITS.items():
        best, unknown = fastest_rate(results, units), unknown_rates(results, units, rates[units])
        if best is not None:
            seeds = select_seeds(results, units, best)
            means[units] = statistics.mean(reached_epochs(seeds))
            some = f" ({_format_spread(seeds)})" if len(reached_epochs(seeds)) < len(seeds) else ""
            after = f"{means[units]:.1f} epochs, at learning rate {best:g}"
            lines.append(f"{name} reaches {goal} after {after}{some}.")
        elif not unknown:
            lines.append(f"{name} does not reach {goal} at any rate.")
        if unknown:
            have = "has" if len(unknown) == 1 else "have"
            count = f"{len(unknown)} of {name}'s {len(rates[units])} rates"
            lines.append(f"{count} {have} not been run to an end.")
    if len(means) == len(UNITS):
        ratio = means["tanh"] / means["relu"]
        lines.append(f"tanh needs {ratio:.1f} times the epochs of ReLU ({PAPER}).")
    return lines + [
        f"{warning}." for units in UNITS if (warning := warn_if_at_edge(results, units))
    ]


def plot_results(base: Base, threshold: float, results: list[Result]) -> Figure | None:
    """Plot the training errors as in figure 1: ReLU solid, tanh dashed, every seed a line.

    Runs without records are left out. Return None if none has any.
    """
    kinds = []
    for units, line, color in (("relu", "-", "C0"), ("tanh", "--", "C1")):
        best = fastest_rate(results, units)
        done = [r for r in results if r.units == units and r.status == "done"]
        curves = [Curve(*load_curve(base, r), r.rate == best) for r in done]
        kind = Kind(line, color, [curve for curve in curves if curve.epochs.size])
        if best is not None:
            mean = statistics.mean(reached_epochs(select_seeds(results, units, best)))
            goal = _format_percent(threshold)
            label = f"{UNITS[units]}, rate {best:g}: {mean:.1f} epochs to {goal}"
            kind = replace(kind, label=label, crossing=mean)
        kinds.append(kind)
    return plot_curves(kinds, threshold) if any(kind.curves for kind in kinds) else None


def make_report(
    base: Base, threshold: float, rates: Mapping[str, Sequence[float]], results: list[Result]
) -> tuple[str, Figure | None]:
    """Return the table with the findings, and the figure; None if there is nothing to plot."""
    findings = summarize_results(results, threshold, rates)
    text = "\n".join([format_results(results, threshold), "", *findings])
    return text, plot_results(base, threshold, results)
