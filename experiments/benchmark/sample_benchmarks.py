"""Benchmark the sample command: its whole run, and its time to the first training step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.records import read_records
from experiments.benchmark.timing import Result

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.005


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
        records = read_records(workdir)
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
