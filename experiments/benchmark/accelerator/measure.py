"""Measure the device, the training step of a config on it, and the step's time by operation."""

import contextlib
import csv
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import Config
from alexnet_jax.training_input import MAX_STEPS
from experiments.benchmark.accelerator.floors import compute_floor, count_step_operations
from experiments.benchmark.accelerator.profiles import PROFILED_STEPS, read_profile, sum_by_layer
from experiments.benchmark.accelerator.rates import find_peak_tflops, find_rates
from experiments.benchmark.memory import resident_mib
from experiments.benchmark.synthetic_step import ResidentTrainSteps, SyntheticTrainStep
from experiments.benchmark.timing import Result

# Images on the device, and steps in a dispatch, of `measure_resident_steps`: those of CIFAR-10, and
# as many as training takes at most.
IMAGES, LENGTH = 50_000, MAX_STEPS
SEEDS = 8  # that are trained together in the cases "seeds"
STEPS = 20  # timed together, so that the host's part is hidden as in training
PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13"),
    *("nvidia-cudnn-cu12", "libtpu", "flax", "optax", "numpy", "torch", "triton"),
)
SHOWN = 15  # operations of a profile in the result; the file has all


def time_steps(
    dispatch: Callable[[], None], finish: Callable[[], None], repeats: int, steps: int = STEPS
) -> Result:
    """Time steps that are begun one after another.

    Args:
        dispatch: begin a step.
        finish: wait for the steps begun.
        repeats: measurements of `steps` steps each.

    Returns:
        seconds of a step (median, seconds_low, seconds_high), steps_per_second, and the clocks
        before and after, see `read_clocks`.
    """
    before = read_clocks()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps):
            dispatch()
        finish()
        times.append((time.perf_counter() - start) / steps)
    seconds = statistics.median(times)
    return {
        "seconds": seconds,
        "seconds_low": min(times),
        "seconds_high": max(times),
        "steps_per_second": 1 / seconds,
        "clocks": [before, read_clocks()],
    }


def measure_step(
    config: Config, repeats: int, started: float, *, steps: int = STEPS, peak: float | None = None
) -> Result:
    """Time the training step of a config whose number of classes is known.

    Args:
        repeats: measurements of `steps` steps each.
        started: `time.perf_counter()` at the start of the process.
        peak: TFLOP/s of one device; None takes that of the data sheet.

    Returns:
        What `time_steps` returns, with first_step_seconds (from the start of the process to the end
        of its first step), peak_mib and its memory ("device" or "process"), images_per_second,
        tflops and peak_tflops of all devices, share_of_peak, floor_seconds and share_of_floor; the
        last ones None where the device is not known.
    """
    step = SyntheticTrainStep(config)
    step()
    first = time.perf_counter() - started
    step()
    timed = time_steps(step.dispatch, step.finish, repeats, steps)
    devices = config.parallel.columns * config.parallel.data
    kind, dtype = jax.devices()[0].device_kind, config.compute_dtype
    seconds = timed["seconds"]
    tflops = count_step_operations(config) * config.batch_size / seconds / 1e12
    one = peak if peak is not None else find_peak_tflops(kind, dtype)
    rates = find_rates(kind, dtype)
    floor = compute_floor(config, rates) if rates is not None and devices == 1 else None
    return {
        **describe_work(config, devices, kind),
        **timed,
        "first_step_seconds": first,
        **read_peak_memory(),
        "images_per_second": config.batch_size / seconds,
        "tflops": tflops,
        "peak_tflops": one and one * devices,
        "share_of_peak": one and tflops / (one * devices),
        "floor_seconds": floor,
        "share_of_floor": floor and floor / seconds,
    }


def measure_resident_steps(
    config: Config, repeats: int, *, length: int = LENGTH, images: int = IMAGES, seeds: int = 1
) -> Result:
    """Time training steps with the images on the device and several steps in a dispatch.

    The steps of several seeds are counted one by one, so that they compare with those of one.

    Args:
        config: with its number of classes.
        repeats: measurements of two dispatches each.
        length: number of steps in a dispatch.
        images: number of images on the device.
        seeds: number of seeds that are trained together.

    Returns:
        What describes the work, seeds, steps_per_dispatch of each, seconds of a step (median,
        seconds_low, seconds_high), steps_per_second, images_per_second, clocks, peak_mib and
        memory.
    """
    steps = ResidentTrainSteps(config, length, images, seeds)
    for _ in range(2):  # the first one compiles
        steps.dispatch()
        steps.finish()
    timed = time_steps(steps.dispatch, steps.finish, repeats, 2)
    names = ("seconds", "seconds_low", "seconds_high")
    seconds = {name: timed[name] / (length * seeds) for name in names}
    return {
        **describe_work(config, 1, jax.devices()[0].device_kind),
        "seeds": seeds,
        "steps_per_dispatch": length,
        **seconds,
        "steps_per_second": 1 / seconds["seconds"],
        "images_per_second": config.batch_size / seconds["seconds"],
        "clocks": timed["clocks"],
        **read_peak_memory(),
    }


def describe_work(config: Config, devices: int, kind: str) -> Result:
    """Return device, devices, compute_dtype and batch_size."""
    return {
        "device": kind,
        "devices": devices,
        "compute_dtype": config.compute_dtype,
        "batch_size": config.batch_size,
    }


def read_peak_memory() -> Result:
    """Return the most memory used so far: of the first device, or of the process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is None:
        return {"peak_mib": resident_mib(), "memory": "process"}
    return {"peak_mib": stats["peak_bytes_in_use"] / 2**20, "memory": "device"}


def measure_profile(config: Config, folder: Path) -> Result:
    """Measure the time of every operation of the training step; write profile.csv to a folder.

    Returns:
        What describes the work; operations, those that take most of the time, and layers, the sums
        by layer and direction, both in microseconds of a step; and file, the path of profile.csv.
    """
    step = SyntheticTrainStep(config)
    text = step.compile()
    step()
    step()
    with jax.profiler.trace(str(folder / "trace")):
        for _ in range(PROFILED_STEPS):
            step.dispatch()
        step.finish()
    rows = read_profile(folder / "trace", text, config)
    with (folder / "profile.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {
        **describe_work(config, 1, jax.devices()[0].device_kind),
        "microseconds": sum(row["microseconds"] for row in rows),
        "layers": sum_by_layer(rows),
        "operations": rows[:SHOWN],
        "file": str(folder / "profile.csv"),
    }


def measure_device(repeats: int, *, rehearsal: bool) -> Result:
    """Return what the device is and what it reaches in large operations.

    Args:
        rehearsal: use small operations.

    Returns:
        What `describe_device` returns, product_tflops by type, and copy_terabytes (per second, read
        and written).
    """
    side, numbers = (256, 2**18) if rehearsal else (8192, 2**29)
    products = {
        dtype: 2 * side**3 / _time_product(side, dtype, repeats) / 1e12
        for dtype in ("bfloat16", "float32")
    }
    return {
        **describe_device(),
        "product_tflops": products,
        "copy_terabytes": 2 * 2 * numbers / _time_copy(numbers, repeats) / 1e12,
    }


def describe_device() -> Result:
    """Return device, devices, versions (of Python and packages), platform_version, driver, and
    memory_mib, the last two None where they are not known.
    """
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "versions": list_versions(),
        "platform_version": device.client.platform_version.splitlines(),
        "driver": _query_nvidia("driver_version"),
        "memory_mib": stats.get("bytes_limit", 0) / 2**20 or None,
    }


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which speed depends, where installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _time_product(side: int, dtype: str, repeats: int) -> float:
    """Return the seconds of a product of random square matrices."""
    left, right = (
        jax.random.normal(jax.random.key(seed), (side, side), jnp.dtype(dtype)) for seed in (0, 1)
    )
    return time_call(jax.jit(jnp.matmul), (left, right), repeats)


def _time_copy(numbers: int, repeats: int) -> float:
    """Return the seconds of reading and writing so many bfloat16 numbers."""
    values = jax.random.normal(jax.random.key(0), (numbers,), jnp.bfloat16)
    return time_call(jax.jit(lambda x: x + 1), (values,), repeats)


def time_call(call: Callable[..., jax.Array], arguments: tuple[Any, ...], repeats: int) -> float:
    """Return the median seconds of a call, of which ten are timed together."""
    results: list[jax.Array] = []

    def dispatch() -> None:
        results[:] = [call(*arguments)]

    def finish() -> None:
        results[0].block_until_ready()

    dispatch()
    finish()
    seconds: float = time_steps(dispatch, finish, repeats, 10)["seconds"]
    return seconds


def read_clocks() -> str | None:
    """Return the clock of the multiprocessors, the temperature and the power of NVIDIA's GPUs."""
    return _query_nvidia("clocks.sm,temperature.gpu,power.draw")


def _query_nvidia(fields: str) -> str | None:
    """Return what nvidia-smi prints for its fields, or None where there is no such program."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
