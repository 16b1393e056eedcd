"""Wrong versions of packages and missing platforms: one line that names what there is."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set
from helpers.in_process import run_config_here, train_here
from helpers.tiny_model import tiny_config
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from alexnet_jax import environment

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = ("main", "evaluate", "predict", "convert", "describe", "prepare")


def specifiers(bounds: tuple[str, str]) -> SpecifierSet:
    """Return bounds of `environment` as a specifier."""
    low, high = bounds
    return SpecifierSet(f">={low},<{high}" if high else f">={low}")


def test_the_versions_are_those_of_pyproject() -> None:
    """Catches: a range that is changed in one of the two places only."""
    needed = {r.name: r.specifier for r in map(Requirement, PYPROJECT["dependencies"])}
    assert {n: specifiers(bounds) for n, bounds in environment.PACKAGES.items()} == needed
    assert specifiers(environment.PYTHON) == SpecifierSet(PYPROJECT["requires-python"])


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ("0.10.2", True),
        ("0.10.10", True),
        ("0.12.99", True),
        ("0.11.0.dev20260101+abc", True),
        ("0.10.1", False),
        ("0.9.9", False),
        ("0.4.30", False),
        ("0.13", False),
        ("0.13.0", False),
        ("1.0", False),
        ("", False),
    ],
)
def test_versions_are_compared_as_numbers(found: str, fits: bool) -> None:
    """Catches: 0.9 taken for more than 0.10; a bound that is off by one; a missing package."""
    message = "" if fits else f"jax>=0.10.2,<0.13 ({found or 'none'} is installed)"
    assert environment._problem("jax", found, ("0.10.2", "0.13")) == message


@pytest.fixture
def old_jax(tmp_path: Path) -> Path:
    """A folder with JAX 0.4.30, without what came after it."""
    (tmp_path / "jax-0.4.30.dist-info").mkdir()
    (tmp_path / "jax-0.4.30.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: jax\nVersion: 0.4.30\n"
    )
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text('__version__ = "0.4.30"\n')
    return tmp_path


def start(old_jax: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that JAX."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{old_jax}:{ROOT}"},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "module", [*(f"alexnet_jax.{name}" for name in COMMANDS), "experiments.layouts"]
)
def test_an_old_jax_is_named_by_every_command(old_jax: Path, module: str) -> None:
    """Catches: the traceback of a missing attribute; a message without what is installed, or
    without what is needed; another exit status than that of wrong use."""
    ended = start(old_jax, "-m", module, "--help")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "alexnet_jax needs jax>=0.10.2,<0.13 (0.4.30 is installed); run pip install -e . in the "
        "checkout of alexnet_jax\n"
    )


def test_an_old_jax_is_an_import_error_for_other_programs(old_jax: Path) -> None:
    """Catches: a library that ends the program which imports it."""
    program = "try:\n    import alexnet_jax\nexcept ImportError as error:\n    print(error)"
    ended = start(old_jax, "-c", program)
    assert ended.returncode == 0, ended.stderr
    assert "0.4.30 is installed" in ended.stdout


@pytest.mark.parametrize(
    ("module", "platform"), [("main", "nonsense"), ("main", "cuda"), ("evaluate", "nonsense")]
)
def test_a_missing_platform(tmp_path: Path, module: str, platform: str) -> None:
    """Catches: a traceback of JAX's; a message without the platforms that there are."""
    write_idx_set(tmp_path, train=60, test=20)
    arguments = [f"--config={processes.write_config(tmp_path, tmp_path)}"]
    if module == "evaluate":
        arguments = []
        assert train_here(tiny_config(tmp_path), tmp_path / "run") == 0
    command = (module, *arguments, f"--workdir={tmp_path / 'run'}")
    ended = processes.end(processes.start(*command, JAX_PLATFORMS=platform))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert f"alexnet_jax.{module}: JAX_PLATFORMS={platform}: JAX cannot use" in ended.stderr
    assert "available: cpu" in ended.stderr


@pytest.mark.parametrize("error", [RuntimeError("a bug"), AssertionError("a bug")])
def test_other_errors_are_defects(error: Exception) -> None:
    """Catches: a defect of the program that is taken for a missing platform."""
    assert jax.devices()

    def fail() -> None:
        raise error

    with pytest.raises(type(error), match="a bug"):
        run_config_here(fail, "--config=configs/alexnet.py:sample")
