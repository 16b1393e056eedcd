"""Measure speed and memory, beside a peer measured in the same run.

    python -m experiments.benchmark [--only=NAME] [--json] [--repeats=N] [--output=FOLDER]
    python -m experiments.benchmark --platform=gpu [--batch=128] [--peak_tflops=N]

This program and the peer run alternately, so that a machine whose speed drifts slows both. A ratio
above 1 means that this program is faster; it is the median over the pairs, with the lowest and the
highest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from alexnet_jax import command
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.writers import read_records
from experiments import growth_benchmarks, input_benchmarks, step_benchmarks
from experiments.race import Result

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.005

# (names of the results asked for, repeats) → these results, in that order
Case = Callable[[tuple[str, ...], int], list[Result]]


@contextmanager
def _sample_run(cache: str, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start the sample command in a new process with a cache folder of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        arguments = ["--config=configs/alexnet.py:sample", f"--workdir={workdir}", *overrides]
        with subprocess.Popen(
            [sys.executable, "-m", "alexnet_jax.main", *arguments],
            cwd=ROOT,
            env={**environment, "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            yield process, workdir


def time_sample(repeats: int) -> Result:
    """Time the sample command once, from nothing prepared to its final errors (fractions)."""
    del repeats
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, _sample_run(cache) as (process, workdir):
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the sample run failed:\n{output}")
        records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    center, ten = (r for r in records if r["split"] == "test")
    return {
        "seconds": time.perf_counter() - start,
        "top1_error": center["top1_error"],
        "top1_error_ten_views": ten["top1_error"],
        "count": center["count"],
    }


def time_startup(repeats: int) -> Result:
    """Time the sample command from its start to the end of its first training step.

    Each time twice: with nothing prepared or compiled, and with the caches of the first start.
    """
    cold, second = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_time_first_step(cache))
            second.append(_time_first_step(cache))
    return {
        "seconds": statistics.median(cold),
        "seconds_high": max(cold),
        "second_start_seconds": statistics.median(second),
        "second_start_seconds_high": max(second),
    }


def _time_first_step(cache: str) -> float:
    """Return the seconds from the start of the sample command to its first training record."""
    start = time.perf_counter()
    with _sample_run(cache, "--config.log_every=1", "--config.max_steps=2") as (process, workdir):
        while process.poll() is None:
            if _has_trained(workdir):
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
            time.sleep(POLL_SECONDS)
        output, _ = process.communicate()
    raise RuntimeError(f"the sample run ended before its first step:\n{output}")


def _has_trained(workdir: Path) -> bool:
    """Return whether metrics.jsonl has a training record."""
    return any(record["split"] == "train" for record in read_records(workdir))


def _single(case: Callable[[int], Result]) -> Case:
    return lambda _, repeats: [case(repeats)]


def _step(make_config: Callable[[], Config], times: int = 1) -> Case:
    """Compare the step of a config with the kinds of peer at the ends of the names."""
    return lambda wanted, repeats: step_benchmarks.time_train_step(
        make_config(), times * repeats, tuple(name.rpartition("_")[2] for name in wanted)
    )


# The names of the results of each case.
CASES: dict[tuple[str, ...], Case] = {
    ("train_step/torch_eager", "train_step/torch_compile"): _step(step_benchmarks.paper_config),
    ("sample_train_step/torch_eager",): _step(step_benchmarks.sample_config, times=5),
    ("train_step_memory",): _single(step_benchmarks.measure_step_memory),
    ("restore_memory",): _single(step_benchmarks.measure_restore_memory),
    ("train_step_growth",): _single(step_benchmarks.time_growth),
    ("input_pipeline/decoder",): _single(input_benchmarks.time_decoder),
    ("input_pipeline/torch_dataloader",): _single(input_benchmarks.time_torch_dataloader),
    ("prepare/decode_resize",): _single(input_benchmarks.time_preparation),
    ("prepare_memory",): _single(growth_benchmarks.measure_memory),
    ("evaluate_growth",): _single(growth_benchmarks.time_evaluation),
    ("startup",): _single(time_startup),
    ("sample",): _single(time_sample),
}


# Results with a scaling plot, and its title.
GROWTH = {
    "train_step_growth": "A training step, the paper's model",
    "evaluate_growth": "Evaluation, center view, the sample's model",
}


def format_result(result: Result) -> str:
    """Return a result as a line of text."""
    parts = []
    if "images_per_second" in result:
        parts = [
            f"{result['images_per_second']:,.0f} images/s",
            f"peer ({result['peer']}) {result['peer_images_per_second']:,.0f}",
            f"ratio {result['ratio']:.2f} ({result['ratio_low']:.2f}–{result['ratio_high']:.2f})",
        ]
    elif "summary" not in result:
        parts = [f"{result['seconds']:.3g} s"]
    if "second_start_seconds" in result:
        parts.append(f"a second start {result['second_start_seconds']:.3g} s")
    if "top1_error" in result:
        parts.append(
            f"top-1 test error {result['top1_error']:.2%}, ten views "
            f"{result['top1_error_ten_views']:.2%}, {result['count']} images"
        )
    if "summary" in result:
        parts.append(result["summary"])
    return f"{result['name']}: {', '.join(parts)}"


def result_names(cases: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the names of all results, in order."""
    return [name for some in cases for name in some]


def run_cases(
    cases: dict[tuple[str, ...], Case], chosen: Iterable[str], repeats: int
) -> Iterator[Result]:
    """Yield the results with the chosen names, each as soon as its case has run."""
    for some, case in cases.items():
        wanted = tuple(name for name in some if name in chosen)
        if wanted:
            print(f"{', '.join(wanted)} …", file=sys.stderr)
            for name, result in zip(wanted, case(wanted, repeats), strict=True):
                yield {"name": name, **result}


def write_growth_plot(results: Iterable[Result], folder: Path) -> Path:
    """Plot the results named in GROWTH; return the path of growth.png in the folder."""
    from experiments import growth  # with --output alone: it loads matplotlib

    titled = {GROWTH[r["name"]]: r for r in results if r["name"] in GROWTH}
    path = folder / "growth.png"
    growth.plot_growth(titled).savefig(path, dpi=120)
    return path


def main(_: list[str]) -> None:
    """Run the command."""
    only, repeats, platform = flags.FLAGS.only, flags.FLAGS.repeats, flags.FLAGS.platform
    chosen, format_line = CASES, format_result
    if platform:
        from experiments import accelerator_benchmark  # with --platform alone: it loads JAX

        accelerator_benchmark.choose(platform)
        cases = accelerator_benchmark.cases(flags.FLAGS.batch, flags.FLAGS.peak_tflops)
        chosen = {(name,): _single(case) for name, case in cases.items()}
        format_line = accelerator_benchmark.text
    for name in ("batch", "peak_tflops"):
        if flags.FLAGS[name].present and not platform:
            raise InputError(f"--{name} is for --platform, which is not given")
    known = result_names(chosen)
    if wrong := [name for name in only if name not in known]:
        raise InputError(f"--only={','.join(only)}: {wrong[0]} is none of {', '.join(known)}")
    if (output := flags.FLAGS.output) is not None:
        if not set(GROWTH) & set(only or known):
            raise InputError(
                f"--output={output} is for a plot of {' or '.join(GROWTH)}, none of which is run"
            )
        command.make_folder(output)
    results = []
    for result in run_cases(chosen, only or known, repeats):
        print(json.dumps(result) if flags.FLAGS.json else format_line(result), flush=True)
        results.append(result)
    if output is not None:
        print(write_growth_plot(results, Path(output)), file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_list("only", [], f"Of {', '.join(result_names(CASES))}; by default all.")
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    flags.DEFINE_string("output", None, f"Folder for growth.png, of {' and '.join(GROWTH)}.")
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
