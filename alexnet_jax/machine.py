"""The machine on which a run takes place: its processor or accelerator, and its cores."""

import functools
import os
import platform
from contextlib import suppress
from pathlib import Path

CORES = " cores"


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def describe_machine() -> str:
    """Return the kind of JAX's devices; for CPUs the processor and the cores that may be used."""
    import jax  # not at the top: a report reads the status of runs without it

    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    name = platform.processor() or platform.machine()
    with suppress(FileNotFoundError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {available_cores()}{CORES}"


def is_processor(machine: str) -> bool:
    """Return whether a description of `describe_machine` is that of CPUs."""
    return machine.endswith(CORES)
