"""Submit jobs to SLURM with submitit: refusals as messages, and clusters without accounting."""

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import submitit
from absl import flags
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from alexnet_jax.errors import InputError

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
        listed = dict(line.strip().split("|") for line in text.splitlines())
        return {job: {"State": listed.get(job, "ENDED")} for job in self._registered}


def make_slurm_executor(folder: Path) -> submitit.AutoExecutor:
    """Return the executor for SLURM; it reads the states of jobs from sacct or from squeue.

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
    return submitit.AutoExecutor(folder=folder, cluster="slurm")


def _has_accounting() -> bool:
    """Return whether sacct knows the states of jobs."""
    try:
        return subprocess.run(["sacct", "--noheader"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def submit(executor: submitit.AutoExecutor, words: list[str]) -> submitit.Job[str]:
    """Submit a command.

    Raises:
        InputError: sbatch refuses the job.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the message of sbatch is given below
            return executor.submit(submitit.helpers.CommandFunction(words, verbose=False))
    except (FailedJobError, FailedSubmissionError) as error:
        reason = str(error).strip().splitlines()[0]
        flag = flags.FLAGS
        raise InputError(
            f"SLURM refuses a run ({reason}); given are --slurm_partition={flag.slurm_partition} "
            f"--gpus={flag.gpus} --cpus={flag.cpus} --timeout_min={flag.timeout_min}; --gpus=0 "
            "suits nodes without a GPU"
        ) from None
