"""Measure speed and memory, and those of a reference program in the same run.

    python -m experiments.benchmark [--only=NAME] [--json] [--repeats=N] [--output=FOLDER]
    python -m experiments.benchmark --platform=gpu [--budget=8m] [--output=FOLDER] [--only=NAME]
    python -m experiments.benchmark --platform=gpu --smoke

This program and the reference, in most cases PyTorch, run alternately, so that a machine whose
speed drifts slows both. A ratio above 1 means that this program is faster; it is the median over
the pairs, with the lowest and the highest.

With --platform, training steps of several models are measured on an accelerator: the most important
case first, each in a process of its own. Every result is saved as soon as there is one, and cases
for which --budget leaves no time are named. --platform=cpu rehearses this with small models.
--smoke checks in a minute whether training works there at all. The exit status is 1 if a case or
check failed.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import flags

from alexnet_jax import command
from alexnet_jax.errors import InputError
from experiments.benchmark.accelerator import schedule, smoke
from experiments.benchmark.accelerator.cases import BY_NAME, PLATFORMS
from experiments.benchmark.accelerator.smoke_checks import CHECKS
from experiments.benchmark.cases import (
    CASES,
    SCALING,
    format_result,
    result_names,
    run_cases,
    write_scaling_plot,
)
from experiments.benchmark.timing import Result
from experiments.durations import parse_duration

PLATFORM_FLAGS = ("budget", "peak_tflops", "smoke")


def main(_: list[str]) -> int:
    """Run the command."""
    if flags.FLAGS.platform:
        with tempfile.TemporaryDirectory() as temporary:
            folder = command.make_folder(flags.FLAGS.output or temporary)
            return (_check_accelerator if flags.FLAGS.smoke else _measure_accelerator)(folder)
    for name in PLATFORM_FLAGS:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} is for --platform, which is not given")
    only, repeats = flags.FLAGS.only, flags.FLAGS.repeats
    known = result_names(CASES)
    _check_names(only, known)
    if (output := flags.FLAGS.output) is not None:
        if not set(SCALING) & set(only or known):
            raise InputError(
                f"--output={output} is for a plot of {' or '.join(SCALING)}, none of which is run"
            )
        command.make_folder(output)
    results = []
    for result in run_cases(CASES, only or known, repeats):
        _print(result, format_result)
        results.append(result)
    if output is not None:
        print(write_scaling_plot(results, Path(output)), file=sys.stderr)
    return 0


def _check_accelerator(folder: Path) -> int:
    """Run the checks of --smoke; return 1 if one of them failed."""
    for name in ("budget", "peak_tflops", "repeats"):
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} is not for --smoke, which measures nothing")
    only = flags.FLAGS.only
    _check_names(only, list(CHECKS))
    names = [name for name in CHECKS if name in only or not only]
    failed = 0
    for result in smoke.run_checks(names, flags.FLAGS.platform, folder):
        _print(result, smoke.format_check)
        failed += "failed" in result
    return int(failed > 0)


def _measure_accelerator(folder: Path) -> int:
    """Run the cases on an accelerator; return 1 if one of them failed."""
    only, platform = flags.FLAGS.only, flags.FLAGS.platform
    _check_names(only, list(BY_NAME))
    budget = parse_duration(flags.FLAGS.budget) if flags.FLAGS.budget else None
    chosen = [case for name, case in BY_NAME.items() if name in only or not only]
    failed = 0
    worker = schedule.Worker(platform, flags.FLAGS.repeats, folder, flags.FLAGS.peak_tflops)
    for result in schedule.run_in_budget(chosen, worker, budget, rehearsal=platform == "cpu"):
        worker.save(result)
        _print(result, schedule.format_accelerator_result)
        failed += "failed" in result
    return int(failed > 0)


def _print(result: Result, format_line: Callable[[Result], str]) -> None:
    """Print a result as JSON or as text, at once."""
    print(json.dumps(result) if flags.FLAGS.json else format_line(result), flush=True)


def _check_names(only: list[str], known: list[str]) -> None:
    """Raise InputError if a name of --only is none of those known."""
    if wrong := [name for name in only if name not in known]:
        raise InputError(f"--only={','.join(only)}: {wrong[0]} is none of {', '.join(known)}")


if __name__ == "__main__":
    flags.DEFINE_list(
        "only",
        [],
        f"Names of cases: {', '.join(result_names(CASES))}; or with --platform those of its cases, "
        "or with --smoke of its checks, which are listed if a name is wrong. By default all.",
    )
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    flags.DEFINE_string(
        "output",
        None,
        f"Folder for scaling.png, of {' and '.join(SCALING)}; with --platform for results.jsonl, "
        "profiles and the output of all processes.",
    )
    flags.DEFINE_integer("repeats", 5, "Measurements of each, after warming up.", lower_bound=1)
    flags.DEFINE_enum(
        "platform",
        None,
        PLATFORMS,
        "Measure the cases of an accelerator in place of the others; cpu: rehearse them.",
    )
    flags.DEFINE_bool("smoke", False, "With --platform: checks of a minute in place of the cases.")
    flags.DEFINE_string("budget", None, "With --platform: time for all cases, such as 480s or 8m.")
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "With --platform: of one device, if it is not known.",
        lower_bound=0.001,
    )
    command.run(main)
