"""Train and run commands in the tests' own process, which takes no time to start."""

import contextlib
import io
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import flags

from alexnet_jax import cache, command, finetune, run_config, train
from alexnet_jax.config import Config, with_changes
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import check_config, lock_workdir, read_source_digest


def train_here(config: Config, workdir: Path) -> int:
    """Train a copy of the config, which need not be validated, and return the exit status.

    The calls are those of alexnet_jax.main.
    """
    config = with_changes(config, {})
    run_config.check_devices_and_patterns(config)
    with lock_workdir(workdir):
        check_config(workdir, config)
        finetune.check_init_from(config, workdir)
        digest = read_source_digest(workdir)
        pack = prepare(config.data, progress=False, source_digest=digest)
        return train.train({workdir: run_config.complete_config(config, pack)}, pack)


def run_here(
    module: str, *arguments: object, package: str = "alexnet_jax"
) -> subprocess.CompletedProcess[str]:
    """Run `python -m PACKAGE.MODULE ARGUMENTS`, as `processes.run` does in a new process."""

    def run() -> None:
        runpy.run_module(f"{package}.{module}", run_name="__main__", alter_sys=True)

    return _run([module, *map(str, arguments)], run)


def run_config_here(main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the flag --config, whose `main` may use `command.validated_config`."""

    def run() -> None:
        command.define_config()
        command.run(lambda _: main())

    return _run(["tests", *arguments], run)


def _run(argv: list[str], run: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    """Run a command with its own arguments and flags; return what it printed and its status."""
    out, err = io.StringIO(), io.StringIO()
    status: str | int | None = None
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        own_flags(),
        warnings.catch_warnings(),
    ):
        # What a new process does not show, or has no reason to.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", ".* found in sys.modules after import of package")
        patch.setattr(sys, "argv", argv)
        patch.setattr(cache, "keep_compiled", lambda: None)  # the tests have their own cache
        try:
            run()
        except SystemExit as end:
            status = end.code
    assert status is None or isinstance(status, int)
    return subprocess.CompletedProcess(argv, status or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def own_flags() -> Iterator[None]:
    """Remove the flags that are defined within the context."""
    before = {*flags.FLAGS}
    try:
        yield
    finally:
        for name in {*flags.FLAGS} - before:
            delattr(flags.FLAGS, name)
