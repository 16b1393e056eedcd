"""Damaged or unreadable files of a run, and config files that cannot be run: one message."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.in_process import run_config_here, run_here

from alexnet_jax import command
from alexnet_jax.config import Config, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.status import read_status, write_status
from alexnet_jax.workdir import check_config, read_config, saved_steps, write_config
from configs.alexnet import get_config


@pytest.fixture
def config() -> Config:
    """A config with its number of classes, as training records it."""
    return with_changes(get_config("sample"), {"model.num_classes": 10})


DEEP = 100_000 * "[" + 100_000 * "]"
LESS_DEEP = 900 * "[" + 900 * "]"


# The part of config.json that is damaged, () for all of it, and the JSON text in its place.
DAMAGE: list[tuple[str, str]] = [
    *(("", text) for text in ("", "{", DEEP, LESS_DEEP, "\udcff", "NaN", "7" * 5000)),
    *(("model", text) for text in ("null", "[]", "3", LESS_DEEP)),
    *(("model.ops", text) for text in ("null", "[]", LESS_DEEP, '{"fc8": 1}')),
    *(("data", text) for text in ("null", "{}", LESS_DEEP)),
    *(("data.std", text) for text in ("null", "1", "[null]", LESS_DEEP, "7" * 5000, "[NaN]")),
    *(("changes", text) for text in ("null", "{}", "[1]", "[{}]", LESS_DEEP)),
    *(("init_step", text) for text in ('"1"', "[]", "1.5")),
    *(("source_digest", text) for text in ("1", "[]")),
    *(("format_version", text) for text in ('"2"', "[]", LESS_DEEP)),
    ("no_such_field", "1"),
]


@pytest.mark.parametrize(("part", "text"), DAMAGE, ids=lambda value: value[:20])
def test_damaged_config(tmp_path: Path, config: Config, part: str, text: str) -> None:
    """Catches: a traceback for content that no run has written; a message without the file."""
    write_config(tmp_path, config, 0)
    path = tmp_path / "config.json"
    if part:
        content = json.loads(path.read_text())
        *parents, name = part.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[name] = "VALUE"
        text = json.dumps(content).replace('"VALUE"', text)
    path.write_text(text, errors="surrogateescape")
    uses: list[Callable[[], object]] = [
        lambda: read_config(tmp_path),
        lambda: check_config(tmp_path, config),
        lambda: write_config(tmp_path, config, 3),
    ]
    before = path.read_bytes()
    for use in uses:
        with pytest.raises(InputError) as caught:
            use()
        assert str(tmp_path) in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert path.read_bytes() == before


def test_folders_in_place_of_files(tmp_path: Path, config: Config) -> None:
    """Catches: an IsADirectoryError let through; a message that does not name the file."""
    for name in ("config.json", "status.json"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"cannot read .*config\.json: Is a directory"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*config\.json: Is a directory"):
        check_config(tmp_path, config)
    with pytest.raises(InputError, match=r"cannot read .*status\.json: Is a directory"):
        read_status(tmp_path)
    with pytest.raises(InputError, match=r"cannot write .*status\.json: Is a directory"):
        write_status(tmp_path, "running")


def test_files_that_may_not_be_read(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: missing rights taken for a missing file, so that a run starts anew."""
    write_config(tmp_path, config, 0)
    (tmp_path / "checkpoints" / "step_3").mkdir(parents=True)
    assert saved_steps(tmp_path) == [3]

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for use in (read_config, lambda folder: check_config(folder, config)):
        with pytest.raises(InputError, match=r"cannot read .*config\.json: Permission denied"):
            use(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*status\.json: Permission denied"):
        read_status(tmp_path)
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(InputError, match=r"cannot read the folder .*checkpoints: Permission"):
        saved_steps(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", DEEP, "{}", "7",
     '{"status": "running", "step": "3", "message": "", "time": ""}',
     '{"status": [], "step": 3, "message": "", "time": ""}',
     '{"status": "running", "step": 3, "message": null, "time": ""}'],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_damaged_status(tmp_path: Path, content: str) -> None:
    """Catches: a traceback; fields of other types, which a program that reads them stumbles on."""
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(InputError, match=r"status\.json .*; delete it"):
        read_status(tmp_path)


@pytest.mark.parametrize("module", ["evaluate", "predict", "convert"])
def test_commands_name_the_damaged_file(tmp_path: Path, config: Config, module: str) -> None:
    """Catches: a command that reads a workdir in another way."""
    write_config(tmp_path, config, 0)
    (tmp_path / "config.json").write_text("{")
    more = {"predict": ["image.png"], "convert": [f"--output={tmp_path}/model.onnx"]}
    ended = run_here(module, f"--workdir={tmp_path}", *more.get(module, []))
    assert ended.returncode == 2
    assert f"{tmp_path}/config.json is not the config of a run" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:\n", "config.py, line 1: invalid syntax"),
        ("\nif True:\nx = 1\n", "config.py, line 3: expected an indented block"),
        ("\nimport no_such_module\n", "config.py, line 2: No module named 'no_such_module'"),
        (
            "def get_config():\n    from alexnet_jax.config import Missing\n",
            "config.py, line 2: cannot import name 'Missing'",
        ),
        ("x = '\udcff'\n", "config.py, line 1: "),
        ("x = 1\0\n", "source code string cannot contain null bytes"),
    ],
    ids=["syntax", "indentation", "module", "name", "encoding", "null"],
)
@pytest.mark.parametrize("override", [(), ("--config.seed=1",)])
def test_config_file_that_cannot_be_run(
    tmp_path: Path, text: str, expected: str, override: tuple[str, ...]
) -> None:
    """Catches: a traceback through the libraries in place of file and line."""
    path = tmp_path / "config.py"
    path.write_text(text, errors="surrogateescape")
    ended = run_config_here(lambda: None, f"--config={path}", *override)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_config_file_without_get_config(tmp_path: Path) -> None:
    """Catches: a KeyError for a file that is no config."""
    (tmp_path / "config.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"config\.py defines no get_config"):
        command.load_config(str(tmp_path / "config.py"))
