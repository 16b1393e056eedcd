"""Run the cases on an accelerator one after another, each in a process of its own, in a budget."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import InputError
from experiments.benchmark.accelerator.cases import PEERS, Case
from experiments.benchmark.accelerator.worker import NO_PLATFORM, RESULT
from experiments.benchmark.timing import OURS, Result

ROOT = Path(__file__).parents[3]
REHEARSAL_SECONDS = 100  # estimate of a case on a CPU
PATIENCE = 3  # a case is ended after so many times its estimate
RESULTS = "results.jsonl"
LOG = "log.txt"

RunCase = Callable[[Case, float], Result]  # (case, seconds after which it is ended) → result


def run_in_budget(
    cases: Sequence[Case], run: RunCase, budget: float | None, *, rehearsal: bool
) -> Iterator[Result]:
    """Yield the results of cases, in their order, each as soon as it has run.

    A case whose estimate is longer than what is left of the budget is not run, and its result has
    the reason; later cases that take less time may still be. PyTorch's results, and those of other
    forms of ops, are compared with those of this program as it is.

    Args:
        run: function that runs a case.
        budget: seconds for all cases; None for no limit.
        rehearsal: the cases run on a CPU.
    """
    start = time.monotonic()
    seconds: dict[str, float] = {}  # of this program's steps
    for case in cases:
        left = float("inf") if budget is None else budget - (time.monotonic() - start)
        needed = REHEARSAL_SECONDS if rehearsal else case.seconds
        if needed > left:
            reason = f"takes about {needed:.0f} s, {max(left, 0):.0f} s of the budget are left"
            yield {"name": case.name, "not_run": reason}
            continue
        result = run(case, min(PATIENCE * needed, left))
        ours = seconds.get(case.compared_with)
        if case.kind == OURS and "seconds" in result:
            seconds[case.name] = result["seconds"]
            if case.form and ours is not None:
                result["ratio"] = ours / result["seconds"]
        if case.kind in PEERS and "reference_seconds" in result:
            result |= _compare(result, ours)
        yield {"name": case.name, **result}


def _compare(result: Result, ours: float | None) -> Result:
    """Return images per second of PyTorch, those of this program, and the ratio, if known.

    Args:
        result: of PyTorch.
        ours: seconds of this program's step.
    """
    batch, theirs = result["batch_size"], result["reference_seconds"]
    rates: Result = {"reference_images_per_second": batch / theirs}
    if ours is not None:
        rates |= {"seconds": ours, "images_per_second": batch / ours, "ratio": theirs / ours}
    return rates


class Worker:
    """Runs cases in new processes and saves what they leave in a folder.

    Each result is a line of results.jsonl as soon as there is one. A case has a folder of its name,
    with its result and the output of its process.
    """

    def __init__(
        self, platform: str, repeats: int, folder: Path, peak_tflops: float | None = None
    ) -> None:
        """Take what all cases have in common; see `worker.main`."""
        self._request = {"platform": platform, "repeats": repeats, "peak_tflops": peak_tflops}
        self._folder = folder

    def __call__(self, case: Case, limit: float) -> Result:
        """Run a case; end its process after a number of seconds.

        Returns:
            The result of the case with the wall_seconds of its process, and failed or not_run with
            the reason, if it has none.

        Raises:
            InputError: the machine has no device of the platform.
        """
        folder = self._folder / case.name.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        request = {"case": case.name, "folder": str(folder.absolute()), **self._request}
        start = time.monotonic()
        status = run_process(
            ["-m", "experiments.benchmark.accelerator.worker", json.dumps(request)],
            folder / LOG,
            limit,
            # JAX must take no memory of the device in PyTorch's process.
            make_environment(on_cpu=case.kind in PEERS),
        )
        result = self._read(folder, status, limit)
        return {**result, "wall_seconds": time.monotonic() - start}

    def save(self, result: Result) -> None:
        """Append a result to results.jsonl."""
        with (self._folder / RESULTS).open("a") as file:
            file.write(json.dumps(result) + "\n")

    def _read(self, folder: Path, status: int | None, limit: float) -> Result:
        """Return the result that a process left, or why there is none."""
        if status is None:
            return {"failed": f"ended after {limit:.0f} s; its output is in {folder / LOG}"}
        if status:
            lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "without a message"
            return {"failed": f"exit status {status}: {last} (more in {folder / LOG})"}
        result: Result = json.loads((folder / RESULT).read_text())
        if NO_PLATFORM in result:
            raise InputError(result[NO_PLATFORM])
        return result


def make_environment(*xla_flags: str, on_cpu: bool) -> dict[str, str]:
    """Return this process's environment, changed for another process.

    Args:
        xla_flags: flags that follow those of XLA_FLAGS.
        on_cpu: JAX leaves the device alone.
    """
    environment = dict(os.environ)
    if xla_flags:
        environment["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *xla_flags]).strip()
    if on_cpu:
        environment["JAX_PLATFORMS"] = "cpu"
    return environment


def run_process(
    arguments: list[str], log: Path, limit: float, environment: dict[str, str]
) -> int | None:
    """Run Python with its output in a file; return the exit status, or None if it was ended.

    The process and all that it has started are killed after `limit` seconds, and also when this
    process is interrupted.
    """
    process = start_process(arguments, log, environment)
    try:
        return process.wait(None if limit == float("inf") else limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_process(process)


def start_process(
    arguments: list[str], log: Path, environment: dict[str, str]
) -> "subprocess.Popen[bytes]":
    """Start Python in the checkout, as the leader of a group of processes."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it has started, if it is still running."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def format_accelerator_result(result: Result) -> str:
    """Return the result of a case as a line of text."""
    return f"{result['name']}: {_format_content(result)}"


def _format_content(result: dict[str, Any]) -> str:
    """Return what a line says about a result."""
    for reason in ("failed", "not_run"):
        if reason in result:
            return f"{reason.replace('_', ' ')}: {result[reason]}"
    if "product_tflops" in result:
        products = ", ".join(f"{t} {v:.4g}" for t, v in result["product_tflops"].items())
        return (
            f"{result['devices']} × {result['device']}, products {products} TFLOP/s, copies "
            f"{result['copy_terabytes']:.3g} TB/s"
        )
    if "layers" in result:
        longest = ", ".join(f"{k} {v:.0f}" for k, v in list(result["layers"].items())[:5])
        return f"{result['microseconds']:.0f} µs of a step: {longest}; all in {result['file']}"
    ratio = f", ratio {result['ratio']:.2f}" if "ratio" in result else ""
    if "reference_seconds" in result:
        return (
            f"{result['reference_images_per_second']:,.0f} images/s{ratio}, {_format_use(result)}"
        )
    rates = f"{result['images_per_second']:,.0f} images/s, {result['steps_per_second']:.4g} steps/s"
    rates += ratio
    if "steps_per_dispatch" in result:
        return f"{rates}, {result['steps_per_dispatch']} steps in a dispatch"
    parts = [
        rates,
        f"{result['tflops']:.3g} TFLOP/s ({_format_shares(result)})",
        _format_use(result),
    ]
    return ", ".join(parts)


def _format_shares(result: Result) -> str:
    """Return the shares of the peak and of the floor."""
    if result["share_of_peak"] is None:
        return "peak not known: give --peak_tflops"
    peak = f"{result['share_of_peak']:.1%} of the peak"
    floor = result["share_of_floor"]
    return peak if floor is None else f"{peak}, {floor:.1%} of what the floor allows"


def _format_use(result: Result) -> str:
    """Return the time to the first step and the memory."""
    return f"first step {result['first_step_seconds']:.3g} s, {result['peak_mib']:,.0f} MiB"
