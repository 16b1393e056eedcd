"""The folder of a run."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from alexnet_jax.errors import InputError
from alexnet_jax.workdir import check_config, claim, read_config, write_config
from configs.alexnet import get_config


@pytest.fixture
def config() -> ConfigDict:
    """Complete, as training records it."""
    config = get_config("sample")
    config.model.classes = 10
    return config


def test_what_is_recorded_is_the_config(tmp_path: Path, config: ConfigDict) -> None:
    """Catches: fields left out; tuples or ConfigDicts in the JSON that differ on the way back."""
    assert write_config(tmp_path, config, 0) == []
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded.pop("changes") == []
    assert recorded.pop("init_step") is None
    assert recorded == json.loads(config.to_json())
    assert read_config(tmp_path).to_json() == ConfigDict(recorded).to_json()
    assert write_config(tmp_path, config, 7) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parallel.columns", 2),
        ("parallel.data", 2),
        ("max_steps", 70),
        ("epochs", 91),
        ("checkpoint_every", 5),
        ("data.dir", "/elsewhere"),
    ],
)
def test_allowed_changes_are_said_and_recorded(
    tmp_path: Path, config: ConfigDict, field: str, value: object
) -> None:
    """Catches: a field missing from MAY_CHANGE; changes before the last one forgotten."""
    write_config(tmp_path, config, 0)
    before = json.loads(config.to_json())
    for part in field.split("."):
        before = before[part]
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    assert write_config(tmp_path, changed, 30) == [f"{field} was {before!r}, is now {value!r}"]
    assert write_config(tmp_path, config, 40) == [f"{field} was {value!r}, is now {before!r}"]
    assert json.loads((tmp_path / "config.json").read_text())["changes"] == [
        {"step": 30, "field": field, "from": before, "to": value},
        {"step": 40, "field": field, "from": value, "to": before},
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("batch_size", 64),
        ("compute_dtype", "bfloat16"),
        ("data.name", "idx"),
        ("data.mean", "none"),
        ("model.dropout", 0.1),
        ("model.classes", 9),
        ("model.layers.conv1.features", 2),
        ("schedule.drop_epochs", (1, 2)),
        ("evaluate_every", 3),
    ],
)
def test_other_changes_are_refused(
    tmp_path: Path, config: ConfigDict, field: str, value: object
) -> None:
    """Catches: a field too many in MAY_CHANGE, or matched by the beginning of its name; the
    message without field, old or new value; a refusal that overwrites the record."""
    write_config(tmp_path, config, 0)
    content = (tmp_path / "config.json").read_bytes()
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as caught:
        write_config(tmp_path, changed, 30)
    new = json.loads(json.dumps(value))
    assert f"{field} was " in str(caught.value)
    assert f"is {new!r}." in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_field_more_or_less_is_a_difference(tmp_path: Path, config: ConfigDict) -> None:
    """Catches: comparing only the fields that both have, as after an update of the program."""
    write_config(tmp_path, config, 0)
    changed = ConfigDict(config.to_dict())
    changed.model.extra = 1
    with pytest.raises(InputError, match=r"model\.extra was None, is 1"):
        check_config(tmp_path, changed)
    write_config(tmp_path / ".", config, 0)
    (tmp_path / "other").mkdir()
    write_config(tmp_path / "other", changed, 0)
    with pytest.raises(InputError, match=r"model\.extra was 1, is None"):
        check_config(tmp_path / "other", config)


def test_classes_left_to_the_data_are_no_difference(tmp_path: Path, config: ConfigDict) -> None:
    """Catches: refusing, before the data are read, the same command as the first time."""
    write_config(tmp_path, config, 0)
    config.model.classes = 0
    assert check_config(tmp_path, config) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"seed": 0}'])
def test_a_config_that_is_none(tmp_path: Path, config: ConfigDict, content: str) -> None:
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


def test_one_claim_at_a_time(tmp_path: Path) -> None:
    """Catches: no lock; a lock that outlives its run, also one that failed."""
    folder = tmp_path / "a" / "b"
    with (
        claim(folder),
        pytest.raises(InputError, match="another process is training"),
        claim(folder),
    ):
        pass
    with pytest.raises(RuntimeError), claim(folder):
        raise RuntimeError
    with claim(folder):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Catches: an OSError let through."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot write to --workdir="), claim(folder):
            pass
