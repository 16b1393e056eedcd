"""Runs under SLURM: with its programs imitated, and on a cluster where there is one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set

from alexnet_jax.errors import InputError
from alexnet_jax.status import read_status
from experiments.sweeps import slurm

TOOLS = ("sinfo", "sbatch", "srun", "squeue", "scancel")
GIVEN = dict(slurm_partition="debug", gpus=1, cpus=2, timeout_min=60)


def slurm_runs() -> bool:
    """Return whether this machine has SLURM, and a node of it answers."""
    if any(shutil.which(tool) is None for tool in TOOLS):
        return False
    try:
        listed = subprocess.run(["sinfo", "-h", "-o%a %T"], capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return any(line in (b"up idle", b"up mixed") for line in listed.stdout.splitlines())


needs_slurm = pytest.mark.skipif(not slurm_runs(), reason="SLURM is not running on this machine")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Function that puts a shell script into a folder, which is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(slurm.flags, "FLAGS", SimpleNamespace(**GIVEN))
    monkeypatch.setattr(slurm.SlurmJob, "watcher", slurm.SlurmJob.watcher)

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


def test_no_slurm_is_a_message(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    """Catches: a traceback of submitit's on a machine outside of the cluster."""
    programs("srun", "exit 0")
    with pytest.raises(InputError, match="--slurm_partition=debug: there is no sbatch on this"):
        slurm.make_slurm_executor(tmp_path)


def test_a_refusal_is_a_message(
    programs: Callable[[str, str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a traceback for a GPU on a node without any; the reason or the flags left out of
    the message, or the reason printed twice."""
    reason = "sbatch: error: Invalid generic resource (gres) specification"
    programs("sbatch", f"echo '{reason}' >&2; exit 1")
    for name in ("srun", "scancel", "sacct"):
        programs(name, "exit 0")
    executor = slurm.make_slurm_executor(tmp_path / "logs")
    with pytest.raises(InputError, match=r"Invalid generic resource .* --gpus=1 .*--gpus=0 suits"):
        executor.start(["true"], "base-0")
    assert capsys.readouterr().err == ""


def test_a_job_has_its_name_and_the_flags(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Catches: a flag that does not reach SLURM; jobs that squeue does not tell apart."""
    programs("sbatch", "echo Submitted batch job 77")
    for name in ("srun", "scancel", "sacct"):
        programs(name, "exit 0")
    executor = slurm.make_slurm_executor(tmp_path / "logs")
    assert executor.start(["true"], "base-0").job_id == "77"
    script = (tmp_path / "logs" / "77_submission.sh").read_text()
    lines = ("job-name=base-0", "partition=debug", "gpus-per-node=1", "cpus-per-task=2", "time=60")
    assert {f"#SBATCH --{line}" for line in lines} <= {*script.splitlines()}


@pytest.mark.parametrize("accounting", [True, False])
def test_a_cluster_without_accounting(
    programs: Callable[[str, str], None], tmp_path: Path, accounting: bool
) -> None:
    """Catches: sacct called again and again where it knows nothing, with a warning each time, and
    not called where it knows more than squeue."""
    for name in ("sbatch", "srun", "scancel"):
        programs(name, "exit 0")
    programs("sacct", "exit 0" if accounting else "echo accounting is disabled >&2; exit 1")
    slurm.make_slurm_executor(tmp_path / "logs")
    assert isinstance(slurm.SlurmJob.watcher, slurm.SqueueWatcher) == (not accounting)


def test_states_of_squeue(programs: Callable[[str, str], None]) -> None:
    """Catches: a job that has left the queue waited for without end; one that waits or runs taken
    for one that has ended; a ValueError for a line that lists no job."""
    programs(
        "squeue",
        r"printf '1|PENDING\n\n2|RUNNING\nslurm_load_jobs error\n3|FAILED\na|b|c\n77|RUNNING\n'",
    )
    watcher = slurm.SqueueWatcher()
    for job in "1234":
        watcher.register_job(job)
    watcher.update()
    assert {job: watcher.is_done(job, mode="cache") for job in "1234"} == {
        "1": False, "2": False, "3": True, "4": True,
    }  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file of a tiny model on a few images of noise."""
    write_idx_set(tmp_path / "data", train=40, test=10)
    return processes.write_config(tmp_path, tmp_path / "data")


@needs_slurm
def test_two_tasks_are_stopped_and_go_on(config: Path, tmp_path: Path) -> None:
    """Catches: tasks of srun that do not find each other; a scancel that does not save; a run that
    does not go on."""
    workdir, name = tmp_path / "run", f"alexnet-test-{os.getpid()}"

    def start(steps: int) -> subprocess.Popen[str]:
        words = ["srun", "-n2", "-c1", f"--job-name={name}", sys.executable, "-m"]
        words += ["alexnet_jax.main", f"--config={config}", f"--workdir={workdir}"]
        words += ["--distributed", "--config.parallel.data=2", f"--config.max_steps={steps}"]
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=processes.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    first = start(1_000_000)
    try:
        saved = workdir / "checkpoints"
        processes.wait_for(first, lambda: any(saved.glob("step_*/_CHECKPOINT_METADATA")))
    finally:
        subprocess.run(["scancel", f"--name={name}"], check=True)
    ended = processes.end(first)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    status = read_status(workdir)
    assert status is not None
    assert status.status == "interrupted"
    again = processes.end(start(status.step + 3))
    assert again.returncode == 0, again.stderr
    assert f"after step {status.step} of" in again.stderr
    assert "ten views" in again.stdout


@needs_slurm
def test_a_sweep_refused_and_canceled(config: Path, tmp_path: Path) -> None:
    """Catches: a traceback for a job that sbatch refuses; a job that was canceled from outside
    waited for without end; warnings of submitit on a cluster without accounting."""
    words = ["ablations", f"--config={config}", "--only=base", "--seeds=1"]
    words += ["--config.max_steps=1000000", f"--output={tmp_path / 'sweep'}"]
    words += ["--slurm_partition=no_such_partition"]
    refused = processes.run(*words, package="experiments")
    assert refused.returncode == 2
    assert refused.stderr.count("SLURM refuses a run") == 1
    assert "Traceback" not in refused.stderr
    partition = subprocess.run(["sinfo", "-ho%R"], capture_output=True, text=True, check=True)
    words[-1] = f"--slurm_partition={partition.stdout.split()[0]}"
    words += ["--gpus=0", "--cpus=1"]
    sweep = processes.start(*words, package="experiments")
    status = tmp_path / "sweep" / "runs" / "base-0" / "status.json"
    processes.wait_for(sweep, status.exists)
    for log in (tmp_path / "sweep" / "logs").glob("*_submitted.pkl"):
        subprocess.run(["scancel", log.name.split("_")[0]], check=True)
    ended = processes.end(sweep)
    assert ended.returncode == 1, ended.stderr
    assert "base-0: failed, see " in ended.stderr
    assert "Bypassing" not in ended.stderr
