"""Run commands in new processes, as a user does, with a small model and few images."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax
import pytest

from helpers import ROOT

TIMEOUT = 300  # seconds; a process that hangs fails its test

# The sample's recipe on a model of a few hundred parameters with every kind of layer. A run takes
# as long as it takes to start.
CONFIG = '''
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import alexnet


def get_config():
    """Return the config of a model of a few hundred parameters."""
    config = alexnet.get_config("sample")
    config.batch_size = 8
    config.max_steps = 60
    config.learning_rate = 0.01
    config.checkpoint_every = 10
    config.log_every = 4
    config.schedule.rule = "plateau"
    config.schedule.patience = 1
    config.data.name = "idx"
    config.data.dir = DIRECTORY
    config.model = SequentialConfig(
        channels=1,
        num_columns=2,
        init="scaled",
        ops=dict(
            conv1=Conv(4, kernel=3, stride=3, padding=(1, 1)),
            relu1=ReLU(),
            norm1=LRN(alpha=0.4),
            pool1=MaxPool(),
            conv2=Conv(4, kernel=2, padding=(1, 1)),
            relu2=ReLU(),
            fc6=Dense(8),
            relu6=ReLU(),
            drop6=Dropout(),
            fc8=Dense(0),
        ),
    )
    return config
'''


def write_config(directory: Path, data: Path) -> Path:
    """Write a config file for the images in `data` and return its path."""
    path = directory / "tiny.py"
    path.write_text(CONFIG.replace("DIRECTORY", repr(str(data))))
    return path


def compilation_cache() -> dict[str, str | int]:
    """Return JAX's settings that keep compiled programs beside the packs, for every process."""
    return dict(
        jax_compilation_cache_dir=os.path.join(os.environ["XDG_CACHE_HOME"], "jax"),
        jax_persistent_cache_min_compile_time_secs=0,
        jax_persistent_cache_min_entry_size_bytes=-1,
    )


@contextmanager
def compiled_quickly() -> Iterator[None]:
    """Compile without most optimizations, for programs that run few steps.

    This concerns the tests' own process and those that are started within the context.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def environment(devices: int = 1) -> dict[str, str]:
    """Return the environment of a process that sees so many devices."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **{name.upper(): str(value) for name, value in compilation_cache().items()},
    }


def start(
    module: str,
    *arguments: object,
    devices: int = 1,
    package: str = "alexnet_jax",
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> subprocess.Popen[str]:
    """Start `python -m PACKAGE.MODULE ARGUMENTS`, with variables added to its environment.

    Args:
        stdout: file of its stdout; by default a pipe.
        stderr: file descriptor for its stderr; by default a pipe.
    """
    command = [sys.executable, "-m", f"{package}.{module}", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(devices), **variables},
        text=True,
        stdout=stdout,
        stderr=stderr,
    )


def free_port() -> int:
    """Return a port of the loopback interface at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_several(
    module: str,
    count: int,
    *arguments: object,
    slurm: bool = False,
    each: Sequence[str] | None = None,
) -> list[subprocess.Popen[str]]:
    """Start the processes of one run, on the loopback interface, with a device each.

    Args:
        slurm: give them the variables that srun sets in place of the flags.
        each: one more argument for each.
    """
    port = free_port()
    if slurm:
        step: dict[str, Any] = dict(
            SLURM_JOB_ID="7", SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS=str(count)
        )
        step.update(JAX_COORDINATOR_PORT=str(port))
        return [
            start(module, *arguments, "--distributed", **step, SLURM_PROCID=i, SLURM_LOCALID=i)
            for i in map(str, range(count))
        ]
    shared = (f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}")
    own = [[f"--process_id={i}", *(each[i : i + 1] if each else ())] for i in range(count)]
    return [start(module, *arguments, *shared, *flags) for flags in own]


def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process and return what it printed and its exit status."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args!r} hangs:\n{out}{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(
    module: str, *arguments: object, devices: int = 1, package: str = "alexnet_jax"
) -> subprocess.CompletedProcess[str]:
    """Run `python -m PACKAGE.MODULE ARGUMENTS` to its end."""
    return end(start(module, *arguments, devices=devices, package=package))


def message(ended: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """Return the one message that a refused command printed on stderr."""
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\nalexnet_jax.") + ended.stderr.startswith("alexnet_jax.") == 1
    return ended.stderr


def wait_for(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Wait until `moment` returns True; raise AssertionError where the process ends first."""
    limit = time.monotonic() + TIMEOUT
    while not moment():
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            raise AssertionError(f"the moment never came:\n{end(process).stderr}")
        time.sleep(0.001)


def signal_when(
    process: subprocess.Popen[str], moment: Callable[[], bool], number: signal.Signals
) -> subprocess.CompletedProcess[str]:
    """Send a signal as soon as `moment` returns True, and wait for the end."""
    wait_for(process, moment)
    process.send_signal(number)
    return end(process)


def records(workdir: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl without what depends on the machine's speed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    loaded = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in loaded]
