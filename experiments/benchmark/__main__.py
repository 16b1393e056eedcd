"""Measure speed and memory, and those of a reference program in the same run.

    python -m experiments.benchmark [--only=NAME] [--json] [--repeats=N] [--output=FOLDER]
    python -m experiments.benchmark --platform=gpu [--batch=128] [--peak_tflops=N]

This program and the reference, in most cases PyTorch, run alternately, so that a machine whose
speed drifts slows both. A ratio above 1 means that this program is faster; it is the median over
the pairs, with the lowest and the highest.
"""

import json
import sys
from pathlib import Path

from absl import flags

from alexnet_jax import command
from alexnet_jax.errors import InputError
from experiments.benchmark.cases import (
    CASES,
    SCALING,
    format_result,
    result_names,
    run_cases,
    single_result,
    write_scaling_plot,
)


def main(_: list[str]) -> None:
    """Run the command."""
    only, repeats, platform = flags.FLAGS.only, flags.FLAGS.repeats, flags.FLAGS.platform
    chosen, format_line = CASES, format_result
    if platform:
        # With --platform alone: it loads JAX.
        from experiments.benchmark import accelerator_benchmark

        accelerator_benchmark.select_platform(platform)
        cases = accelerator_benchmark.make_cases(flags.FLAGS.batch, flags.FLAGS.peak_tflops)
        chosen = {(name,): single_result(case) for name, case in cases.items()}
        format_line = accelerator_benchmark.format_step_result
    for name in ("batch", "peak_tflops"):
        if flags.FLAGS[name].present and not platform:
            raise InputError(f"--{name} is for --platform, which is not given")
    known = result_names(chosen)
    if wrong := [name for name in only if name not in known]:
        raise InputError(f"--only={','.join(only)}: {wrong[0]} is none of {', '.join(known)}")
    if (output := flags.FLAGS.output) is not None:
        if not set(SCALING) & set(only or known):
            raise InputError(
                f"--output={output} is for a plot of {' or '.join(SCALING)}, none of which is run"
            )
        command.make_folder(output)
    results = []
    for result in run_cases(chosen, only or known, repeats):
        print(json.dumps(result) if flags.FLAGS.json else format_line(result), flush=True)
        results.append(result)
    if output is not None:
        print(write_scaling_plot(results, Path(output)), file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_list("only", [], f"Of {', '.join(result_names(CASES))}; by default all.")
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    flags.DEFINE_string("output", None, f"Folder for scaling.png, of {' and '.join(SCALING)}.")
    flags.DEFINE_integer("repeats", 5, "Measurements of each, after warming up.", lower_bound=1)
    flags.DEFINE_enum(
        "platform",
        None,
        ["cpu", "gpu", "tpu"],
        "In place of the other cases, the paper's step on one and two devices of a platform in "
        "both types (accelerator_step/TYPE/DEVICES), with its share of their peak.",
    )
    flags.DEFINE_integer("batch", 128, "With --platform: images in a step.", lower_bound=1)
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "With --platform: of one device, if it is not known.",
        lower_bound=0.001,
    )
    command.run(main)
