"""Run figure 1 of the paper: the epochs that a model needs with ReLUs and with tanh units.

    python -m experiments.relu_tanh --config=configs/alexnet.py:sample --output=DIR
        [--rates=0.001,0.002,…] [--seeds=3] [--threshold=0.10] [--list | --dry_run]
    python -m experiments.relu_tanh --config=configs/alexnet.py:cifar10 --output=DIR
        --config.epochs=40                                                # the paper's data

The model is `four_layers` of configs/variants.py, without normalization, weight decay, dropout,
crops, reflections and color noise, at a constant learning rate. "The learning rates for each
network were chosen independently to make training as fast as possible" (figure 1): every rate of
--rates is run with the first seed, and the one that reaches --threshold first is run with the
others too. Both kinds of units start from the same weights.

Training error is the share of training images that are predicted wrong while the model is trained
on them, averaged over an epoch: at epoch 2.5 over those of epochs 2 to 3. It is recorded every ten
steps.
The threshold is the paper's 25 %, or 10 % on the sample, whose images are easier.

Runs are started and resumed as those of experiments.ablations. DIR/relu_tanh.csv,
relu_tanh.md and relu_tanh.png are written as they finish. Another --threshold needs no new runs.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.writers import Record, read_records
from experiments.sweeps import sweep
from experiments.sweeps.sweep import Base, Run

UNITS = {"relu": "ReLU", "tanh": "tanh"}
MODEL = ("four_layers", "no_lrn", "no_crops")  # words of configs/variants.py
WORDS = {"relu": MODEL, "tanh": (*MODEL, "tanh")}
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
        return sweep.run_name(self.units, self.rate, self.seed)

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
    return f"{100 * fraction:.3g} %"


def compute_training_error(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs, and for each the error averaged over the epoch centered at it.

    Args:
        records: of metrics.jsonl; a training record has the errors since the one before.

    Returns:
        Both (points,), from half an epoch after the start to half an epoch before the end;
        empty for less than an epoch.
    """
    train = [record for record in records if record["split"] == "train"]
    ends = np.array([0.0, *(record["epoch"] for record in train)])
    errors = np.array([record["top1_error"] for record in train])
    wrong = np.array([0.0, *np.cumsum(errors * np.diff(ends))])  # since the start, in epochs
    at = ends[(ends >= 0.5) & (ends <= ends[-1] - 0.5)]
    return at, np.interp(at + 0.5, ends, wrong) - np.interp(at - 0.5, ends, wrong)


def find_crossing(threshold: float, epochs: np.ndarray, errors: np.ndarray) -> float | None:
    """Return the epoch at which a curve first reaches the threshold, interpolating linearly.

    That is the first point where it is below already; None for a curve that never reaches it.
    """
    below = np.flatnonzero(errors <= threshold)
    if not below.size:
        return None
    after = below[0]
    if not after:
        return float(epochs[0])
    pair = [after, after - 1]  # np.interp needs ascending abscissas
    return float(np.interp(threshold, errors[pair], epochs[pair]))


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


def make_result(
    base: Base, threshold: float, run: Run, status: str, seconds: float | None
) -> Result:
    """Return the row of a run that has ended."""
    units, rate, seed = run.key
    return measure_row(
        base, threshold, Result(units, rate, seed, status, threshold, seconds=seconds)
    )


def without_regularization(base: Base) -> Base:
    """Return the base without measures against overfitting that the command line does not set."""
    fields = {
        "optimizer.weight_decay": 0.0,
        "data.lighting": "none",
        "data.crop": base.config.data.image_size,
        "schedule.rule": "epochs",
        "schedule.drop_epochs": (),
        "log_every": 10,
        "evaluate_every": base.config.epochs,
    }
    return replace(base, overrides={**fields, **base.overrides})


def check_model(base: Base) -> None:
    """Raise InputError for a config file, or a variant, that has no four-layer model."""
    for words in WORDS.values():
        try:
            command.load_config(base.variant(*words))
        except InputError as error:
            raise InputError(
                f"--config={base.file} does not make the model of figure 1: {error}"
            ) from None


def plan_runs(base: Base, rates: Sequence[float], seeds: int, results: list[Result]) -> list[Run]:
    """Return every rate with the first seed, and the fastest rate with the other seeds.

    The latter only of units whose rates have all been run.
    """
    keys = [(units, rate, 0) for rate in rates for units in UNITS]
    for units in UNITS:
        best = fastest_rate(results, units)
        if best is not None and not unknown_rates(results, units, rates):
            keys += [(units, best, seed) for seed in range(1, seeds)]
    runs = []
    for units, rate, seed in keys:
        description = f"{UNITS[units]}, learning rate {rate:g}"
        fields = dict(learning_rate=rate, seed=seed)
        runs.append(base.make_run((units, rate, seed), description, WORDS[units], fields))
    return runs


def fastest_rate(results: list[Result], units: str) -> float | None:
    """Return the rate whose first seed reaches the threshold first; None if none does."""
    first = {
        r.rate: r.epochs
        for r in results
        if (r.units, r.seed) == (units, 0) and r.epochs is not None
    }
    return min(first, key=lambda rate: first[rate], default=None)


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
    reached = reached_epochs(seeds)
    count = f"{len(reached)}" if len(reached) == len(seeds) else f"{len(reached)} of {len(seeds)}"
    return f"{count} seeds, {min(reached):.1f} to {max(reached):.1f}"


def summarize_results(results: list[Result], threshold: float) -> list[str]:
    """Return the findings, a sentence a line."""
    lines, means, goal = [], {}, f"{_format_percent(threshold)} training error"
    for units, name in UNITS.items():
        best = fastest_rate(results, units)
        if best is None:
            lines.append(f"{name} does not reach {goal} at any rate.")
            continue
        seeds = select_seeds(results, units, best)
        means[units] = statistics.mean(reached_epochs(seeds))
        some = f" ({_format_spread(seeds)})" if len(reached_epochs(seeds)) < len(seeds) else ""
        after = f"{means[units]:.1f} epochs, at learning rate {best:g}"
        lines.append(f"{name} reaches {goal} after {after}{some}.")
    if len(means) == len(UNITS):
        ratio = means["tanh"] / means["relu"]
        lines.append(f"tanh needs {ratio:.1f} times the epochs of ReLU ({PAPER}).")
    return lines + [
        f"{warning}." for units in UNITS if (warning := warn_if_at_edge(results, units))
    ]


def plot_results(base: Base, threshold: float, results: list[Result]) -> Figure:
    """Plot the training errors as in figure 1: ReLU solid, tanh dashed, every seed a line.

    Slower rates are thin, and may lie above the figure.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    highest = threshold
    for color, line, units in (("C0", "-", "relu"), ("C1", "--", "tanh")):
        best = fastest_rate(results, units)
        for row in (r for r in results if r.units == units and r.status == "done"):
            epochs, errors = load_curve(base, row)
            chosen = row.rate == best
            width, alpha = (1.8, 0.9) if chosen else (0.7, 0.35)
            axis.plot(epochs, 100 * errors, line, color=color, linewidth=width, alpha=alpha)
            if chosen:
                highest = max(highest, errors[0])
        if best is not None:
            mean = statistics.mean(reached_epochs(select_seeds(results, units, best)))
            axis.plot([mean, mean], [0, 100 * threshold], color=color, linewidth=1, alpha=0.5)
            label = (
                f"{UNITS[units]}, rate {best:g}: {mean:.1f} epochs to {_format_percent(threshold)}"
            )
            axis.plot([], [], line, color=color, linewidth=1.8, label=label)
    axis.plot([], [], color="0.6", linewidth=0.7, label="other rates")
    axis.axhline(100 * threshold, color="0.5", linewidth=1, linestyle=":", zorder=0)
    axis.set(xlabel="epochs", ylabel="training error, % (mean over an epoch)")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 110 * highest)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    return figure


def make_report(base: Base, threshold: float, results: list[Result]) -> tuple[str, Figure | None]:
    """Return the table with the findings, and the figure."""
    findings = summarize_results(results, threshold)
    text = "\n".join([format_results(results, threshold), "", *findings])
    done = any(r.status == "done" for r in results)
    return text, plot_results(base, threshold, results) if done else None


def parse_rates(given: list[str]) -> list[float]:
    """Return the learning rates of --rates, each once.

    Raises:
        InputError: none, or one that is not a positive number.
    """
    try:
        rates = [float(f"{float(rate):g}") for rate in given]  # as in the names of runs
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f"--rates={','.join(given)}; expected numbers above 0, as 0.01,0.02,0.05")
    return [*dict.fromkeys(rates)]


def main(_: list[str]) -> int:
    """Run the command."""
    flag = flags.FLAGS
    rates, threshold = parse_rates(flag.rates), flag.threshold
    base = without_regularization(Base.from_flags())
    if threshold is None:
        threshold = 0.10 if base.config.data.name == "sample" else 0.25
    check_model(base)
    experiment = sweep.Sweep(
        base, "relu_tanh", flag.jobs, row_type=Result,
        plan=partial(plan_runs, base, rates, flag.seeds),
        make_row=partial(make_result, base, threshold),
        make_report=partial(make_report, base, threshold),
    )  # fmt: skip
    experiment.results = [measure_row(base, threshold, row) for row in experiment.results]
    later = [
        name for units, name in UNITS.items() if unknown_rates(experiment.results, units, rates)
    ]
    if more := len(later) * (flag.seeds - 1):
        rate = f"the fastest rate of {' and of '.join(later)}"
        print(
            f"Once all rates have finished, {more} more runs follow with {rate}.", file=sys.stderr
        )
    return experiment.main()


if __name__ == "__main__":
    command.define_config()
    sweep.define_flags()
    flags.DEFINE_list(
        "rates", ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05"], "Learning rates to try."
    )
    flags.DEFINE_integer("seeds", 3, "Runs of each units' fastest rate.", lower_bound=1)
    flags.DEFINE_float(
        "threshold", None, "Training error to reach; by default 0.25, on the sample 0.10.",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip
    command.run(main)
