"""Memory of a process, and processes of their own to measure it in (Linux)."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def in_a_process(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result from a new interpreter, which shares no memory with this one."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def resident(field: str = "VmHWM") -> float:
    """The most memory that this process ever held, MiB; with "VmRSS" what it holds now.

    Not getrusage's ru_maxrss, which a new process takes over from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def peak_during(call: Callable[[], object]) -> tuple[float, float, float]:
    """MiB that this process holds before and after a call, and at the most meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    call()
    after = resident("VmRSS")
    return before, after, resident("VmHWM")
