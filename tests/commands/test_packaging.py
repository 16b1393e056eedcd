"""The package as pip installs it: ranges and exact versions, its files, and its optional extras."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import processes
from helpers.image_sets import data_config, write_idx_set
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import InputError
from alexnet_jax.extras import check_installed

PYPROJECT = tomllib.loads((processes.ROOT / "pyproject.toml").read_text())
EXACT = {
    "requirements.txt": ("", "data", "convert", "experiments"),
    "requirements-test.txt": ("test",),
}
# An extra's packages, and those of no extra whose presence must not be needed either.
OPTIONAL = ("tensorflow", "tensorflow_datasets", "onnx", "safetensors", "torch", "matplotlib")


def ranges(extra: str) -> dict[str, Requirement]:
    """Return the requirements of an extra, "" for those of the package, without other extras."""
    project = PYPROJECT["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = {canonicalize_name(r.name): r for r in map(Requirement, listed)}
    return {name: requirement for name, requirement in found.items() if name != "alexnet-jax"}


def pins(file: str) -> dict[str, Requirement]:
    """Return the lines of a file of exact versions."""
    lines = [line.partition("#")[0] for line in (processes.ROOT / file).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line.strip()]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("file", EXACT)
def test_exact_versions_lie_in_the_ranges(file: str) -> None:
    """Catches a package that is updated, added or removed in one of the two places only."""
    allowed = {name: r for extra in EXACT[file] for name, r in ranges(extra).items()}
    pinned = pins(file)
    assert pinned.keys() == allowed.keys()
    for name, requirement in pinned.items():
        (exact,) = requirement.specifier
        assert exact.operator == "=="
        assert allowed[name].specifier.contains(exact.version), f"{requirement}, {allowed[name]}"
        assert requirement.marker == allowed[name].marker


def test_every_extra_is_installed_for_the_tests() -> None:
    """Catches an extra that no test runs with."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    named = next(r for r in map(Requirement, extras["test"]) if r.name == "alexnet_jax")
    assert named.extras == extras.keys() - {"test"}


def test_the_citation_has_the_version_of_the_package() -> None:
    """Catches a release of which only one place knows."""
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (processes.ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} " in (processes.ROOT / "CHANGELOG.md").read_text()


def test_the_interpreter_is_one_of_those_supported() -> None:
    """Catches a range of Python versions without the one that the tests run with."""
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(
        ".".join(map(str, sys.version_info[:3]))
    )


def test_files_beside_the_modules_are_installed() -> None:
    """Catches a file that the program reads and that only a checkout has."""
    package = processes.ROOT / "alexnet_jax"
    installed: set[Path] = set()
    for module, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items():
        folder = processes.ROOT.joinpath(*module.split("."))
        assert (folder / "__init__.py").is_file()
        for pattern in patterns:
            found = {*folder.glob(pattern)}
            assert found, f"{module}: {pattern}"
            installed |= found
    there = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert there == installed
    for folder in {path.parent for path in package.rglob("*.py")}:
        assert (folder / "__init__.py").is_file()


def test_commands_work_without_the_extras(tmp_path: Path) -> None:
    """Catches an import that makes TensorFlow or another optional package a requirement of the
    sample, and a traceback of a missing one."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {OPTIONAL}:\n    sys.modules[name] = None\n"
    )
    path = f"{tmp_path}:{processes.ROOT}"
    write_idx_set(tmp_path / "data", train=60, test=20)
    config = processes.write_config(tmp_path, tmp_path / "data")
    workdir = tmp_path / "run"
    image = processes.ROOT / "docs" / "figures" / "sample_kernels.png"

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return processes.end(processes.start(module, *arguments, PYTHONPATH=path))

    commands: dict[str, list[object]] = {
        "prepare": [f"--config={config}"],
        "main": [f"--config={config}", f"--workdir={workdir}", "--config.max_steps=2"],
        "evaluate": [f"--workdir={workdir}"],
        "predict": [f"--workdir={workdir}", image],
        "describe": [
            f"--config={config}",
            "--config.parallel.columns=2",
            "--config.model.num_classes=5",
        ],
    }
    for module, arguments in commands.items():
        done = run(module, *arguments)
        assert done.returncode == 0, done.stderr
    names = "device,alexnet/bfloat16/128/torch_eager"
    rehearsal = ("benchmark", "--platform=cpu", f"--only={names}", "--repeats=1")
    done = processes.end(processes.start(*rehearsal, package="experiments", PYTHONPATH=path))
    assert done.returncode == 0, done.stderr
    device, peer = done.stdout.splitlines()
    assert "TFLOP/s" in device
    assert "torch_eager: not run: a case with PyTorch (--only names others) needs torch" in peer
    done = run("convert", f"--workdir={workdir}", f"--output={tmp_path / 'model.onnx'}")
    assert done.returncode == 2
    assert "needs onnx and safetensors, which are not installed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow_datasets"])
def test_missing_tensorflow_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Catches a traceback, or a typo in the name of the data answered with a package alone."""
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"name=smaple is neither sample, .* needs {missing}, which is .*-e '\.\[data\]'"
    with pytest.raises(InputError, match=message):
        open_source(data_config("smaple"))


def test_what_is_installed_is_not_missed() -> None:
    """Catches a check that refuses everything."""
    check_installed("data", "the test", "tensorflow", "tensorflow_datasets")
