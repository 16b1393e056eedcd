"""Find out in a minute whether training works on a machine's accelerator."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax.errors import InputError
from alexnet_jax.machine import available_cores
from experiments.benchmark.accelerator.schedule import (
    LOG,
    end_process,
    make_environment,
    start_process,
)
from experiments.benchmark.accelerator.smoke_checks import NO_PLATFORM_STATUS, WITHOUT_DEVICE
from experiments.benchmark.timing import Result

LIMIT = 900  # seconds after which a check is ended on an idle machine, for one that hangs
POLL_SECONDS = 0.05
MODULE = "experiments.benchmark.accelerator.smoke_checks"


@dataclass(frozen=True)
class Check:
    """A check that is running.

    Attributes:
        name: of `smoke_checks.CHECKS`.
        log: file with its output.
        process: the process that it runs in.
        start: `time.monotonic()` when it was started.
    """

    name: str
    log: Path
    process: "subprocess.Popen[bytes]"
    start: float


def run_checks(names: Sequence[str], platform: str, folder: Path) -> Iterator[Result]:
    """Run checks, at most one for each core at a time; yield their results as they end.

    Args:
        names: of `smoke_checks.CHECKS`.
        folder: for the output of each.

    Yields:
        name, seconds, and passed or failed with what was found.

    Raises:
        InputError: the machine has no device of the platform.
    """
    waiting, running = list(names), list[Check]()
    try:
        while waiting or running:
            while waiting and len(running) < available_cores():
                running.append(_start(waiting.pop(0), platform, folder))
            for check in list(running):
                ended = check.process.poll() is not None
                if ended or time.monotonic() - check.start > compute_limit():
                    end_process(check.process)
                    running.remove(check)
                    yield _read_outcome(check, ended=ended)
            time.sleep(POLL_SECONDS)
    finally:
        for check in running:
            end_process(check.process)


def compute_limit() -> float:
    """Return the seconds after which a check is ended: up to four times LIMIT on a busy machine."""
    return LIMIT * min(4.0, max(1.0, os.getloadavg()[0] / available_cores()))


def _start(name: str, platform: str, folder: Path) -> Check:
    """Start a check in a process of its own."""
    own = folder / name.replace("/", "-")
    own.mkdir(parents=True, exist_ok=True)
    arguments = ["-m", MODULE, name, platform, str(own.absolute())]
    process = start_process(arguments, own / LOG, make_check_environment(name, platform))
    return Check(name, own / LOG, process, time.monotonic())


def _read_outcome(check: Check, *, ended: bool) -> Result:
    """Return the result of a check; see `run_checks`.

    Args:
        ended: whether it ended by itself.
    """
    lines = check.log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "without a message"
    status = check.process.returncode
    if ended and status == NO_PLATFORM_STATUS:
        raise InputError(last)
    if not ended:
        seconds = time.monotonic() - check.start
        last = f"ended after {seconds:.0f} s, having printed {last}"
    outcome = "failed" if status else "passed"
    return {"name": check.name, outcome: last, "seconds": time.monotonic() - check.start}


def make_check_environment(name: str, platform: str) -> dict[str, str]:
    """Return the environment of a check.

    Checks share the device, so that none may take most of its memory. Autotuning, which takes the
    most time of compiling, is left to the check of a convolution.
    """
    untuned = platform == "gpu" and name != "convolution"
    environment = make_environment(
        *(["--xla_gpu_autotune_level=0"] if untuned else []),
        on_cpu=platform == "cpu" or name in WITHOUT_DEVICE,
    )
    return {**environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def format_check(result: Result) -> str:
    """Return the result of a check as a line of text."""
    outcome = "passed" if "passed" in result else "failed"
    return f"{result['name']}: {outcome} in {result['seconds']:.0f} s: {result[outcome]}"
