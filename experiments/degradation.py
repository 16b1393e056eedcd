"""Run figure 6 of He et al. (2015): the errors of plain and residual networks by depth.

    python -m experiments.degradation --config=configs/resnet.py:sample --output=DIR
        [--depths=8,20,44] [--seeds=1] [--seeds_together] [--list | --dry_run]
        [--config.FIELD=VALUE …]
    python -m experiments.degradation --config=configs/resnet.py:cifar10 --output=DIR
        --depths=20,32,44,56,110                                          # the paper's data

Degradation is that a deeper plain network has the higher training error (section 1, figure 1),
which shortcuts are to prevent. A network of 6n + 2 layers has a convolution, three stages of n
basic blocks and a classifier (section 4.2); with shortcuts A it is residual, without any it is
plain. Both have the same parameters, and with one seed the same initial weights. Width, data and
schedule are those of the config. On CIFAR-10 the rate begins at a tenth for 400 steps from 110
layers on, as in the paper; --config.schedule.warmup_steps=0 begins at the whole rate.

Training error is the share of training images that are predicted wrong while the model is trained
on them, over the steps since the record before. In place of the paper's test error over steps, the
figure has that of the validation images after every epoch, if any are held out: on CIFAR-10 with
--config.data.validation_share=0.1. The table has the error on the test images after the last step,
center view.

Runs are started and resumed as those of experiments.ablations. DIR/degradation.csv, degradation.md
and degradation.png are written as they finish.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from absl import flags
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.records import final_records, read_records
from experiments.sweeps import sweep
from experiments.sweeps.exclusive import exclusive
from experiments.sweeps.rows import to_percents
from experiments.sweeps.run import Base, Run, run_name
from experiments.sweeps.training_error import average_last_epoch, select_records
from experiments.tables.published import CIFAR_ERRORS

SHORTCUTS = {"plain": "none", "residual": "A"}
FIELDS = ("train_error", "test_error")  # of Result, in the table
WARMUP_DEPTH, WARMUP_STEPS, WARMUP_FACTOR = 110, 400, 0.1  # section 4.2

Curve = tuple[list[float], list[float]]  # steps, and errors as fractions


@dataclass(frozen=True)
class Result:
    """A row of degradation.csv: errors as fractions, or why there are none.

    Attributes:
        kind: "plain" or "residual".
        depth: number of layers with weights.
        train_error: of the training images, averaged over the last epoch.
        validation_error: of the validation images after the last step; None without any.
        test_error: of the test images after the last step, center view.
        seconds: of the whole command that ended last.
    """

    kind: str
    depth: int
    seed: int
    status: str
    train_error: float | None = None
    validation_error: float | None = None
    test_error: float | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the run, such as plain-20-0."""
        return run_name(self.kind, self.depth, self.seed)

    @property
    def outcome(self) -> str:
        """The errors in the table, or why there are none."""
        if self.train_error is None or self.test_error is None:
            return self.status
        return f"training error {self.train_error:.2%}, test error {self.test_error:.2%}"


def plan_runs(base: Base, depths: Sequence[int], seeds: int) -> list[Run]:
    """Return the runs of all depths and kinds, seed by seed."""
    runs = []
    for seed in range(seeds):
        for depth in depths:
            for kind, shortcut in SHORTCUTS.items():
                stages = ((depth - 2) // 6,) * 3
                fields: dict[str, Any] = {"model.shortcut": shortcut, "model.stage_sizes": stages}
                fields |= _warmup(base, depth)
                description = f"{kind}, {depth} layers"
                runs.append(
                    base.make_run((kind, depth, seed), description, (), {**fields, "seed": seed})
                )
    return runs


def _warmup(base: Base, depth: int) -> dict[str, Any]:
    """Return the fields of the warm-up of a depth that the command line does not set."""
    if not base.config.data.name.startswith("cifar10"):  # runs too short for a warm-up
        return {}
    steps = WARMUP_STEPS if depth >= WARMUP_DEPTH else 0
    fields = {"schedule.warmup_steps": steps, "schedule.warmup_factor": WARMUP_FACTOR}
    return {name: value for name, value in fields.items() if name not in base.overrides}


def make_result(run: Run, status: str, seconds: float | None) -> Result:
    """Return the row of a run from its metrics.jsonl."""
    kind, depth, seed = run.key
    records = read_records(run.workdir)
    train, validation = (select_records(records, split) for split in ("train", "validation"))
    final = final_records(records).get("center")
    if status == "done" and not (train and final):
        status = "failed, no training or test error"
    if status != "done" or final is None:
        return Result(kind, depth, seed, status, seconds=seconds)
    return Result(
        kind,
        depth,
        seed,
        status,
        train_error=average_last_epoch(train),
        validation_error=validation[-1]["top1_error"] if validation else None,
        test_error=final["top1_error"],
        seconds=seconds,
    )


def load_curves(base: Base, row: Result) -> tuple[Curve, Curve]:
    """Return the training and the validation error of a row's run over steps.

    A training error is at the middle of its steps. Without validation images, the second one is
    empty.
    """
    records = read_records(base.workdir(row.name))
    train, validation = (select_records(records, split) for split in ("train", "validation"))
    ends = [0, *(r["step"] for r in train)]
    middles = [(before + after) / 2 for before, after in pairwise(ends)]
    return (middles, [r["top1_error"] for r in train]), (
        [float(r["step"]) for r in validation],
        [r["top1_error"] for r in validation],
    )


def mean_percent(results: Sequence[Result], kind: str, depth: int, field: str) -> float | None:
    """Return the mean of an error over the seeds that have it, in percent; None if none has."""
    known = to_percents(getattr(r, field) for r in results if (r.kind, r.depth) == (kind, depth))
    return statistics.mean(known) if known else None


def depths_of(results: Sequence[Result], kind: str) -> list[int]:
    """Return the depths that have errors, lowest first."""
    return sorted({r.depth for r in results if r.kind == kind and r.train_error is not None})


def format_results(results: Sequence[Result]) -> str:
    """Return Markdown: the mean errors in percent, a depth a line."""
    heads = [f"{kind}: seeds | {kind}: training | {kind}: test" for kind in SHORTCUTS]
    lines = [
        f"| layers | {' | '.join(heads)} | residual in the paper, CIFAR-10 |",
        f"|{'---|' * (3 * len(heads) + 2)}",
    ]
    for depth in sorted({r.depth for r in results}):
        cells = [
            _format_kind([r for r in results if (r.kind, r.depth) == (kind, depth)])
            for kind in SHORTCUTS
        ]
        lines.append(f"| {depth} | {' | '.join(cells)} | {CIFAR_ERRORS.get(depth, '')} |")
    return "\n".join(lines)


def _format_kind(rows: Sequence[Result]) -> str:
    """Return three cells for the runs of a kind and a depth, or why they have no errors."""
    done = [row for row in rows if row.train_error is not None]
    if not done:
        reason = "; ".join(dict.fromkeys(row.status.split(",")[0] for row in rows)) or "not run"
        return f"0 | {reason} | {reason}"
    errors = (_format_errors([getattr(row, field) for row in done]) for field in FIELDS)
    return " | ".join([str(len(done)), *errors])


def _format_errors(errors: Sequence[float]) -> str:
    """Return the mean in percent, with the lowest and the highest of several."""
    known = to_percents(errors)
    spread = f" ({min(known):.2f} to {max(known):.2f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{spread}"


def summarize_results(results: Sequence[Result]) -> list[str]:
    """Return the findings, a sentence a line: how the deepest compares with the shallowest."""
    lines = []
    for kind in SHORTCUTS:
        depths = depths_of(results, kind)
        if len(depths) < 2:
            continue
        few, many = depths[0], depths[-1]
        changes = []
        for field, error in zip(FIELDS, ("training", "test"), strict=True):
            low, high = (mean_percent(results, kind, depth, field) for depth in (few, many))
            assert low is not None
            assert high is not None
            changes.append(f"{error} error by {high - low:+.2f} points")
        lines.append(f"From {few} to {many} layers, {kind} networks change {', '.join(changes)}.")
    return lines


def plot_results(base: Base, results: Sequence[Result]) -> Figure:
    """Plot the errors as in figure 6: plain left, residual right; training dashed, validation bold.

    Every seed is a line, and every depth a color, darker for more layers. Training errors of the
    first steps may lie above the figure. A run whose records are gone has no line.
    """
    done = [r for r in results if r.train_error is not None]
    curves = {row: load_curves(base, row) for row in done}
    done = [row for row, ((trained, _), _) in curves.items() if trained]
    depths = sorted({r.depth for r in done})
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, len(SHORTCUTS), sharey=True)
    highest = 0.0
    for axis, kind in zip(axes, SHORTCUTS, strict=True):
        for row in (r for r in done if r.kind == kind):
            color = _color(depths.index(row.depth), len(depths))
            (steps, train), (validated, validation) = curves[row]
            axis.plot(steps, to_percents(train), "--", color=color, linewidth=1)
            axis.plot(validated, to_percents(validation), color=color, linewidth=2)
            highest = max(highest, *to_percents(validation or train[len(train) // 10 :]))
        _label(axis, kind, depths_of(done, kind), depths)
    axes[0].set_ylim(0, 1.05 * highest or None)
    bold = "; bold: validation" if any(steps for _, (steps, _) in curves.values()) else ""
    axes[0].set_ylabel(f"error, % (dashed: training{bold})")
    return figure


def _label(axis: Axes, kind: str, shown: Sequence[int], depths: Sequence[int]) -> None:
    """Set the title and the legend of one half of the figure."""
    for depth in shown:
        color = _color(depths.index(depth), len(depths))
        axis.plot([], [], color=color, linewidth=2, label=f"{depth} layers")
    axis.set(title=f"{kind} networks", xlabel="steps", xlim=(0, None))
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if shown:
        axis.legend(loc="upper right", frameon=False)


def _color(index: int, count: int) -> tuple[float, float, float, float]:
    """Return the color of a depth, from light to dark."""
    color: tuple[float, float, float, float] = colormaps["viridis_r"]((index + 0.5) / count)
    return color


def make_report(base: Base, results: Sequence[Result]) -> tuple[str, Figure | None]:
    """Return the table with the findings, and the figure."""
    if all(r.train_error is None for r in results):
        return "No run has finished.", None
    text = "\n".join([format_results(results), "", *summarize_results(results)])
    return text, plot_results(base, results)


def parse_depths(given: Sequence[str]) -> list[int]:
    """Return the depths of --depths, each once.

    Raises:
        InputError: none, or one that is not 6n + 2.
    """
    depths = [int(depth) if depth.isdecimal() else 0 for depth in given]
    if not depths or any(depth < 8 or depth % 6 != 2 for depth in depths):
        raise InputError(
            f"--depths={','.join(given)}; expected numbers of layers 6n + 2, as 8,14,20,32"
        )
    return [*dict.fromkeys(depths)]


def check_model(base: Base) -> None:
    """Raise InputError for a config whose model is not that of section 4.2."""
    model = base.config.model
    if not isinstance(model, ResNetConfig) or (model.stem, model.block) != ("small", "basic"):
        raise InputError(
            f"--config={base.file} does not have the networks of figure 6; expected "
            "configs/resnet.py:sample, :fashion_mnist or :cifar10"
        )


def with_frequent_records(base: Base) -> Base:
    """Return the base with a record every 20 steps, unless the command line sets it."""
    return replace(base, overrides={"log_every": 20, **base.overrides})


@exclusive
def main(_: list[str]) -> int:
    """Run the command."""
    flag, base = flags.FLAGS, Base.from_flags()
    check_model(base)
    runs = plan_runs(with_frequent_records(base), parse_depths(flag.depths), flag.seeds)
    return sweep.Sweep(
        base, "degradation", flag.jobs, seeds_together=flag.seeds_together, row_type=Result,
        plan=lambda _: runs, make_row=make_result, make_report=partial(make_report, base),
    ).main()  # fmt: skip


if __name__ == "__main__":
    command.define_config()
    sweep.define_flags()
    flags.DEFINE_list("depths", ["8", "20", "44"], "Numbers of layers, 6n + 2.")
    flags.DEFINE_integer("seeds", 1, "Runs of each network.", lower_bound=1)
    command.run(main)
