"""Run the paper's ablations with several seeds and compare with the authors' errors.

    python -m experiments.ablations --config=configs/alexnet.py:sample --output=DIR [--seeds=3]
        [--only=base,no_lrn,…] [--seeds_together] [--list | --dry_run] [--config.FIELD=VALUE …]

Every run is `python -m alexnet_jax.main` in DIR/runs/ABLATION-SEED: on this machine, --jobs at a
time, or under SLURM with --slurm_partition. Ctrl-C saves the runs. The same command again resumes
interrupted runs and skips finished ones; a run that fails is reported at the end and does not stop
the others. As runs finish, DIR/ablations.csv, ablations.md and ablations.png are written.
"""

import statistics
import sys
from dataclasses import dataclass
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax import fields as config_fields
from alexnet_jax.config import Config, config_to_json, sequential_model
from alexnet_jax.errors import InputError
from alexnet_jax.records import final_records, read_records
from configs import variants
from experiments.sweeps import sweep
from experiments.sweeps.exclusive import exclusive
from experiments.sweeps.rows import to_percents
from experiments.sweeps.run import Base, Run, run_name


@dataclass(frozen=True)
class Ablation:
    """One change of the base.

    Attributes:
        name: a word of `configs.variants`, or "base", or a name for changes of `fields`.
        description: the change in a few words.
        paper: the authors' change of top-1 / top-5 error on ImageNet, in points; "" if unknown.
        program: the same, from the logs of the 2012 program.
        fields: (path, value) of the config, set instead of a word.
    """

    name: str
    description: str
    paper: str = ""
    program: str = ""
    fields: tuple[tuple[str, Any], ...] = ()


# Deltas of the program: its runs #148, #147, #150 against its run #145 (40.664 / 18.210), #145-half
# against #145-2010 (37.473 / 16.999).
ABLATIONS = (
    Ablation("base", "base"),
    Ablation("no_lrn", "no response normalization", "+1.4 / +1.2", "+1.37 / +1.15"),
    Ablation("no_overlap", "pooling without overlap", "+0.4 / +0.3", "+0.39 / +0.30"),
    Ablation("no_dropout", "no dropout", "“substantial overfitting”"),
    Ablation("one_column", "one column", "+1.7 / +1.2", "+1.70 / +1.23"),
    Ablation("no_communication", "no communication between columns", "", "+1.16 / +1.12"),
    Ablation("tanh", "tanh for ReLU", "slower (figure 1)"),
    Ablation("no_lighting", "no color noise", "over +1 / "),
    Ablation("no_crops", "no crops, no reflections", "“substantial overfitting”"),
    *(Ablation(f"no_conv{n}", f"without conv{n}", "about +2 / ") for n in (2, 3, 4, 5)),
    Ablation("normal_init", "initial weights N(0, 0.01)", fields=(("model.init", "normal"),)),
    Ablation("scaled_init", "initial weights N(0, 2 / inputs)", fields=(("model.init", "scaled"),)),
)


OUTLIER_FACTOR = 4.0  # times the least error: larger errors are not plotted to scale


@dataclass(frozen=True)
class Result:
    """A row of ablations.csv: errors on the test split as fractions, or why there are none.

    `train_error` is top-1 over the last training steps recorded; `seconds` is the time of the
    whole command that ended last.
    """

    ablation: str
    seed: int
    status: str
    top1_center: float | None = None
    top5_center: float | None = None
    top1_ten: float | None = None
    top5_ten: float | None = None
    train_error: float | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the run, such as no_lrn-2."""
        return run_name(self.ablation, self.seed)

    @property
    def outcome(self) -> str:
        """The error in the table, or why there is none."""
        if self.top1_ten is None:
            return self.status
        return f"{self.top1_ten:.2%} top-1 error, ten views"


def plan_runs(base: Base, only: list[str], seeds: int) -> tuple[list[Run], list[str]]:
    """Return the runs, base first and seed by seed, and the ablations left out, with reasons.

    Args:
        only: names of ablations; empty for all.

    Raises:
        InputError: an unknown name, or a model that is not sequential.
    """
    sequential_model(base.config)  # the ablations change its ops
    known = {ablation.name: ablation for ablation in ABLATIONS}
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--only={','.join(only)}: {unknown[0]} is none of {', '.join(known)}")
    chosen, skipped = [], []
    for name in dict.fromkeys(only or known):
        if reason := _reason_to_skip(known[name], base.config):
            skipped.append(f"{name}: {reason}")
        else:
            chosen.append(known[name])
    runs = []
    for seed in range(seeds):
        for ablation in chosen:
            words = [ablation.name] if ablation.name in variants.ABLATIONS else []
            fields = {**dict(ablation.fields), "seed": seed}
            runs.append(base.make_run((ablation.name, seed), ablation.description, words, fields))
    return runs, skipped


def _reason_to_skip(ablation: Ablation, base: Config) -> str:
    """Return why the ablation would change nothing, or cannot be made; "" if it can."""
    values = dict(config_fields.leaves(config_to_json(base)))
    if ablation.fields and all(values[path] == value for path, value in ablation.fields):
        return "the base has this setting"
    if ablation.name in variants.ABLATIONS:
        try:
            variants.ABLATIONS[ablation.name](config_fields.replace(base, {}))
        except InputError as error:
            return str(error)
    return ""


def make_result(run: Run, status: str, seconds: float | None) -> Result:
    """Return the row of a run from its metrics.jsonl."""
    ablation, seed = run.key
    records = read_records(run.workdir)
    final = final_records(records)
    trained = [r["top1_error"] for r in records if r["split"] == "train"]
    if status == "done" and set(final) != {"center", "ten"}:
        status = "failed, no final evaluation"
    if status != "done":
        return Result(ablation, seed, status, seconds=seconds)
    center, ten = final["center"], final["ten"]
    return Result(
        ablation,
        seed,
        status,
        top1_center=center["top1_error"],
        top5_center=center["top5_error"],
        top1_ten=ten["top1_error"],
        top5_ten=ten["top5_error"],
        train_error=trained[-1],
        seconds=seconds,
    )


def format_results(results: list[Result]) -> str:
    """Return Markdown: means over seeds, their spread, and changes from the base in points."""
    lines = [
        "| | top-1 error, ten views | seeds, lowest to highest | change of top-1 / top-5 "
        "| center view | paper | 2012 program |",
        "|---|---|---|---|---|---|---|",
    ]
    base = [_percents(results, "base", field) for field in ("top1_ten", "top5_ten")]
    for ablation in ABLATIONS:
        both = [_percents(results, ablation.name, field) for field in ("top1_ten", "top5_ten")]
        firsts = both[0]
        if not firsts:
            continue
        change = ""
        if base[0]:
            change = " / ".join(
                f"{statistics.mean(ours) - statistics.mean(theirs):+.2f}"
                for ours, theirs in zip(both, base, strict=True)
            )
        mean = f"{statistics.mean(firsts):.2f}"
        spread = f"{len(firsts)}: {min(firsts):.2f} to {max(firsts):.2f}"
        center = f"{statistics.mean(_percents(results, ablation.name, 'top1_center')):.2f}"
        cells = [
            ablation.description,
            mean,
            spread,
            change,
            center,
            ablation.paper,
            ablation.program,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_results(results: list[Result]) -> Figure:
    """Plot the errors of every run, one line for each ablation, with the range of the base."""
    shown = [a for a in ABLATIONS if _percents(results, a.name, "top1_ten")]
    figure = Figure(figsize=(7, 0.8 + 0.34 * len(shown)), layout="constrained")
    axis = figure.subplots()
    means = {a.name: statistics.mean(_percents(results, a.name, "top1_ten")) for a in shown}
    edge = OUTLIER_FACTOR * min(means.values())
    for line, ablation in enumerate(shown):
        firsts = _percents(results, ablation.name, "top1_ten")
        if means[ablation.name] > edge:  # one that learned nothing would compress all others
            axis.text(0.99, line, f"{means[ablation.name]:.0f} % →", ha="right", va="center",
                      color="C0", transform=axis.get_yaxis_transform())  # fmt: skip
            continue
        axis.plot(firsts, [line] * len(firsts), "o", color="C0", alpha=0.5, markersize=5)
        axis.plot(statistics.mean(firsts), line, "|", color="C0", markersize=16)
        if ablation.name == "base":
            axis.axvspan(min(firsts), max(firsts), color="0.9", zorder=0)
    axis.set_yticks(range(len(shown)), [a.description for a in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)  # the first above
    axis.set(xlabel="top-1 test error, ten views, % (bar: mean; gray: the base)")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def make_report(results: list[Result]) -> tuple[str, Figure | None]:
    """Return the Markdown table and the figure."""
    if all(r.top1_ten is None for r in results):
        return "No run has finished.", None
    return format_results(results), plot_results(results)


def _percents(results: list[Result], name: str, field: str) -> list[float]:
    """Return an error of each seed that has one, in percent."""
    return to_percents(getattr(r, field) for r in results if r.ablation == name)


@exclusive
def main(_: list[str]) -> int:
    """Run the command."""
    flag, base = flags.FLAGS, Base.from_flags()
    runs, skipped = plan_runs(base, flag.only, flag.seeds)
    for reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    return sweep.Sweep(
        base, "ablations", flag.jobs, seeds_together=flag.seeds_together,
        row_type=Result, plan=lambda _: runs, make_row=make_result, make_report=make_report,
    ).main()  # fmt: skip


if __name__ == "__main__":
    command.define_config()
    sweep.define_flags()
    flags.DEFINE_integer("seeds", 3, "Runs of each ablation.", lower_bound=1)
    flags.DEFINE_list("only", [], "Names of ablations; by default all.")
    command.run(main)
