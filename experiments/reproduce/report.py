"""The table of claims as CSV, Markdown and one HTML page with the learning curves."""

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from alexnet_jax.files import MAKE_ROOM, write_atomically, write_errors_as_input_errors
from alexnet_jax.records import read_records
from alexnet_jax.status import read_status
from experiments import html_page
from experiments.figures import plots
from experiments.reproduce.claim import Claim, SweepCommand, TrainedGroup, Training
from experiments.reproduce.runs import RunRow, describe_end, read_progress
from experiments.reproduce.verdicts import DIVERGED, Close, Outcome, compare_groups
from experiments.sweeps.rows import to_percents, write_rows
from experiments.sweeps.run import run_name
from experiments.sweeps.sweep import has_failed

TEMPLATE = "reproduce/reproduce.html.jinja"
NOT_RUN = "not run"
DATA = "DIR"  # the folder of the data, in commands that are shown


@dataclass(frozen=True)
class TableRow:
    """A row of reproduce.csv, the table of claims, as text.

    Attributes:
        claim: name of the claim.
        paper: paper, or program, and section that make the claim.
        statement: the quantity that is measured.
        published: the paper's numbers.
        criterion: condition under which the claim counts as reproduced.
        here: the measured mean, difference or factor with its unit, or NOT_RUN.
        spread: number of seeds with the lowest and the highest value of each kind of run.
        verdict: the verdict, or the progress of the runs while there is none.
        cpu: duration of all runs on two cores, in hours.
        took: duration of training of the finished runs in hours, from the recorded speeds.
        machine: machine of the finished run that ended last.
        date: day on which that run ended, YYYY-MM-DD.
        command: command of each training, with its first seed, or that of the experiment.
    """

    claim: str
    paper: str
    statement: str
    published: str
    criterion: str
    here: str
    spread: str
    verdict: str
    cpu: str
    took: str
    machine: str
    date: str
    command: str


# Columns of the table for readers: their heads, and the fields of TableRow that they join.
COLUMNS = {
    "claim": ("claim",),
    "measured": ("statement", "paper"),
    "published": ("published",),
    "reproduced if": ("criterion",),
    "here": ("here", "spread"),
    "verdict": ("verdict",),
    "time on two cores": ("cpu",),
    "runs": ("took", "machine", "date"),
}


def make_table(claims: Sequence[Claim], rows: Sequence[RunRow], output: Path) -> list[TableRow]:
    """Return the table of claims.

    Args:
        claims: the claims.
        rows: rows of runs.csv, of the runs that have ended.
        output: folder of this experiment, --output.
    """
    return [_make_table_row(claim, rows, output) for claim in claims]


def _make_table_row(claim: Claim, rows: Sequence[RunRow], output: Path) -> TableRow:
    """Return the row of a claim, with the progress of its runs while there is no verdict."""
    outcome = measure_claim(claim, rows, output)
    ended = _runs_of_sweep(claim, output) if claim.sweep else _runs_of_training(claim, rows)
    last = max(ended, key=lambda row: row.date, default=None)
    return TableRow(
        claim=claim.name,
        paper=claim.paper,
        statement=claim.statement,
        published=claim.published,
        criterion=claim.rule.criterion,
        here=outcome.here or NOT_RUN,
        spread=outcome.spread,
        verdict=outcome.verdict or describe_progress(claim, rows, output),
        cpu=format_cost(claim),
        took=f"{sum(row.seconds or 0.0 for row in ended) / 3600:.2f} h" if ended else "",
        machine=last.machine if last else "",
        date=last.date if last else "",
        command="; ".join(format_commands(claim)),
    )


def measure_claim(claim: Claim, rows: Sequence[RunRow], output: Path) -> Outcome:
    """Return what the runs of a claim show."""
    groups, lacking = [], []
    for group in claim.groups:
        if isinstance(group, TrainedGroup):
            ended = [r for r in rows if r.run == group.training.name and not has_failed(r)]
            values = to_percents(getattr(r, group.value) for r in ended if r.status == "done")
            reason = DIVERGED if len(ended) >= group.seeds else ""
        else:
            swept = group.read_runs(sweep_folder(claim, output))
            values, reason = swept.values, swept.reason
        groups.append(values)
        lacking.append(reason)
    labels = [group.label for group in claim.groups]
    wanted = [group.seeds for group in claim.groups]
    return compare_groups(claim.rule, labels, groups, wanted, lacking)


def sweep_folder(claim: Claim, output: Path) -> Path:
    """Return the folder of the experiment that makes the runs of a claim."""
    assert claim.sweep is not None
    return output / claim.sweep.module


def _runs_of_training(claim: Claim, rows: Sequence[RunRow]) -> list[RunRow]:
    """Return the runs of a claim that have ended."""
    names = {group.training.name for group in claim.trained}
    return [row for row in rows if row.run in names and row.status == "done"]


def _runs_of_sweep(claim: Claim, output: Path) -> list[RunRow]:
    """Return a claim's finished runs in the folder of an experiment; the rows have no errors."""
    folder = sweep_folder(claim, output)
    names = (name for group in claim.swept for name in group.read_runs(folder).names)
    found = [folder / "runs" / name for name in dict.fromkeys(names)]  # two groups may share runs
    return [
        RunRow(workdir.name, 0, "done", **describe_end(workdir))
        for workdir in found
        if (status := read_status(workdir)) and status.status == "finished"
    ]


def count_finished(claim: Claim, output: Path) -> int:
    """Return the number of a claim's runs that an experiment has finished."""
    return len(_runs_of_sweep(claim, output))


def describe_progress(claim: Claim, rows: Sequence[RunRow], output: Path) -> str:
    """Return how far the runs of a claim without a verdict are; "" if none has begun."""
    ended = {row.name: row.status for row in rows}
    parts = []
    for group in claim.trained:
        for seed in range(group.seeds):
            name = run_name(group.training.name, seed)
            if (status := ended.get(name)) == "done":
                parts.append(f"{name}: done")
            elif progress := read_progress(output / "runs" / name):
                parts.append(f"{name}: {progress}")
            elif status is not None:
                parts.append(f"{name}: {status.split(',')[0]}")
    if claim.sweep is not None and (count := count_finished(claim, output)):
        parts.append(f"{count} of {claim.sweep.runs} runs done")
    return "; ".join(parts)


def format_cost(claim: Claim) -> str:
    """Return the time of all runs on two cores."""
    return f"{claim.hours:.3g} h{'' if claim.measured else ', estimated'}"


def format_commands(claim: Claim) -> list[str]:
    """Return the commands of a claim: one for each training, or that of an experiment."""
    if claim.sweep is not None:
        return [
            _format_command("experiments." + claim.sweep.module, sweep_arguments(claim.sweep, DATA))
        ]
    return [
        _format_command("alexnet_jax.main", training_arguments(training))
        for training in dict.fromkeys(group.training for group in claim.trained)
    ]


def training_arguments(training: Training) -> list[str]:
    """Return the arguments of a training, as shown."""
    fields = {**dict(training.fields), "data.dir": DATA}
    overrides = (f"--config.{name}={value}" for name, value in fields.items())
    return [f"--config={training.config}", *overrides]


def sweep_arguments(sweep: SweepCommand, data_dir: str) -> list[str]:
    """Return the arguments of an experiment besides --output and those that start runs."""
    data = ("--config.data.name=cifar10_binary", f"--config.data.dir={data_dir}")
    return [*sweep.arguments, *data]


def _format_command(module: str, arguments: Sequence[str]) -> str:
    """Return a command line, quoted for a shell."""
    return f"python -m {module} {shlex.join(arguments)}"


def format_markdown(table: Sequence[TableRow]) -> str:
    """Return the table without commands."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in table:
        claim, *others = make_cells(row)
        lines.append(f"| {' | '.join([f'`{claim}`', *others])} |")
    return "\n".join(lines)


def make_cells(row: TableRow) -> list[str]:
    """Return the text of a row in each of COLUMNS."""
    return ["; ".join(filter(None, (getattr(row, n) for n in names))) for names in COLUMNS.values()]


def format_list(claims: Sequence[Claim]) -> str:
    """Return the claims with published numbers, costs and criteria, a line each."""
    lines = []
    for claim in claims:
        criterion = f"; reproduced if {claim.rule.criterion}" if claim.rule.criterion else ""
        lines.append(
            f"{claim.name}: {claim.statement} ({claim.paper}). "
            f"Published: {claim.published or 'none'}{criterion}. "
            f"Two cores: {format_cost(claim)}."
        )
    return "\n".join(lines)


def plot_errors(claims: Sequence[Claim], rows: Sequence[RunRow]) -> Figure | None:
    """Plot the errors of the claims with a published error beside it; None if none was run."""
    shown = []
    for claim in claims:
        if not isinstance(claim.rule, Close):
            continue
        (group,) = claim.trained
        done = [row for row in rows if row.run == group.training.name and row.status == "done"]
        if errors := to_percents(getattr(row, group.value) for row in done):
            shown.append((claim, claim.rule, errors))
    if not shown:
        return None
    figure = Figure(figsize=(7, 1 + 0.4 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for line, (_, rule, errors) in enumerate(shown):
        if rule.published is not None:
            low, high = rule.published - rule.tolerance, rule.published + rule.tolerance
            axis.plot([low, high], [line, line], color="0.85", linewidth=9, solid_capstyle="butt")
            axis.plot(rule.published, line, "|", color="C3", markersize=14)
        axis.plot(errors, [line] * len(errors), "o", color="C0", alpha=0.6)
    axis.set_yticks(range(len(shown)), [claim.name for claim, _, _ in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)  # the first above
    axis.set(xlabel="test error, % (red: published; gray: reproduced)")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def make_page(
    claims: Sequence[Claim], table: Sequence[TableRow], rows: Sequence[RunRow], output: Path
) -> str:
    """Return the table, the errors and the learning curves of all runs that have begun as HTML."""
    errors = plot_errors(claims, rows)
    curves = []
    for workdir in sorted((output / "runs").glob("*")):
        records = read_records(workdir)
        if any("views" not in record for record in records):
            alt = f"Top-1 error of {workdir.name} over epochs."
            figure = plots.plot_curves(records, "")
            figure.set_size_inches(5, 3)
            curves.append((workdir.name, html_page.embed_figure(figure, alt)))
    alt = "Test errors of the claims with a published error."
    return html_page.render_template(
        TEMPLATE,
        heads=list(COLUMNS),
        table=[make_cells(row) for row in table],
        commands={row.claim: row.command.split("; ") for row in table},
        errors=html_page.embed_figure(errors, alt) if errors else None,
        curves=curves,
        date=datetime.date.today().isoformat(),
    )


def write_report(claims: Sequence[Claim], output: Path, rows: list[RunRow]) -> str:
    """Write reproduce.csv, .md and .html; return the Markdown."""
    table = make_table(claims, rows, output)
    text = format_markdown(table)
    write_rows(output / "reproduce.csv", table)
    for name, content in (("md", text + "\n"), ("html", make_page(claims, table, rows, output))):
        path = output / f"reproduce.{name}"
        with write_errors_as_input_errors(path, MAKE_ROOM):
            write_atomically(path, content)
    return text
