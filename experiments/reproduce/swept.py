"""Start the other experiments of this folder, which make the runs of some claims."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.reproduce.claim import Claim
from experiments.reproduce.report import (
    count_finished,
    measure_claim,
    sweep_arguments,
    sweep_folder,
)
from experiments.reproduce.runs import Budget, format_seconds
from experiments.sweeps.jobs import run_program


def missing_experiments(claims: Sequence[Claim], output: Path) -> list[Claim]:
    """Return the claims with runs of another experiment that have not all ended.

    A claim whose runs have all ended has a verdict, also if some have no value.
    """
    return [c for c in claims if c.sweep is not None and not measure_claim(c, [], output).verdict]


def experiment_command(claim: Claim, data_dir: str, output: Path) -> list[str]:
    """Return the arguments of Python that run the experiment of a claim."""
    assert claim.sweep is not None
    arguments = sweep_arguments(claim.sweep, data_dir)
    folder = sweep_folder(claim, output)
    return ["-m", f"experiments.{claim.sweep.module}", *arguments, f"--output={folder}"]


def list_experiments(
    claims: Sequence[Claim], data_dir: str, output: Path, budget: Budget
) -> list[float | None]:
    """Print the commands that the budget allows one by one; return the estimates in seconds."""
    estimates = []
    for claim in missing_experiments(claims, output):
        assert claim.sweep is not None
        seconds = budget.seconds_of_sweep(claim.sweep, count_finished(claim, output))
        if budget.allows(seconds):
            print(f"python {shlex.join(experiment_command(claim, data_dir, output))}")
            estimates.append(seconds)
    return estimates


def run_experiments(
    claims: Sequence[Claim], data_dir: str, output: Path, budget: Budget, given: Sequence[str]
) -> bool:
    """Run the experiments that are missing one after another; return whether any has failed.

    An experiment skips the runs that it has finished.

    Args:
        claims: the claims.
        data_dir: folder of CIFAR-10's binary files.
        output: folder of this experiment.
        budget: the time left to start them.
        given: flags of this command about how runs are started.
    """
    failed = False
    for claim in missing_experiments(claims, output):
        assert claim.sweep is not None
        seconds = budget.seconds_of_sweep(claim.sweep, count_finished(claim, output))
        if not budget.allows(seconds):
            print(f"not started: {claim.name}, {format_seconds(seconds)}", file=sys.stderr)
            continue
        print(f"{claim.name}: experiments.{claim.sweep.module}", file=sys.stderr)
        words = [sys.executable, *experiment_command(claim, data_dir, output), *given]
        if status := run_program(words):
            print(f"{claim.name}: failed, exit status {status}", file=sys.stderr)
            failed = True
    return failed
