"""Submit jobs to SLURM with submitit: refusals as messages, and clusters without accounting."""

import contextlib
import io
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import submitit
from absl import flags
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from alexnet_jax.errors import InputError

R = TypeVar("R")

WATCH_SECONDS = 60  # at most, between two calls of squeue


class SqueueWatcher(SlurmInfoWatcher):
    """Read the states of jobs from squeue, which unlike sacct needs no accounting."""

    def _make_command(self) -> list[str] | None:
        """Return the command that lists all jobs of this user."""
        if not self._registered - self._finished:
            return None
        return ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """Return the states by job number; a job that is no longer listed has ended."""
        text = string.decode() if isinstance(string, bytes) else string
        fields = (line.strip().split("|") for line in text.splitlines())
        listed = {pair[0]: pair[1] for pair in fields if len(pair) == 2}  # the rest is no job
        return {job: {"State": listed.get(job, "ENDED")} for job in self._registered}


class Program:
    """The function of a job, which runs a program and lets it save before the time limit.

    Before the limit, SLURM sends SIGUSR2 to all processes of a job, as submitit asks it to.
    submitit's own CommandFunction ends there, and its program with it.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Initialize with the command line."""
        self.words = [*words]

    def __call__(self) -> None:
        """Run the program, whose output is the job's; raise an exception for a status but 0."""
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # for the program, which inherits this
        process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGUSR2, lambda *_: process.terminate())
        if status := process.wait():
            raise subprocess.CalledProcessError(status, self.words)


class SlurmExecutor(submitit.AutoExecutor):
    """The executor for SLURM, which raises InputError for a job that sbatch refuses."""

    def start(self, words: Sequence[str], name: str) -> submitit.Job[None]:
        """Start a program as a job of this name.

        Raises:
            InputError: sbatch refuses the job.
        """
        self.update_parameters(name=name)
        return self.submit(Program(words))

    def submit(self, fn: Callable[..., R], *args: Any, **kwargs: Any) -> submitit.Job[R]:
        """Submit a call of a function.

        Raises:
            InputError: sbatch refuses the job.
        """
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the message of sbatch is given below
                return super().submit(fn, *args, **kwargs)
        except (FailedJobError, FailedSubmissionError) as error:
            reason = str(error).strip().splitlines()[0]
            flag = flags.FLAGS
            raise InputError(
                f"SLURM refuses a run ({reason}); given are "
                f"--slurm_partition={flag.slurm_partition} --gpus={flag.gpus} --cpus={flag.cpus} "
                f"--timeout_min={flag.timeout_min}; --gpus=0 suits nodes without a GPU"
            ) from None


def make_slurm_executor(folder: Path) -> SlurmExecutor:
    """Return the executor for SLURM, set up by the flags.

    It reads the states of jobs from sacct or from squeue.

    Raises:
        InputError: SLURM is not installed.
    """
    if missing := [name for name in ("sbatch", "srun", "scancel") if shutil.which(name) is None]:
        raise InputError(
            f"--slurm_partition={flags.FLAGS.slurm_partition}: there is no {missing[0]} on this "
            "machine; run this on a machine of the cluster, or leave the flag out"
        )
    if not _has_accounting():
        SlurmJob.watcher = SqueueWatcher(delay_s=WATCH_SECONDS)
    executor, flag = SlurmExecutor(folder=folder, cluster="slurm"), flags.FLAGS
    executor.update_parameters(
        timeout_min=flag.timeout_min,
        cpus_per_task=flag.cpus,
        slurm_partition=flag.slurm_partition,
        gpus_per_node=flag.gpus,
    )
    return executor


def _has_accounting() -> bool:
    """Return whether sacct can list the states of jobs."""
    try:
        return subprocess.run(["sacct", "--noheader"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
