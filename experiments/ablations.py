"""The paper's ablations, several seeds each, beside what the authors measured.

    python -m experiments.ablations --config=configs/alexnet.py:sample --output=DIR [--seeds=3]
        [--only=base,no_lrn,…] [--list | --dry_run] [--config.FIELD=VALUE …]

Every run is `python -m alexnet_jax.main` in DIR/runs/ABLATION-SEED, started by submitit: on this
machine, --jobs at a time, or under SLURM with --slurm_partition. The same command again goes on
with runs that were interrupted and leaves finished ones alone; one that fails is reported at the
end, and the others still run. As runs finish, DIR/ablations.csv, ablations.md and ablations.png
are written.
"""

import csv
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import submitit
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from tqdm import tqdm

from alexnet_jax import command, metrics
from alexnet_jax.errors import InputError
from alexnet_jax.workdir import differences
from configs import variants

matplotlib.use("Agg")  # files, not windows

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Ablation:
    """One change of the base.

    Attributes:
        name: a word of `configs.variants`, or "base", or what `fields` change.
        says: what is different, in a few words.
        paper: the authors' change of top-1 / top-5 error on ImageNet, in points; "" if unknown.
        program: the same from the logs of the 2012 program.
        fields: of the config, set in place of a word.
    """

    name: str
    says: str
    paper: str = ""
    program: str = ""
    fields: tuple[tuple[str, Any], ...] = ()


# Deltas of the program: #148, #147, #150 against #145 (40.664 / 18.210), #145-half against
# #145-2010 (37.473 / 16.999).
ABLATIONS = (
    Ablation("base", "nothing"),
    Ablation("no_lrn", "no response normalisation", "+1.4 / +1.2", "+1.37 / +1.15"),
    Ablation("no_overlap", "pooling without overlap", "+0.4 / +0.3", "+0.39 / +0.30"),
    Ablation("no_dropout", "no dropout", "“substantial overfitting”"),
    Ablation("one_column", "one column", "+1.7 / +1.2", "+1.70 / +1.23"),
    Ablation("no_communication", "columns that never meet", "", "+1.16 / +1.12"),
    Ablation("tanh", "tanh for ReLU", "slower (figure 1)"),
    Ablation("no_lighting", "no colour noise", "over +1 / "),
    Ablation("no_crops", "no crops, no reflections", "“substantial overfitting”"),
    *(Ablation(f"no_conv{n}", f"without conv{n}", "about +2 / ") for n in (2, 3, 4, 5)),
    Ablation("normal_init", "initial weights N(0, 0.01)", fields=(("model.init", "normal"),)),
    Ablation("scaled_init", "initial weights N(0, 2 / inputs)", fields=(("model.init", "scaled"),)),
)


@dataclass(frozen=True)
class Run:
    """One training: an ablation with a seed, and how it is started."""

    ablation: Ablation
    seed: int
    workdir: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in no_lrn-2."""
        return f"{self.ablation.name}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """A row of ablations.csv: errors on the test split as fractions, or why there are none.

    `train_error` is top-1 over the last training steps recorded; `seconds` is the whole command's
    time when it ended.
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


def plan(
    file: str,
    overrides: dict[str, Any],
    base: ConfigDict,
    only: list[str],
    seeds: int,
    output: Path,
) -> tuple[list[Run], list[str]]:
    """The runs, base first and seed by seed, and what is left out, with the reason.

    Args:
        file: of --config, with its variant.
        overrides: from the command line, for every run.
        base: the config that these make.
        only: names of ablations; empty for all.

    Raises:
        InputError: a name that is not known.
    """
    known = {ablation.name: ablation for ablation in ABLATIONS}
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--only={','.join(only)}: {unknown[0]} is none of {', '.join(known)}")
    chosen, skipped = [], []
    for name in only or known:
        if reason := _same_as_base(known[name], base):
            skipped.append(f"{name}: {reason}")
        else:
            chosen.append(known[name])
    runs = []
    for seed in range(seeds):
        for ablation in chosen:
            workdir = output / "runs" / f"{ablation.name}-{seed}"
            fields = {**overrides, **dict(ablation.fields), "seed": seed}
            runs.append(
                Run(ablation, seed, workdir, (
                    f"--config={_variant(file, ablation)}",
                    f"--workdir={workdir}",
                    *(f"--config.{field}={value}" for field, value in fields.items()),
                ))
            )  # fmt: skip
    return runs, skipped


def begin(output: Path, base: ConfigDict) -> None:
    """Record the base's config in the sweep's folder.

    Raises:
        InputError: the sweep was begun with another one, and its runs would not compare.
    """
    path, new = output / "config.json", json.loads(base.to_json())
    if path.exists():
        for name, was, now in differences(json.loads(path.read_text()), new):
            raise InputError(
                f"--output={output} was begun with {name}={was!r}, and now it is {now!r}; give "
                "another --output, or the values it was begun with"
            )
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(new, indent=2) + "\n")


def _variant(file: str, ablation: Ablation) -> str:
    """The config file with the ablation's word after its variant."""
    if ablation.name not in variants.ABLATIONS:
        return file
    path, _, words = file.partition(":")
    return f"{path}:{','.join(filter(None, [words, ablation.name]))}"


def _same_as_base(ablation: Ablation, base: ConfigDict) -> str:
    """Why the ablation would change nothing, or cannot be made; "" if it can."""
    if ablation.fields == (("model.init", base.model.init),):
        return "the base has it so"
    if ablation.name in variants.ABLATIONS:
        try:
            variants.ABLATIONS[ablation.name](_unlocked(base))
        except ValueError as error:
            return str(error)
    return ""


def result(run: Run, status: str, seconds: float | None) -> Result:
    """What a run's metrics.jsonl says."""
    records = metrics.read(run.workdir)
    final = {r["views"]: r for r in records if "views" in r}
    trained = [r["top1_error"] for r in records if r["split"] == "train"]
    if status != "done" or set(final) != {"center", "ten"}:
        return Result(run.ablation.name, run.seed, status, seconds=seconds)
    center, ten = final["center"], final["ten"]
    return Result(
        run.ablation.name,
        run.seed,
        status,
        top1_center=center["top1_error"],
        top5_center=center["top5_error"],
        top1_ten=ten["top1_error"],
        top5_ten=ten["top5_error"],
        train_error=trained[-1],
        seconds=seconds,
    )


def _unlocked(config: ConfigDict) -> ConfigDict:
    copy = config.copy_and_resolve_references()
    copy.unlock()
    return copy


class Sweep:
    """The runs of a plan, and what came of them."""

    def __init__(self, runs: list[Run], output: Path, jobs: int):
        """`jobs` run at the same time."""
        self.runs, self.output, self.jobs = runs, output, jobs
        self.results = read(output / "ablations.csv")

    def waiting(self) -> list[Run]:
        """The runs that are not done."""
        done = {(r.ablation, r.seed) for r in self.results if r.status == "done"}
        return [run for run in self.runs if (run.ablation.name, run.seed) not in done]

    def estimate(self) -> float | None:
        """Seconds that the rest will take, from the runs that are done; None without any."""
        seconds = [r.seconds for r in self.results if r.seconds]
        if not seconds:
            return None
        return statistics.median(seconds) * len(self.waiting()) / self.jobs

    def go(self, executor: submitit.AutoExecutor) -> list[Result]:
        """Start what waits and collect what ends; returns the failures.

        Ctrl-C interrupts the running ones, which save, and is raised again.
        """
        waiting = self.waiting()
        running: dict[Run, tuple[submitit.Job[str], float]] = {}
        bar = tqdm(total=len(self.runs), initial=len(self.runs) - len(waiting), unit="run",
                   disable=not sys.stderr.isatty())  # fmt: skip
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    run = waiting.pop(0)
                    running[run] = self._start(run, executor), time.monotonic()
                bar.set_postfix_str(", ".join(run.name for run in running))
                for run, (job, begin) in [*running.items()]:
                    if job.done():
                        del running[run]
                        self._collect(run, job, time.monotonic() - begin)
                        bar.update()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for job, _ in running.values():
                job.cancel()
            for job, _ in running.values():
                job.wait()
            raise
        finally:
            bar.close()
        planned = {(run.ablation.name, run.seed) for run in self.runs}
        return [r for r in self.results if r.status != "done" and (r.ablation, r.seed) in planned]

    def _start(self, run: Run, executor: submitit.AutoExecutor) -> submitit.Job[str]:
        run.workdir.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "alexnet_jax.main", *run.arguments]
        return executor.submit(submitit.helpers.CommandFunction(words, verbose=False))

    def _collect(self, run: Run, job: submitit.Job[str], seconds: float) -> None:
        error = job.exception()
        status = "done" if error is None else f"failed, see {job.paths.stderr}"
        new = result(run, status, round(seconds, 1))
        self.results = [r for r in self.results if (r.ablation, r.seed) != (new.ablation, new.seed)]
        self.results.append(new)
        write(self.output / "ablations.csv", self.results)
        report(self.results, self.output)
        said = f"{new.top1_ten:.2%} top-1 error, ten views" if new.top1_ten is not None else status
        tqdm.write(f"{run.name}: {said}, {seconds:.0f} s", file=sys.stderr)


def read(path: Path) -> list[Result]:
    """The rows of ablations.csv."""
    if not path.exists():
        return []
    numbers = [field.name for field in fields(Result)][3:]
    with path.open(newline="") as file:
        return [
            Result(
                row["ablation"],
                int(row["seed"]),
                row["status"],
                **{name: float(row[name]) if row[name] else None for name in numbers},
            )
            for row in csv.DictReader(file)
        ]


def write(path: Path, results: list[Result]) -> None:
    """ablations.csv, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    temporary.replace(path)


def table(results: list[Result]) -> str:
    """Markdown: the mean over seeds, the spread, and the distance from the base, in points."""
    lines = [
        "| | top-1 error, ten views | seeds, lowest to highest | change of top-1 / top-5 "
        "| paper | its program |",
        "|---|---|---|---|---|---|",
    ]
    base = _means(results, "base")
    for ablation in ABLATIONS:
        errors = _errors(results, ablation.name)
        if not errors:
            continue
        top1, top5 = (statistics.mean(e[k] for e in errors) for k in (0, 1))
        firsts = [e[0] for e in errors]
        change = "" if base is None else f"{top1 - base[0]:+.2f} / {top5 - base[1]:+.2f}"
        spread = f"{len(errors)}: {min(firsts):.2f} to {max(firsts):.2f}"
        cells = [ablation.says, f"{top1:.2f}", spread, change, ablation.paper, ablation.program]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(results: list[Result]) -> Figure:
    """The errors of every run, an ablation a line, beside those of the base."""
    shown = [a for a in ABLATIONS if _errors(results, a.name)]
    figure = Figure(figsize=(7, 0.8 + 0.34 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for line, ablation in enumerate(shown):
        firsts = [e[0] for e in _errors(results, ablation.name)]
        axis.plot(firsts, [line] * len(firsts), "o", color="C0", alpha=0.5, markersize=5)
        axis.plot(statistics.mean(firsts), line, "|", color="C0", markersize=16)
        if ablation.name == "base":
            axis.axvspan(min(firsts), max(firsts), color="0.9", zorder=0)
    axis.set_yticks(range(len(shown)), [a.says if a.name != "base" else "base" for a in shown])
    axis.invert_yaxis()
    axis.set(xlabel="top-1 test error, ten views, % (bar: mean; grey: the base)")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def report(results: list[Result], output: Path) -> None:
    """Write the table and the picture."""
    if any(r.top1_ten is not None for r in results):
        (output / "ablations.md").write_text(table(results) + "\n")
        picture(results).savefig(output / "ablations.png", dpi=120)


def _errors(results: list[Result], name: str) -> list[tuple[float, float]]:
    """(top-1, top-5) of each seed, ten views, in per cent."""
    return [
        (100 * r.top1_ten, 100 * r.top5_ten)
        for r in results
        if r.ablation == name and r.top1_ten is not None and r.top5_ten is not None
    ]


def _means(results: list[Result], name: str) -> tuple[float, float] | None:
    errors = _errors(results, name)
    if not errors:
        return None
    first, second = (statistics.mean(e[k] for e in errors) for k in (0, 1))
    return first, second


def main(_: list[str]) -> int:
    """The command."""
    flag = flags.FLAGS
    holder, output = flag["config"], Path(flag.output)
    runs, skipped = plan(
        config_flags.get_config_filename(holder),
        config_flags.get_override_values(holder),
        flag.config,
        flag.only,
        flag.seeds,
        output,
    )
    for reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    if flag.list:
        for run in runs:
            print(f"{run.name}: {run.ablation.says}")
        return 0
    if flag.dry_run:
        sweep = Sweep(runs, output, flag.jobs)
        for run in sweep.waiting():
            print(f"python -m alexnet_jax.main {' '.join(run.arguments)}")
        seconds = sweep.estimate()
        rest = "no run is done, so its time is not known"
        if seconds is not None:
            rest = f"about {seconds / 60:.0f} minutes, as long as those that are done"
        print(f"{len(sweep.waiting())} of {len(runs)} runs to do: {rest}", file=sys.stderr)
        return 0
    begin(output, flag.config)
    cluster = "slurm" if flag.slurm_partition else "local"
    executor = submitit.AutoExecutor(folder=output / "logs", cluster=cluster)
    executor.update_parameters(timeout_min=flag.timeout_min, cpus_per_task=flag.cpus)
    if flag.slurm_partition:
        executor.update_parameters(slurm_partition=flag.slurm_partition, gpus_per_node=flag.gpus)
    sweep = Sweep(runs, output, flag.jobs)
    failed = sweep.go(executor)
    for one in failed:
        print(f"{one.ablation}, seed {one.seed}: {one.status}", file=sys.stderr)
    print(table(sweep.results))
    return 1 if failed else 0


if __name__ == "__main__":
    command.define_config()
    flags.DEFINE_string("output", None, "Folder of the sweep.", required=True)
    flags.DEFINE_integer("seeds", 3, "Runs of each ablation.", lower_bound=1)
    flags.DEFINE_list("only", [], "Names of ablations; by default all.")
    flags.DEFINE_bool("list", False, "List the runs and end.")
    flags.DEFINE_bool("dry_run", False, "List the commands still to run, with the time, and end.")
    flags.DEFINE_integer("jobs", 1, "Runs at the same time.", lower_bound=1)
    flags.DEFINE_integer("timeout_min", 60 * 24, "Minutes that a run may take.", lower_bound=1)
    flags.DEFINE_string("slurm_partition", None, "Run under SLURM, in this partition.")
    flags.DEFINE_integer("cpus", 8, "CPUs of a run, under SLURM.", lower_bound=1)
    flags.DEFINE_integer("gpus", 1, "GPUs of a run, under SLURM.", lower_bound=0)
    command.run(main)
