"""Measure the memory of a process, or of a call in a new process (Linux)."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Return the function's result from a new interpreter, which shares no memory with this one."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def resident_mib(field: str = "VmHWM") -> float:
    """Return the most memory that this process ever held, in MiB; with "VmRSS" the current one.

    getrusage's ru_maxrss would not do: a new process inherits it from its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def peak_during(call: Callable[[], object]) -> tuple[float, float, float]:
    """Return the MiB that this process holds before and after a call, and the most during it."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_mib("VmRSS")
    call()
    after = resident_mib("VmRSS")
    return before, after, resident_mib("VmHWM")
