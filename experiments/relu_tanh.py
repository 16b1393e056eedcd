"""Run figure 1 of the paper: the epochs that a model needs with ReLUs and with tanh units.

    python -m experiments.relu_tanh --config=configs/alexnet.py:sample --output=DIR
        [--rates=0.001,0.002,…] [--seeds=3] [--seeds_together] [--threshold=0.10]
        [--list | --dry_run]
    python -m experiments.relu_tanh --config=configs/cifar.py:18pct --own_model --output=DIR
        --config.data.dir=BINARY_FILES --config.epochs=60 --relu_rates=0.002,0.004,0.001
        --tanh_rates=0.008,0.016,0.004                                    # the paper's data

The model is `four_layers` of configs/variants.py, or with --own_model that of the config, without
normalization, weight decay, dropout, crops, reflections and color noise, at a constant learning
rate. "The learning rates for each network were chosen independently to make training as fast as
possible" (figure 1): every rate is run with the first seed, in the order given and both kinds of
units in turn, and the one that reaches --threshold first is run with the others too. Both kinds of
units start from the same weights.

A run stops after the epoch in which its training error reaches the threshold, and one of the first
seed also when another rate has been faster. So begin with the rates that are likely to be good.

Training error is the share of training images that are predicted wrong while the model is trained
on them, averaged over an epoch: at epoch 2.5 over those of epochs 2 to 3. It is recorded every ten
steps. The threshold is the paper's 25 %, or 10 % on the sample, whose images are easier.

Runs are started and resumed as those of experiments.ablations, and continued with a lower
--threshold. DIR/relu_tanh.csv, relu_tanh.md and relu_tanh.png are written as they finish.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from absl import flags

from alexnet_jax import command
from alexnet_jax.config import sequential_model, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, Dropout, WithinChannelLRN
from alexnet_jax.workdir import read_config
from experiments.relu_tanh_results import (
    UNITS,
    Result,
    fastest_rate,
    first_seed_epochs,
    make_report,
    make_result,
    measure_again,
    unknown_rates,
)
from experiments.sweeps import sweep
from experiments.sweeps.exclusive import exclusive
from experiments.sweeps.run import Base, Run

MODEL = ("four_layers", "no_lrn")  # words of configs/variants.py


def without_regularization(base: Base, threshold: float) -> Base:
    """Return the base without measures against overfitting, and with an end at the threshold.

    Rates and images are the same in every epoch. Fields that the command line sets are kept. The
    end is a little below the threshold, since the epochs of `compute_training_error` need not be
    whole numbers of steps.
    """
    multipliers = base.config.schedule.multipliers
    fields = {
        "optimizer.weight_decay": 0.0,
        "data.lighting": "none",
        "data.crop": base.config.data.image_size,
        "data.crop_positions": "center",
        "data.flip": False,
        "stop_error": 0.99 * threshold,
        "schedule.rule": "epochs",
        "schedule.drop_epochs": (),
        "schedule.warmup_steps": 0,
        "schedule.multipliers": tuple(entry for entry in multipliers if entry[1] == 1),
        "data.stages": (),
        "log_every": 10,
        "evaluate_every": base.config.epochs,
    }
    return replace(base, overrides={**fields, **base.overrides})


def choose_words(base: Base, *, own_model: bool) -> dict[str, tuple[str, ...]]:
    """Return the words that make the model of each kind of units out of the config's.

    With `own_model` that is the config's, without normalization and dropout.

    Raises:
        InputError: the config file, or the variant, does not have these words.
    """
    model: tuple[str, ...] = MODEL
    if own_model:
        ops = sequential_model(base.config).ops.values()
        removable = (("no_lrn", LRN | WithinChannelLRN), ("no_dropout", Dropout))
        model = tuple(word for word, kind in removable if any(isinstance(op, kind) for op in ops))
    words = {"relu": model, "tanh": (*model, "tanh")}
    for variant in words.values():
        try:
            command.load_config(base.variant(*variant))
        except InputError as error:
            raise InputError(
                f"--config={base.file} does not make the model of figure 1: {error}"
            ) from None
    return words


def check_model(base: Base, words: Mapping[str, Sequence[str]], *, own_model: bool) -> None:
    """Check that the runs in `base.output` have the model of this command.

    Runs without a readable config.json are skipped.

    Args:
        base: the settings of the command.
        words: words of the variant, by kind of units.
        own_model: whether --own_model was given; for the message.

    Raises:
        InputError: a run has another model, as with and without `own_model`.
    """
    for units, chosen in words.items():
        given = with_changes(command.load_config(base.variant(*chosen)), base.overrides)
        expected_ops = sequential_model(given).ops
        for path in sorted(base.output.glob(f"runs/{units}-*/config.json")):
            try:
                recorded_ops = sequential_model(read_config(path.parent)).ops
            except InputError:
                continue
            if recorded_ops != expected_ops:
                raise InputError(
                    f"{path.parent} was made with another model; given is --config={base.file} "
                    f"{'with' if own_model else 'without'} --own_model; expected --config and "
                    f"--own_model as for the runs in --output={base.output}, or another --output"
                )


def plan_runs(
    base: Base,
    words: Mapping[str, Sequence[str]],
    rates: Mapping[str, Sequence[float]],
    seeds: int,
    results: list[Result],
) -> list[Run]:
    """Return every rate with the first seed, and the fastest rate with the other seeds.

    The latter only of units whose rates have all been run. Runs of the first seed end where their
    rate can no longer be the fastest. The words and the rates are given by kind of units.
    """
    turns = zip_longest(*([(units, rate, 0) for rate in rates[units]] for units in UNITS))
    keys = [key for turn in turns for key in turn if key is not None]
    limits = {  # of the first seed
        units: min(base.config.epochs, math.ceil(min(first.values()) + 0.5))
        for units in UNITS
        if (first := first_seed_epochs(results, units))
    }
    for units in UNITS:
        best = fastest_rate(results, units)
        if best is not None and not unknown_rates(results, units, rates[units]):
            keys += [(units, best, seed) for seed in range(1, seeds)]
    runs = []
    for units, rate, seed in keys:
        description = f"{UNITS[units]}, learning rate {rate:g}"
        fields: dict[str, float] = dict(learning_rate=rate, seed=seed)
        if seed == 0 and units in limits:
            fields["epochs"] = limits[units]
        runs.append(base.make_run((units, rate, seed), description, words[units], fields))
    return runs


def parse_rates(name: str, given: list[str]) -> list[float]:
    """Return the learning rates of a flag, each once.

    Raises:
        InputError: none, or one that is not a positive number.
    """
    try:
        rates = [float(f"{float(rate):g}") for rate in given]  # as in the names of runs
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f"--{name}={','.join(given)}; expected numbers above 0, as 0.01,0.02,0.05")
    return [*dict.fromkeys(rates)]


@exclusive
def main(_: list[str]) -> int:
    """Run the command."""
    flag = flags.FLAGS
    base, threshold = Base.from_flags(), flag.threshold
    if threshold is None:
        threshold = 0.10 if base.config.data.name == "sample" else 0.25
    base = without_regularization(base, threshold)
    common = parse_rates("rates", flag.rates)
    rates = dict(
        relu=common if flag.relu_rates is None else parse_rates("relu_rates", flag.relu_rates),
        tanh=common if flag.tanh_rates is None else parse_rates("tanh_rates", flag.tanh_rates),
    )
    words = choose_words(base, own_model=flag.own_model)
    check_model(base, words, own_model=flag.own_model)
    experiment = sweep.Sweep(
        base, "relu_tanh", flag.jobs, seeds_together=flag.seeds_together, row_type=Result,
        plan=partial(plan_runs, base, words, rates, flag.seeds),
        make_row=partial(make_result, base, threshold),
        make_report=partial(make_report, base, threshold, rates),
    )  # fmt: skip
    experiment.results = measure_again(base, threshold, experiment.results)
    unknown = {u: unknown_rates(experiment.results, u, rates[u]) for u in UNITS}
    later = [name for units, name in UNITS.items() if unknown[units]]
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
    for units, name in UNITS.items():
        flags.DEFINE_list(f"{units}_rates", None, f"Learning rates of {name}; by default --rates.")
    flags.DEFINE_bool(
        "own_model", False, "Use the config's model without normalization and dropout."
    )
    flags.DEFINE_integer("seeds", 3, "Runs of each units' fastest rate.", lower_bound=1)
    flags.DEFINE_float(
        "threshold", None, "Training error to reach; by default 0.25, on the sample 0.10.",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip
    command.run(main)
