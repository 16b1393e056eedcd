"""What a start costs: what commands import, and compiled programs that are kept."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set

from alexnet_jax import cache, command

HEAVY = ("tensorflow", "tensorflow_datasets", "keras", "torch")

# Compiles one program with the cache on, as commands do, and says whether JAX kept it on.
PROGRAM = """
import sys
from alexnet_jax import cache, command
cache.keep_compiled()
import jax, jax.numpy as jnp
with cache.replace_damaged():
    print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((2, 3))).tolist())
"""


def python(program: str, **variables: str) -> subprocess.Popen[str]:
    """A program running beside the package, with no cache but what the variables name."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", program],
        cwd=ROOT,
        env={**inherited, "JAX_PLATFORMS": "cpu", **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same to its end, which has to be a good one."""
    done = processes.end(python(program, **variables))
    assert done.returncode == 0, done.stderr
    return done


def entries(base: Path) -> list[str]:
    """Names of the compiled programs kept below XDG_CACHE_HOME=base."""
    return sorted(path.name for path in (base / "alexnet_jax/compiled").glob("*-cache"))


def commands() -> list[str]:
    """Every module that is a command."""
    files = [p for d in ("alexnet_jax", "experiments") for p in (ROOT / d).rglob("*.py")]
    found = [p for p in files if "    command.run(main)\n" in p.read_text()]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found)


def test_no_command_loads_tensorflow_to_begin_with() -> None:
    """Catches an import at the top of a command, or of what it imports, that makes --help and
    every mistake in a flag wait for TensorFlow, its data sets or PyTorch."""
    names = commands()
    assert {"alexnet_jax.main", "alexnet_jax.convert", "experiments.figures.__main__"} <= {*names}
    ended(
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {{*{HEAVY}}} & {{*sys.modules}}\n"
        "    assert not heavy, (name, heavy)\n"
    )


@pytest.mark.parametrize(("own", "seen"), [(None, "2 0"), ("1", "1 0")])
def test_tensorflow_is_quiet_in_commands_alone(
    monkeypatch: pytest.MonkeyPatch, own: str | None, seen: str
) -> None:
    """Catches: environment variables set by an import, set after TensorFlow is imported, or set
    over the user's own."""
    for name in command.QUIET_TENSORFLOW:
        monkeypatch.delenv(name, raising=False)
    done = ended(
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "from alexnet_jax import command\n"
        "assert os.environ == before\n"
        "sys.argv[1:] = []\n"
        "names = ('TF_CPP_MIN_LOG_LEVEL', 'TF_ENABLE_ONEDNN_OPTS')\n"
        "command.run(lambda _: print(*(os.environ[name] for name in names)))\n",
        **({} if own is None else {"TF_CPP_MIN_LOG_LEVEL": own}),
    )
    assert done.stdout == f"{seen}\n"


def test_training_on_small_images_loads_no_tensorflow(tmp_path: Path) -> None:
    """Catches TensorFlow loaded for raw pixels, PyTorch for TensorBoard, and, of two runs, the
    second compiling what the first did, or coming to other numbers."""
    write_idx_set(tmp_path / "data", train=60, test=20)
    config = processes.write_config(tmp_path, tmp_path / "data")
    seen = []
    for run in ("cold", "warm"):
        ended(
            "import runpy, sys\n"
            f"sys.argv[1:] = ['--config={config}', '--workdir={tmp_path / run}',"
            " '--config.max_steps=3']\n"
            "try:\n"
            "    runpy.run_module('alexnet_jax.main', run_name='__main__')\n"
            "except SystemExit as end:\n"
            "    assert not end.code, end.code\n"
            f"assert not {{*{HEAVY}}} & {{*sys.modules}}\n",
            XDG_CACHE_HOME=str(tmp_path),
        )
        kept = (tmp_path / "alexnet_jax/compiled").glob("jit_train_step-*")
        seen.append({p.name[-6:]: p.read_bytes() for p in kept})
    cold, warm = seen
    assert cold["-cache"] == warm["-cache"]
    last_read = [int.from_bytes(one["-atime"], "little") for one in seen]
    assert last_read[0] < last_read[1]
    assert processes.records(tmp_path / "cold") == processes.records(tmp_path / "warm")


def test_processes_share_what_is_compiled(tmp_path: Path) -> None:
    """Catches a cache that is not written, or an entry read while another process writes it."""
    several = [python(PROGRAM, XDG_CACHE_HOME=str(tmp_path)) for _ in range(3)]
    done = [processes.end(process) for process in several]
    assert {one.stderr for one in done} == {""}
    assert len({one.stdout for one in done}) == 1
    assert any(name.startswith("jit__lambda-") for name in entries(tmp_path))


def test_a_damaged_folder_is_reported_once_and_emptied(tmp_path: Path) -> None:
    """Catches a crash, a warning for every program, and damage that stays for ever."""
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    good = ended(PROGRAM, **variables)
    kept = entries(tmp_path)
    for name in kept:
        path = tmp_path / "alexnet_jax/compiled" / name
        path.write_bytes(path.read_bytes()[:-9])
    damaged = ended(PROGRAM, **variables)
    assert damaged.stdout == good.stdout
    assert_reported_once(damaged.stderr, tmp_path)
    assert entries(tmp_path) == []
    assert ended(PROGRAM, **variables).stderr == ""
    assert entries(tmp_path) == kept


def assert_reported_once(stderr: str, base: Path) -> None:
    folder = re.escape(str(base / "alexnet_jax/compiled"))
    message = rf"The compiled programs in {folder} cannot be used \(.+\); compiling anew\.\n"
    assert re.fullmatch(message, stderr), stderr


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Catches a crash where the cache's place is taken by a file."""
    (tmp_path / "alexnet_jax").mkdir()
    (tmp_path / "alexnet_jax/compiled").touch()
    done = ended(PROGRAM, XDG_CACHE_HOME=str(tmp_path))
    assert_reported_once(done.stderr, tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    """Catches a crash, or half an entry left behind, where an entry cannot be written whole."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    done = ended(limit + PROGRAM, XDG_CACHE_HOME=str(tmp_path))
    assert_reported_once(done.stderr, tmp_path)
    assert entries(tmp_path) == []


def test_other_warnings_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: warnings swallowed or shown by this package when they are not of its cache, a
    second line for a second program, and a handler that stays after the context."""
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_, **__: shown.append(str(text)))
    replaced: list[str] = []
    monkeypatch.setattr(cache, "_replace", replaced.append)
    before = warnings.showwarning
    failed = "Error reading persistent compilation cache entry for 'jit_f': EOFError: cut off"
    for used, expected in ((False, [failed] * 2), (True, [])):
        monkeypatch.setattr(cache, "_is_used", lambda used=used: used)
        shown.clear()
        with cache.replace_damaged():
            warnings.simplefilter("always")
            for text in (failed, "something else", failed):
                warnings.warn(text, stacklevel=1)
        assert sorted(shown) == sorted([*expected, "something else"])
        assert warnings.showwarning is before
    assert replaced == ["EOFError: cut off"]


@pytest.mark.parametrize(
    ("name", "value", "files"),
    [("JAX_ENABLE_COMPILATION_CACHE", "false", False), ("JAX_COMPILATION_CACHE_DIR", "own", True)],
)
def test_the_users_own_settings_hold(tmp_path: Path, name: str, value: str, files: bool) -> None:
    """Catches a switch that does not switch off, and a folder of the user's that is not used."""
    value = str(tmp_path / value) if files else value
    variables = {name: value, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = ended(PROGRAM, XDG_CACHE_HOME=str(tmp_path), **variables)
    assert done.stderr == ""
    assert not (tmp_path / "alexnet_jax").exists()
    assert any((tmp_path / "own").glob("*-cache")) == files
