"""Set up all tests: four simulated CPU devices, no GPU, one cache, the same random examples.

JAX refuses to broadcast arrays of different ranks, here and in the processes that tests start: an
axis that is missing by mistake would be added without a word.
"""

import os
import signal
from collections.abc import Iterator

# Before JAX starts: the layouts 1×1 … 2×2 on one CPU.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
# PyTorch's threads busy-wait for each other, for long where other programs use the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import jax
import pytest
from helpers import processes
from hypothesis import settings

# A shell's job in the background ignores Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup SIGHUP is ignored, and what tests start would ignore it, too; they inherit no handler.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

settings.register_profile("same every time", derandomize=True)
settings.load_profile("same every time")


@pytest.fixture(scope="session", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep packs and compiled programs of all tests, and of what they start, in one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name, value in processes.compilation_cache().items():
            jax.config.update(name, value)
        yield


@pytest.fixture
def quick_to_compile() -> Iterator[None]:
    """Compile without most optimizations; see `processes.compiled_quickly`."""
    with processes.compiled_quickly():
        yield


@pytest.fixture(scope="module")
def double_precision() -> Iterator[None]:
    """Let PyTorch compute in float64 in a module of tests."""
    import torch  # here, since it takes seconds and few tests need it

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what came of random damage, kills and input."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "campaign":
                terminalreporter.write_line(f"{report.nodeid}: {value}")
