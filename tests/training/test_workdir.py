"""The folder of a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

from alexnet_jax.config import Config, config_to_json, config_to_text, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.fields import differences
from alexnet_jax.models.ops import Tanh
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.training_run import TrainingRun
from alexnet_jax.workdir import (
    FORMAT_VERSION,
    check_config,
    lock_workdir,
    read_config,
    read_recorded,
    write_config,
)
from configs.alexnet import get_config


@pytest.fixture
def config() -> Config:
    """A config with its number of classes, as training records it."""
    return with_changes(get_config("sample"), {"model.num_classes": 10})


def test_what_is_recorded_is_the_config(tmp_path: Path, config: Config) -> None:
    """Catches: fields left out; tuples or ops that differ on the way back; a config that can be
    changed; the version or the changes taken for fields of the config."""
    assert write_config(tmp_path, config, 0) == []
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded.pop("changes") == []
    assert recorded.pop("init_step") is None
    assert recorded.pop("source_digest") is None
    assert recorded.pop("format_version") == FORMAT_VERSION
    assert recorded == json.loads(config_to_text(config))
    found = read_config(tmp_path)
    assert found == config
    with pytest.raises(AttributeError, match="sealed"):
        found.seed = 1
    assert write_config(tmp_path, config, 7) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parallel.columns", 2),
        ("parallel.data", 2),
        ("max_steps", 70),
        ("epochs", 91),
        ("stop_error", 0.25),
        ("checkpoint_every", 5),
        ("data.dir", "/elsewhere"),
        ("data.resident", "off"),
    ],
)
def test_allowed_changes_are_reported_and_recorded(
    tmp_path: Path, config: Config, field: str, value: object
) -> None:
    """Catches: a field missing from MAY_CHANGE; changes before the last one forgotten."""
    write_config(tmp_path, config, 0)
    changed = with_changes(config, {field: value})
    old, new = config_to_json(config), config_to_json(changed)
    ((_, before, _),) = differences(old, new)
    assert write_config(tmp_path, changed, 30) == [f"{field} was {before!r}, is now {value!r}"]
    assert write_config(tmp_path, config, 40) == [f"{field} was {value!r}, is now {before!r}"]
    assert json.loads((tmp_path / "config.json").read_text())["changes"] == [
        {"step": 30, "field": field, "from": before, "to": value},
        {"step": 40, "field": field, "from": value, "to": before},
    ]


def test_paths_do_not_depend_on_how_they_are_written(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a run that another current folder, or a slash at the end, keeps from continuing."""
    monkeypatch.chdir(tmp_path)
    names = ("init_from", "data.dir", "data.pack_dir")
    for given, same in (
        ("base", str(tmp_path / "base")),
        ("base", "other/../base/"),
        ("~/base", "~/base/"),
    ):
        write_config(tmp_path, with_changes(config, dict.fromkeys(names, given)), 0)
        assert check_config(tmp_path, with_changes(config, dict.fromkeys(names, same))) == []
        assert read_config(tmp_path).init_from in (str(tmp_path / "base"), "~/base")
        (tmp_path / "config.json").unlink()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("batch_size", 64),
        ("compute_dtype", "bfloat16"),
        ("data.name", "idx"),
        ("data.mean", "none"),
        ("model.num_classes", 9),
        ("model.ops.drop6.rate", 0.1),
        ("model.ops.conv1.features", 2),
        ("model.ops.relu1", Tanh()),
        ("optimizer.momentum", 0.5),
        ("schedule.multipliers", (("fc8/.*", 1.0, 10.0),)),
        ("schedule.drop_epochs", (1, 2)),
        ("evaluate_every", 3),
    ],
)
def test_other_changes_are_refused(
    tmp_path: Path, config: Config, field: str, value: object
) -> None:
    """Catches: a field too many in MAY_CHANGE, or matched by the beginning of its name; the
    message without field, old or new value; a refusal that overwrites the record."""
    write_config(tmp_path, config, 0)
    content = (tmp_path / "config.json").read_bytes()
    changed = with_changes(config, {field: value})
    ((name, before, now),) = differences(config_to_json(config), config_to_json(changed))
    with pytest.raises(InputError) as caught:
        write_config(tmp_path, changed, 30)
    assert name.startswith(field)
    assert f"config: {name} was {before!r}, is {now!r}." in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == content


def test_an_op_more_or_less_is_a_difference(tmp_path: Path, config: Config) -> None:
    """Catches: comparing only the ops that both models have."""
    write_config(tmp_path, config, 0)
    more = with_changes(config, {"model.ops": with_ops(config, {"tanh8": Tanh()})})
    with pytest.raises(InputError, match=r"model\.ops\.tanh8 was None, is {'type': 'Tanh'}"):
        check_config(tmp_path, more)
    (tmp_path / "other").mkdir()
    write_config(tmp_path / "other", more, 0)
    with pytest.raises(InputError, match=r"model\.ops\.tanh8 was {'type': 'Tanh'}, is None"):
        check_config(tmp_path / "other", config)


def with_ops(config: Config, added: dict[str, Any]) -> dict[str, Any]:
    """Return the ops of a config with others before the classifier."""
    assert isinstance(config.model, SequentialConfig)
    *before, (name, classifier) = config.model.ops.items()
    return {**dict(before), **added, name: classifier}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "extra"), 1, r"config\.json cannot be used: .*no field model\.extra"),
        (("seed",), None, r"config\.json cannot be used: seed is None; expected a whole number"),
        (("seed",), ..., r"config\.json cannot be used: the config lacks the fields seed"),
        (("model", "ops", "conv1", "type"), "Conf", r"cannot be used: model\.ops\.conv1 has type"),
        (("batch_size",), 0, r"cannot be used: batch_size=0; expected at least 1"),
    ],
)
def test_a_config_of_other_fields(
    tmp_path: Path, config: Config, path: tuple[str, ...], value: object, message: str
) -> None:
    """Catches: a config that is read without a look at its fields, as after an edit by hand; a
    message that does not name the file."""
    write_config(tmp_path, config, 0)
    recorded = read_recorded(tmp_path)
    part = recorded
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    if value is ...:
        del part[path[-1]]
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(InputError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("version", [None, 1, FORMAT_VERSION + 1])
@pytest.mark.parametrize("use", [read_config, read_recorded, "check", "write"])
def test_another_format_is_refused(
    tmp_path: Path, config: Config, version: int | None, use: Any
) -> None:
    """Catches: a version that is not looked at, so that every field is called different or
    unknown; a version written into a run that another program made."""
    write_config(tmp_path, config, 0)
    path = tmp_path / "config.json"
    recorded = {**json.loads(path.read_text()), "format_version": version}
    if version is None:
        del recorded["format_version"]
    path.write_text(json.dumps(recorded))
    before = path.read_bytes()
    uses = {
        "check": lambda folder: check_config(folder, config),
        "write": lambda folder: write_config(folder, config, 3),
    }
    with pytest.raises(InputError, match=rf"other version .*format {version or 1}; this one reads"):
        uses.get(use, use)(tmp_path)
    assert path.read_bytes() == before


def test_classes_left_to_the_data_are_no_difference(tmp_path: Path, config: Config) -> None:
    """Catches: refusing, before the data are read, the same command as the first time."""
    write_config(tmp_path, config, 0)
    assert check_config(tmp_path, with_changes(config, {"model.num_classes": 0})) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"seed": 0}'])
def test_a_config_that_is_none(tmp_path: Path, config: Config, content: str) -> None:
    """Catches: a traceback for a damaged file, or for another program's config.json."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="is not the config of a run"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="is not the config of a run"):
        write_config(tmp_path, config, 0)


def test_no_run_there(tmp_path: Path) -> None:
    """Catches: a FileNotFoundError; a message that does not say what was expected."""
    with pytest.raises(InputError, match=r"no config\.json; expected the folder of a run"):
        read_config(tmp_path / "nothing")


def test_one_lock_at_a_time(tmp_path: Path) -> None:
    """Catches: no lock; a lock that outlives its run, also one that failed; its file, or an empty
    folder, left behind."""
    folder = tmp_path / "a" / "b"
    with (
        lock_workdir(folder),
        pytest.raises(InputError, match="another process is training"),
        lock_workdir(folder),
    ):
        pass
    assert not folder.exists()
    with pytest.raises(RuntimeError), lock_workdir(folder):
        raise RuntimeError
    with lock_workdir(folder):
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("gone", ["run", "run/config.json"])
def test_a_folder_removed_during_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Catches: a run that goes on and saves into a new folder without config.json; the message
    hidden by an error at the end of the lock."""

    def record(self: TrainingRun, images_per_second: float) -> None:
        path = tmp_path / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    monkeypatch.setattr(TrainingRun, "record", record)
    with pytest.raises(InputError, match=r"config\.json is gone: it or its folder was removed"):
        train_here(tiny_config(images), tmp_path / "run")
    assert (tmp_path / "run").exists() == (gone != "run")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Catches: an OSError let through."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot write to --workdir="), lock_workdir(folder):
            pass
