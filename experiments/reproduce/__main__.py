"""Reproduce the claims of the papers that CIFAR-10 can test: run, resume, compare.

    python -m experiments.reproduce --list
    python -m experiments.reproduce --data_dir=…/cifar-10-batches-bin [--claims=80sec,lrn,…]
        [--output=runs/reproduce] [--budget=30m] [--platform=cpu|gpu] [--seeds_together]
        [--dry_run]

--data_dir has the binary version of CIFAR-10. Most claims take hours on two cores; --list
has the time of each, and --budget starts no run whose estimated time does not fit. On a GPU a run's
time is known only once another seed has finished; runs of unknown time are started until the
budget is spent.

A run is `python -m alexnet_jax.main` in OUTPUT/runs/NAME-SEED: on this machine, --jobs at a time,
or under SLURM with --slurm_partition. Ctrl-C saves the runs. The same command again resumes
interrupted runs and skips finished ones; a finished workdir of the same config that was trained by
hand counts, too. relu_tanh and the claims alexnet_… are run by the experiments of these names, in
OUTPUT/relu_tanh and OUTPUT/ablations. A run that fails does not stop the others.

As runs finish, the table "published, here, spread, verdict" is written as OUTPUT/reproduce.csv,
reproduce.md and reproduce.html, and the errors of every run as OUTPUT/runs.csv. What counts as
reproduced is part of each claim, and stands in the table; a comparison of two kinds of run also
needs seeds that do not overlap.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from alexnet_jax import command
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.sources.cifar10_binary import FOLDER, ORIGIN
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from experiments.durations import parse_duration
from experiments.reproduce.claim import Claim
from experiments.reproduce.claims import CLAIMS, choose_claims
from experiments.reproduce.report import format_list, write_report
from experiments.reproduce.runs import (
    Budget,
    Plan,
    RunRow,
    format_seconds,
    make_runs,
    plan_runs,
)
from experiments.reproduce.swept import list_experiments, run_experiments
from experiments.sweeps import sweep
from experiments.sweeps.exclusive import exclusive
from experiments.sweeps.rows import write_rows

PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}  # in JAX's words
# Flags about how runs are started, which the experiments that `swept` starts have as well.
SWEEP_FLAGS = ("jobs", "seeds_together", "timeout_min", "slurm_partition", "cpus", "gpus")


def check_data(data_dir: str | None) -> str:
    """Return the folder of the data.

    Raises:
        InputError: it is missing, is not a folder or lacks a file, or a file is damaged.
    """
    if not data_dir:
        raise InputError(
            f"--data_dir is missing; expected the folder of CIFAR-10's binary files, {ORIGIN}"
        )
    directory = Path(data_dir)
    if not directory.is_dir():
        raise InputError(
            f"--data_dir={data_dir} is not a folder; expected that of CIFAR-10's binary files, "
            f"{ORIGIN}"
        )
    if (inside := directory / FOLDER).is_dir():
        raise InputError(f"--data_dir={data_dir} has the folder of the files; give {inside}")
    open_source(DataConfig(name="cifar10_binary", dir=data_dir, image_size=32, crop=32))
    return data_dir


def check_platform(name: str) -> None:
    """Raise InputError if a GPU is to be used and this machine has none."""
    if name == "gpu" and not flags.FLAGS.slurm_partition and shutil.which("nvidia-smi") is None:
        raise InputError(
            "--platform=gpu: there is no NVIDIA GPU (no nvidia-smi); give --platform=cpu, or "
            "--slurm_partition to run elsewhere"
        )


def dry_run(
    runs: sweep.Runs[RunRow], plan: Plan, claims: Sequence[Claim], data_dir: str, output: Path
) -> None:
    """Print the commands that each fit into the budget, and their total time."""
    own = [plan.estimate_group(group, runs.results) for group in runs.print_commands()]
    swept = list_experiments(claims, data_dir, output, plan.budget)
    # Estimates of single runs count the jobs that share the processor; those of experiments do not.
    estimates = [None if s is None else s / runs.jobs for s in own] + swept
    known = [seconds for seconds in estimates if seconds is not None]
    total = sum(known) if len(known) == len(estimates) else None
    fits = plan.budget.allows(total)
    beyond = "" if fits else "; each fits into the budget, but not all of them together"
    print(f"{len(estimates)} commands: {format_seconds(total)}{beyond}", file=sys.stderr)


@exclusive
def main(_: list[str]) -> int:
    """Run the command."""
    flag = flags.FLAGS
    claims = choose_claims(flag.claims)
    if flag.list:
        print(format_list(claims))
        return 0
    seconds = parse_duration(flag.budget) if flag.budget else None
    data_dir = check_data(flag.data_dir)
    check_platform(flag.platform)
    os.environ["JAX_PLATFORMS"] = PLATFORMS[flag.platform]
    output = Path(flag.output)
    budget = Budget(seconds, is_gpu=flag.platform == "gpu", jobs=flag.jobs)
    plan = Plan(plan_runs(claims, data_dir, output), budget, seeds_together=flag.seeds_together)
    if flag.seeds_together:
        for one in plan.planned:
            sweep.check_seeds_together(one.config)
    report = partial(write_report, CLAIMS, output)
    runs = make_runs(plan, output, flag.jobs, report)
    if flag.dry_run:
        dry_run(runs, plan, claims, data_dir, output)
        return 0
    if runs.results:
        write_rows(runs.table, runs.results)
    before = [*runs.results]
    runs.run_waiting(sweep.make_executor())
    # A run that was started has a new row, which may be equal to its former one.
    started = {row.name for row in runs.results if not any(row is old for old in before)}
    ended = [row for row in runs.results if row.name in started and row.status != "done"]
    for row in ended:
        print(f"{row.name}: {row.status}", file=sys.stderr)
    settled = [r for r in runs.results if r.name in started or not sweep.has_failed(r)]
    for name, left in plan.left_out(settled):
        print(f"not started: {name}, {format_seconds(left)}", file=sys.stderr)
    given = [f"--{name}={flag[name].value}" for name in SWEEP_FLAGS if flag[name].present]
    failed = run_experiments(claims, data_dir, output, budget, given)
    print(report(runs.results))
    return int(failed or any(map(sweep.has_failed, ended)))


if __name__ == "__main__":
    sweep.define_flags(output="runs/reproduce")
    flags.DEFINE_list("claims", [], "Names of claims; by default all.")
    flags.DEFINE_string("data_dir", None, "Folder of CIFAR-10's binary files.")
    flags.DEFINE_string("budget", None, "Time in which to start runs, such as 30m or 2h.")
    flags.DEFINE_enum("platform", "cpu", [*PLATFORMS], "Where the runs take place.")
    command.run(main)
