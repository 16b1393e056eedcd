"""Benchmark the sample command: its run, its first training step, images on the device or not."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.records import read_records
from experiments.benchmark.timing import OURS, Result, compare_times, format_ratio

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.005
RESIDENT_STEPS = 60


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
        _wait_for(process)
        records = read_records(workdir)
    center, ten = (r for r in records if r["split"] == "test")
    return {
        "seconds": time.perf_counter() - start,
        "top1_error": center["top1_error"],
        "top1_error_ten_views": ten["top1_error"],
        "count": center["count"],
    }


def time_resident(repeats: int) -> Result:
    """Time RESIDENT_STEPS steps of the sample with its images on the device, and on the host.

    Both commands run alternately, with the evaluations after the last step, once more than
    `repeats`, since the first run of each prepares the images and compiles. The user CPU time,
    which other programs on the machine affect less, is compared, too.
    """
    wall: dict[str, list[float]] = {OURS: [], "images on the host": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    with tempfile.TemporaryDirectory() as cache:
        for repeat in range(repeats + 1):
            for name, resident in zip(wall, ("on", "off"), strict=True):
                start, start_cpu = time.perf_counter(), _children_user_seconds()
                _run_steps(cache, f"--config.data.resident={resident}")
                if repeat:
                    wall[name].append(time.perf_counter() - start)
                    cpu[name].append(_children_user_seconds() - start_cpu)
    result, of_cpu = (compare_times(seconds, [*wall][1:]) for seconds in (wall, cpu))
    summary = [
        f"{clock} {r['seconds']:.3g} s, {r['reference']} {r['reference_seconds']:.3g} s, ratio "
        f"{format_ratio(r)}"
        for clock, r in (("wall time", result), ("user time", of_cpu))
    ]
    user = {f"user_{name}": value for name, value in of_cpu.items() if name != "reference"}
    return {**result, **user, "summary": "; ".join(summary)}


def _run_steps(cache: str, *overrides: str) -> None:
    """Run the sample command for RESIDENT_STEPS steps."""
    with _sample_run(cache, f"--config.max_steps={RESIDENT_STEPS}", *overrides) as (process, _):
        _wait_for(process)


def _wait_for(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a sample run; raise RuntimeError with its output if it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the sample run failed:\n{output}")


def _children_user_seconds() -> float:
    """Return the user CPU time of the processes that this one has started and waited for."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def time_startup(repeats: int, *overrides: str) -> Result:
    """Time the sample command from its start to the end of its first training step.

    Each time twice: with nothing prepared or compiled, and with the caches of the first start. The
    user CPU time, which other programs on the machine affect less, is that of the starts with
    nothing prepared.
    """
    cold, second, cpu = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            start_cpu = _children_user_seconds()
            cold.append(_time_first_step(cache, *overrides))
            cpu.append(_children_user_seconds() - start_cpu)
            second.append(_time_first_step(cache, *overrides))
    return {
        "seconds": statistics.median(cold),
        "seconds_high": max(cold),
        "user_seconds": statistics.median(cpu),
        "second_start_seconds": statistics.median(second),
        "second_start_seconds_high": max(second),
    }


def _time_first_step(cache: str, *overrides: str) -> float:
    """Return the seconds from the start of the sample command to its first training record."""
    start = time.perf_counter()
    until_first = ("--config.log_every=1", "--config.max_steps=2")
    with _sample_run(cache, *until_first, *overrides) as (process, workdir):
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
