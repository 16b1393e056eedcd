"""Figure 1 of the paper: how many epochs a net of ReLUs needs, and the same net of tanh units.

    python -m experiments.relu_tanh --config=configs/alexnet.py:sample --output=DIR
        [--rates=0.001,0.002,…] [--seeds=3] [--threshold=0.10] [--list | --dry_run]
    python -m experiments.relu_tanh --config=configs/alexnet.py:cifar10 --output=DIR
        --config.epochs=40                                                # the paper's data

The net is `four_layers` of configs/variants.py, without normalisation, weight decay, dropout,
crops, reflections and colour noise, at a constant learning rate. "The learning rates for each
network were chosen independently to make training as fast as possible" (figure 1): every rate of
--rates is run with the first seed, and the one that reaches --threshold first is run with the
others too. Both kinds of units start from the same weights.

Training error is the share of training images that the net got wrong when it was trained on them,
averaged over an epoch: at epoch 2.5 over those of epochs 2 to 3. It is measured every ten steps.
The threshold is the paper's 25 %, or 10 % on the sample, whose images are easier.

Runs are started and gone on with as those of experiments.ablations. DIR/relu_tanh.csv,
relu_tanh.md and relu_tanh.png are written as they finish. Another --threshold needs no new runs.
"""

import runpy
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.writers import read_records
from experiments import sweep
from experiments.sweep import Base, Run

UNITS = {"relu": "ReLU", "tanh": "tanh"}
NET = ("four_layers", "no_lrn", "no_crops")  # words of configs/variants.py
WORDS = {"relu": NET, "tanh": (*NET, "tanh")}
PAPER = "in the paper 6, at 25 % on CIFAR-10"


@dataclass(frozen=True)
class Result:
    """A row of relu_tanh.csv.

    Attributes:
        units: "relu" or "tanh".
        rate: the learning rate.
        threshold: of the training error, as a fraction.
        epochs: until the training error is at the threshold; None if it never is.
        last_error: the training error of the last epoch, as a fraction.
        seconds: the whole command's time when it ended.
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
        """As in tanh-0.01-2."""
        return sweep.run_name(self.units, self.rate, self.seed)

    @property
    def outcome(self) -> str:
        """When it was there, or why it was not."""
        if self.status != "done":
            return self.status
        if self.last_error is None:
            return "not reached, in less than an epoch"
        if self.epochs is None:
            return f"not reached, {_percent(self.last_error)} in the last epoch"
        return f"{self.epochs:.1f} epochs to {_percent(self.threshold)}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def training_error(records: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and at each of them the error of the epoch's images around it.

    Args:
        records: of metrics.jsonl; those of training hold errors since the one before.

    Returns:
        Both (points,), from half an epoch after the start to half an epoch before the end; none
        where that is less than an epoch.
    """
    of = [record for record in records if record["split"] == "train"]
    ends = np.array([0.0, *(record["epoch"] for record in of)])
    errors = np.array([record["top1_error"] for record in of])
    wrong = np.array([0.0, *np.cumsum(errors * np.diff(ends))])  # since the start, in epochs
    at = ends[(ends >= 0.5) & (ends <= ends[-1] - 0.5)]
    return at, np.interp(at + 0.5, ends, wrong) - np.interp(at - 0.5, ends, wrong)


def epochs_to(threshold: float, epochs: np.ndarray, errors: np.ndarray) -> float | None:
    """When a curve is at the threshold for the first time, on a line between its points.

    The first point itself where it is below already; None for a curve that never is.
    """
    below = np.flatnonzero(errors <= threshold)
    if not below.size:
        return None
    after = below[0]
    if not after:
        return float(epochs[0])
    pair = [after, after - 1]  # np.interp wants what it looks up to rise
    return float(np.interp(threshold, errors[pair], epochs[pair]))


def curve(base: Base, row: Result) -> tuple[np.ndarray, np.ndarray]:
    """The training error of a row's run, as `training_error` has it."""
    return training_error(read_records(base.workdir(row.name)))


def measure(base: Base, threshold: float, row: Result) -> Result:
    """The row with what its run's metrics.jsonl says."""
    row = replace(row, threshold=threshold)
    if row.status != "done":
        return row
    epochs, errors = curve(base, row)
    last = float(errors[-1]) if errors.size else None
    return replace(row, epochs=epochs_to(threshold, epochs, errors), last_error=last)


def result(base: Base, threshold: float, run: Run, status: str, seconds: float | None) -> Result:
    """The row of a run that has ended."""
    units, rate, seed = run.key
    return measure(base, threshold, Result(units, rate, seed, status, threshold, seconds=seconds))


def plain(base: Base) -> Base:
    """The base without what is against overfitting, unless the command line has it."""
    fields = {
        "weight_decay": 0.0,
        "data.lighting": "none",
        "data.crop": base.config.data.image_size,
        "schedule.rule": "epochs",
        "schedule.drop_epochs": (),
        "log_every": 10,
        "evaluate_every": base.config.epochs,
    }
    return replace(base, overrides={**fields, **base.overrides})


def check(base: Base) -> None:
    """Raise InputError for a config file, or a variant, that has no four-layer net."""
    for words in WORDS.values():
        path, _, variant = base.variant(*words).partition(":")
        try:
            runpy.run_path(path)["get_config"](variant)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(
                f"--config={base.file} does not make the net of figure 1: {error}"
            ) from None


def plan(base: Base, rates: Sequence[float], seeds: int, results: list[Result]) -> list[Run]:
    """Every rate with the first seed; of units all of whose rates are known, the fastest with
    the others too."""
    keys = [(units, rate, 0) for rate in rates for units in UNITS]
    for units in UNITS:
        best = fastest(results, units)
        if best is not None and not unknown(results, units, rates):
            keys += [(units, best, seed) for seed in range(1, seeds)]
    runs = []
    for units, rate, seed in keys:
        says, fields = (
            f"{UNITS[units]}, learning rate {rate:g}",
            dict(learning_rate=rate, seed=seed),
        )
        runs.append(base.run((units, rate, seed), says, WORDS[units], fields))
    return runs


def fastest(results: list[Result], units: str) -> float | None:
    """The rate whose first seed is at the threshold first; None if none is."""
    first = {
        r.rate: r.epochs
        for r in results
        if (r.units, r.seed) == (units, 0) and r.epochs is not None
    }
    return min(first, key=lambda rate: first[rate], default=None)


def unknown(results: list[Result], units: str, rates: Sequence[float]) -> set[float]:
    """Rates whose first seed has not been run to an end."""
    ended = {r.rate for r in results if (r.units, r.seed) == (units, 0) and not sweep.has_failed(r)}
    return {*rates} - ended


def edge(results: list[Result], units: str) -> str:
    """What to try where the fastest rate is the lowest or the highest; "" where it is neither."""
    best = fastest(results, units)
    rates = sorted({r.rate for r in results if r.units == units and not sweep.has_failed(r)})
    if best is None or best not in (rates[0], rates[-1]):
        return ""
    side, more = ("lowest", "lower") if best == rates[0] else ("highest", "higher")
    return f"{UNITS[units]}'s fastest rate, {best:g}, is the {side} that was tried: add {more} ones"


def seeds_of(results: list[Result], units: str, rate: float) -> list[Result]:
    """The rows of a rate."""
    return [r for r in results if (r.units, r.rate) == (units, rate)]


def times(seeds: list[Result]) -> list[float]:
    """Epochs to the threshold, of the seeds that came to it."""
    return [row.epochs for row in seeds if row.epochs is not None]


def table(results: list[Result], threshold: float) -> str:
    """Markdown: the epochs to the threshold, a learning rate a line; the fastest of each bold."""
    heads = [f"{name}: epochs to {_percent(threshold)}" for name in UNITS.values()]
    lines = [
        f"| learning rate | {' | '.join(heads)} |",
        f"|{'---|' * (1 + len(UNITS))}",
    ]
    for rate in sorted({r.rate for r in results}):
        cells = [_cell(results, units, rate) for units in UNITS]
        lines.append(f"| {rate:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: list[Result], units: str, rate: float) -> str:
    seeds = seeds_of(results, units, rate)
    there = times(seeds)
    if not seeds:
        return "not run"
    if not there:
        return "; ".join(dict.fromkeys(row.outcome.split(",")[0] for row in seeds))
    mean = f"{statistics.mean(there):.1f}"
    mean = f"**{mean}**" if rate == fastest(results, units) else mean
    return mean if len(seeds) == 1 else f"{mean} ({_spread(seeds)})"


def _spread(seeds: list[Result]) -> str:
    there = times(seeds)
    count = f"{len(there)}" if len(there) == len(seeds) else f"{len(there)} of {len(seeds)}"
    return f"{count} seeds, {min(there):.1f} to {max(there):.1f}"


def summary(results: list[Result], threshold: float) -> list[str]:
    """What came out, a sentence a line."""
    lines, means, there = [], {}, f"{_percent(threshold)} training error"
    for units, name in UNITS.items():
        best = fastest(results, units)
        if best is None:
            lines.append(f"{name} is not at {there} with any rate.")
            continue
        seeds = seeds_of(results, units, best)
        means[units] = statistics.mean(times(seeds))
        some = f" ({_spread(seeds)})" if len(times(seeds)) < len(seeds) else ""
        after = f"{means[units]:.1f} epochs, at learning rate {best:g}"
        lines.append(f"{name} is at {there} after {after}{some}.")
    if len(means) == len(UNITS):
        ratio = means["tanh"] / means["relu"]
        lines.append(f"tanh needs {ratio:.1f} times the epochs of ReLU ({PAPER}).")
    return lines + [f"{said}." for units in UNITS if (said := edge(results, units))]


def picture(base: Base, threshold: float, results: list[Result]) -> Figure:
    """As the paper's figure 1: ReLU solid, tanh dashed, every seed a line; rates that were
    slower are thin, and may lie above the picture."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    highest = threshold
    for color, line, units in (("C0", "-", "relu"), ("C1", "--", "tanh")):
        best = fastest(results, units)
        for row in (r for r in results if r.units == units and r.status == "done"):
            epochs, errors = curve(base, row)
            chosen = row.rate == best
            width, alpha = (1.8, 0.9) if chosen else (0.7, 0.35)
            axis.plot(epochs, 100 * errors, line, color=color, linewidth=width, alpha=alpha)
            if chosen:
                highest = max(highest, errors[0])
        if best is not None:
            mean = statistics.mean(times(seeds_of(results, units, best)))
            axis.plot([mean, mean], [0, 100 * threshold], color=color, linewidth=1, alpha=0.5)
            label = f"{UNITS[units]}, rate {best:g}: {mean:.1f} epochs to {_percent(threshold)}"
            axis.plot([], [], line, color=color, linewidth=1.8, label=label)
    axis.plot([], [], color="0.6", linewidth=0.7, label="other rates")
    axis.axhline(100 * threshold, color="0.5", linewidth=1, linestyle=":", zorder=0)
    axis.set(xlabel="epochs", ylabel="training error, % (mean over an epoch)")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 110 * highest)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    return figure


def report(base: Base, threshold: float, results: list[Result]) -> tuple[str, Figure | None]:
    """The table with what it says, and the picture."""
    text = "\n".join([table(results, threshold), "", *summary(results, threshold)])
    done = any(r.status == "done" for r in results)
    return text, picture(base, threshold, results) if done else None


def parse_rates(given: list[str]) -> list[float]:
    """The learning rates of --rates, each once.

    Raises:
        InputError: none, or one that is no positive number.
    """
    try:
        rates = [float(f"{float(rate):g}") for rate in given]  # as in the names of runs
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f"--rates={','.join(given)}; expected numbers above 0, as 0.01,0.02,0.05")
    return [*dict.fromkeys(rates)]


def main(_: list[str]) -> int:
    """The command."""
    flag = flags.FLAGS
    rates, base, threshold = parse_rates(flag.rates), plain(Base.given()), flag.threshold
    if threshold is None:
        threshold = 0.10 if flag.config.data.name == "sample" else 0.25
    check(base)
    whole = sweep.Sweep(
        base, "relu_tanh", flag.jobs, kind=Result,
        plan=partial(plan, base, rates, flag.seeds),
        result=partial(result, base, threshold),
        report=partial(report, base, threshold),
    )  # fmt: skip
    whole.results = [measure(base, threshold, row) for row in whole.results]
    later = [name for units, name in UNITS.items() if unknown(whole.results, units, rates)]
    if more := len(later) * (flag.seeds - 1):
        rate = f"the fastest rate of {' and of '.join(later)}"
        print(f"When all rates are known, {more} runs follow with {rate}.", file=sys.stderr)
    return whole.main()


if __name__ == "__main__":
    command.define_config()
    sweep.define_flags()
    flags.DEFINE_list(
        "rates", ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05"], "Learning rates to try."
    )
    flags.DEFINE_integer("seeds", 3, "Runs of each units' fastest rate.", lower_bound=1)
    flags.DEFINE_float(
        "threshold", None, "Training error to come to; by default 0.25, on the sample 0.10.",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip
    command.run(main)
