"""Describe the machine on which a run takes place."""

import functools
import platform
from contextlib import suppress
from pathlib import Path

from alexnet_jax.data.parallel_map import available_cores

CORES = " cores"


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
