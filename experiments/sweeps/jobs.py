"""Start programs on this machine, and stop them so that they save."""

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Protocol

from alexnet_jax.errors import InputError
from alexnet_jax.files import MAKE_ROOM, write_errors_as_input_errors
from alexnet_jax.preemption import stop_signals


class Job(Protocol):
    """A started program, with the interface of `submitit.Job`.

    Attributes:
        paths: has `stderr`, the file of the program's messages.
    """

    @property
    def paths(self) -> Any: ...  # noqa: D102
    def done(self) -> bool: ...  # noqa: D102
    def exception(self) -> Exception | None: ...  # noqa: D102
    def cancel(self) -> None: ...  # noqa: D102
    def wait(self) -> None: ...  # noqa: D102


class Executor(Protocol):
    """Starts programs, on this machine or under SLURM."""

    def start(self, words: Sequence[str], name: str) -> Job:
        """Start a program; use `name` for its log or its SLURM job."""


class LocalJob:
    """A program on this machine.

    It is in a session of its own, so that a Ctrl-C in the terminal reaches this process alone,
    which stops the program with one signal. A second signal would keep it from saving.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: IO[bytes] | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        """Start the program.

        Args:
            words: its command line.
            log: file of its output and messages; None to discard the output and print the messages.
            env: its environment.
        """
        self.paths = SimpleNamespace(stderr=log and Path(log.name))
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.DEVNULL,
            stderr=log,
            env=env,
            start_new_session=True,
        )

    def done(self) -> bool:
        """Return whether the program has ended."""
        return self._process.poll() is not None

    def exception(self) -> Exception | None:
        """Wait for the end; return an exception if the exit status is not 0."""
        self.wait()
        status = self._process.returncode
        return subprocess.CalledProcessError(status, self._process.args) if status else None

    def cancel(self) -> None:
        """Send SIGTERM: `alexnet_jax.main` saves and stops, and stops at once at a second one."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait for the end."""
        self._process.wait()


class LocalExecutor:
    """Starts programs on this machine, without a limit of their time."""

    def __init__(self, folder: Path) -> None:
        """Initialize with the folder of the logs."""
        self.folder = folder

    def start(self, words: Sequence[str], name: str) -> LocalJob:
        """Start a program; append its command line, output and messages to NAME.log.

        Raises:
            InputError: the log cannot be written, or the program cannot be started.
        """
        path = self.folder / f"{name}.log"
        with ExitStack() as stack:
            with write_errors_as_input_errors(path, MAKE_ROOM):
                self.folder.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(path.open("ab", buffering=0))
                log.write(f"{shlex.join(words)}\n".encode())
            try:
                return LocalJob(words, log)
            except OSError as error:
                raise InputError(
                    f"run {name} cannot be started: {error.strerror} ({words[0]}); free memory or "
                    "end other processes, and run the same command again"
                ) from error


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Delay signals that stop to the end of the context.

    So a program that is started in it is recorded before it may have to be stopped.
    """
    received: list[int] = []
    previous = {
        n: signal.signal(n, lambda number, _: received.append(number)) for n in stop_signals()
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def run_program(words: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Run a program to its end and return its exit status; its output is discarded.

    On an exception, such as that of Ctrl-C, let the program save and stop first.
    """
    started: list[LocalJob] = []
    try:
        with delay_interrupts():
            started.append(LocalJob(words, env=env))
        error = started[0].exception()
    except BaseException:
        stop(started)
        raise
    return error.returncode if isinstance(error, subprocess.CalledProcessError) else 0


def stop(jobs: Sequence[Job]) -> None:
    """Interrupt jobs, which save, and wait for their end.

    A second such signal, except SIGHUP, interrupts them again: they stop without saving.
    """
    try:
        _interrupt(jobs)
    except KeyboardInterrupt:
        _interrupt(jobs)
        raise


def _interrupt(jobs: Sequence[Job]) -> None:
    """Interrupt jobs and wait for their end."""
    for job in jobs:
        job.cancel()
    for job in jobs:
        job.wait()
