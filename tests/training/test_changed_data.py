"""Runs whose images have changed since they began, or that have none to evaluate on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

from alexnet_jax import sharding
from alexnet_jax.config import Config
from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate, final_evaluation
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import read_source_digest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of IDX files."""
    write_idx_set(tmp_path / "data", train=40, test=10)
    return tmp_path / "data"


def rare_test_class(data: Path) -> None:
    """Give a test image another label, which changes neither the mean nor the classes."""
    path = data / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[8] = (content[8] + 1) % 5
    path.write_bytes(content)


def test_a_run_goes_on_with_its_own_images_only(data: Path, tmp_path: Path) -> None:
    """Catches: a run that continues, or is evaluated, on images it did not begin with."""
    run = tmp_path / "run"
    assert train_here(tiny_config(data), run) == 0
    assert read_source_digest(run) == open_source(tiny_config(data).data).digest
    assert load_trained(run).source_digest == read_source_digest(run)
    kept = {path.name: path.read_bytes() for path in data.iterdir()}
    rare_test_class(data)
    message = r"the images of idx .*data are not those on which the run was trained: names, sizes"
    with pytest.raises(InputError, match=message):
        train_here(tiny_config(data, max_steps=5), run)
    with pytest.raises(InputError, match="not those on which the run was trained"):
        evaluate([load_trained(run)])
    for name, content in kept.items():
        (data / name).write_bytes(content)
    assert train_here(tiny_config(data, max_steps=5), run) == 0
    assert evaluate([load_trained(run)])[1][0]["count"] == 10


def test_before_its_first_checkpoint_a_run_may_change_its_images(
    data: Path, tmp_path: Path
) -> None:
    """Catches: images of a run that saved nothing taken for those it was trained on."""
    run = tmp_path / "run"
    train_here(tiny_config(data), run)
    shutil.rmtree(run / "checkpoints")
    rare_test_class(data)
    train_here(tiny_config(data), run)
    assert read_source_digest(run) == open_source(tiny_config(data).data).digest


def test_a_workdir_without_a_digest_goes_on(data: Path, tmp_path: Path) -> None:
    """Catches: runs of earlier versions that cannot be continued."""
    run = tmp_path / "run"
    train_here(tiny_config(data), run)
    path = run / "config.json"
    content = json.loads(path.read_text())
    del content["source_digest"]
    path.write_text(json.dumps(content))
    assert read_source_digest(run) is None
    assert train_here(tiny_config(data, max_steps=5), run) == 0
    assert read_source_digest(run) is not None


def without_held_out(data: Path) -> Config:
    """Return a config whose images are all for training."""
    for path in data.glob("t10k*"):
        path.unlink()
    changes: dict[str, Any] = {"data.validation_share": 0.0, "data.test_share": 0.0}
    return tiny_config(data, **changes, **{"schedule.rule": "epochs"})


def test_nothing_held_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a run that ends in an error about --split, which nobody gave."""
    run = tmp_path / "run"
    assert train_here(without_held_out(data), run) == 0
    capsys.readouterr()
    final_evaluation(run, sharding.make_data_mesh(1))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "idx has training images only: nothing to evaluate on.\n"
    model = load_trained(run)
    message = r"idx has training images only, .* give --split=train, or hold images out"
    with pytest.raises(InputError, match=message):
        evaluate([model])
    with pytest.raises(InputError, match=r"--split=test: idx has the splits train$"):
        evaluate([model], "test")
    split, (result,) = evaluate([model], "train")
    assert (split, result["count"]) == ("train", 40)
