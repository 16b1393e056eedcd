"""Pages about imported models, those without images, and other families."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.reported_runs import (
    BATCH,
    CLASSES,
    SECTIONS,
    STEPS,
    WITHOUT_IMAGES,
    ReadPage,
    make_records,
    make_reported_config,
    make_reported_page,
    save_reported_run,
)

from alexnet_jax import convert, fields
from alexnet_jax.config import Config, config_to_text, with_changes
from alexnet_jax.models.registry import init_variables
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import TrainedModel
from configs import resnet, variants
from configs.alexnet import get_config
from experiments import html_page
from experiments.figures.predictions import Predictions
from experiments.report import image_sections, presets

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_a_residual_network(reported_config: Config, tmp_path: Path) -> None:
    """Catches a page that fails for a model with branches, or compares its config with those of
    another family; columns in the captions of a model without columns."""
    network = resnet.get_config("sample")
    small = {"width": 2, "stage_sizes": (1,), "channels": 3, "num_classes": len(CLASSES)}
    network.data, network.model = reported_config.data, fields.replace(network.model, small)
    network.batch_size, network.max_steps = BATCH, STEPS
    workdir = save_reported_run(tmp_path / "run", network, STEPS, make_records(STEPS, final=True))
    read = ReadPage(make_reported_page(workdir))
    assert read.ids == SECTIONS
    words = " ".join(read.text.split())
    assert "The nearest preset is configs/resnet.py:sample." in words
    assert "by conv2_1's activations, averaged over all pixels" in words
    assert "Activations of every hidden layer for image" in words
    assert "conv1: 2 channels of 12×12" in words
    assert "column 0" not in words


def test_imported_weights_without_images(reported_config: Config, tmp_path: Path) -> None:
    """Catches a page that fails, downloads or prepares where there are neither images nor curves,
    and a section that goes without a word."""
    places = {"data.name": "imagenet2012", "data.dir": "", "data.pack_dir": ""}
    config = with_changes(reported_config, {**places, "model.num_classes": 1000})
    names = tuple(f"n{i:08d}" for i in range(1000))
    mean = np.zeros((16, 16, 3), np.float32)
    model = TrainedModel(config, 0, init_variables(config), mean, names)
    convert.write_workdir(tmp_path / "zoo", model)
    read = ReadPage(make_reported_page(tmp_path / "zoo"))
    assert read.ids == ["errors", "left-out", *WITHOUT_IMAGES]
    assert "The weights were imported, not trained." in read.text
    assert "Learning curves: the model was imported, not trained" in read.text
    assert "confusion matrix and activations: there is no pack in …/imagenet2012-" in read.text


def test_a_pack_that_is_gone(
    reported_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a page that makes the pack again, which for ImageNet takes hours, or that fails."""
    config = with_changes(reported_config, {"data.pack_dir": str(tmp_path / "gone")})
    workdir = save_reported_run(tmp_path / "run", config, STEPS, make_records(STEPS, final=True))
    read = ReadPage(make_reported_page(workdir))
    assert read.ids == ["errors", "left-out", "curves", *WITHOUT_IMAGES]
    assert not (tmp_path / "gone").exists()
    assert "there is no pack in …/gone; make it with python -m alexnet_jax.prepare" in read.text
    assert f"there is no pack in {tmp_path / 'gone'}" in capsys.readouterr().err


def test_of_many_classes_there_is_no_matrix() -> None:
    """Catches a matrix of a thousand classes in the page, and the pairs' counts the wrong way
    round."""
    labels = np.array([7, 7, 7, 3, 900])
    logs = np.full((5, 1000), -9.0)
    logs[range(5), [8, 8, 7, 3, 900]] = 0
    predictions = Predictions("test", np.arange(5), labels, logs, None)
    pairs, matrix = image_sections.summarize_confusion(predictions, tuple(map(str, range(1000))))
    assert matrix is None
    assert pairs == [("7", "8", 2, 3)]
    few = Predictions("test", np.arange(5), np.minimum(labels, 8), logs[:, :9], None)
    assert image_sections.summarize_confusion(few, tuple(map(str, range(9))))[1] is not None


def test_the_nearest_preset() -> None:
    """Catches differences to another preset than the nearest, and the number of classes, which a
    preset leaves to the data, among them."""
    config = get_config("sample")
    variants.apply_variant(config, "no_lrn", {}, variants.ABLATIONS)
    config.model.num_classes, config.seed = 10, 3
    config.data.dir = "/home/somebody/images"
    name, differing = presets.nearest_preset(json.loads(config_to_text(config)))
    assert name == "configs/alexnet.py:sample,no_lrn"
    assert differing == [("seed", 0, 3), ("data.dir", "", "/home/somebody/images")]
    assert html_page.format_value(differing[1][2]) == '"…/images"'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no pack in /home/jane/.cache/x/sample-1; make it", "no pack in …/sample-1; make it"),
        ("'/home/me/my pictures/'", "'…/my pictures/'"),
        ("--workdir=/tmp/run --output=~/a/b.html", "--workdir=…/run --output=…/b.html"),
        ("runs/seed-0/x, configs/a.py, 1/2", "runs/seed-0/x, configs/a.py, 1/2"),
        ("see file:///home/me/x or https://a.org/b/c", "see …/x or https://a.org/b/c"),
        ("no '/home/Jane Doe/a, b/1.png' there", "no '…/a, b/1.png' there"),
    ],
)
def test_folders_of_this_machine_are_left_out(text: str, shown: str) -> None:
    """Catches a user's name in a page that is sent around, and relative paths cut short."""
    assert html_page.strip_folders(text, [Path("/home/Jane Doe/a, b")]) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/Jane Doe/imgs/train", "…/train"),
        ("/home/jane/Doe, J. (2): it's/my imgs/", "…/my imgs/"),
        ("file:///home/jane/x", "…/x"),
        ("~jane/x", "…/x"),
        ("/data", "/data"),
        ("runs/Jane Doe/x", "runs/Jane Doe/x"),
        ("gs://bucket/a/b", "gs://bucket/a/b"),
    ],
)
def test_paths_with_any_characters(value: str, shown: str) -> None:
    """Catches a part of a path taken for its end, in a config's value and in an argument, and a
    command that a shell would take apart."""
    assert html_page.format_value(value) == json.dumps(shown, ensure_ascii=False)
    assert html_page.format_command(["python", f"--output={value}", value]).count("Jane") == (
        2 if shown.startswith("runs") else 0
    )
    command = html_page.format_command(["python", f"--workdir={value}"])
    assert shlex.split(command) == ["python", f"--workdir={shown}"]
    assert html_page.format_command(["a.b", "--x=/home/me/y"]) == "a.b --x=…/y"


def test_a_report_prepares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches images prepared again for a page because they have changed, which may take hours, and
    the user's folders in the reason."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "Jane Doe" / "cache"))
    images = tmp_path / "Jane Doe" / "images"
    config = make_reported_config(images)
    config = with_changes(config, {"data.pack_dir": ""})
    made = prepare(config.data, progress=False).directory / "manifest.json"
    before = made.read_bytes()
    workdir = save_reported_run(tmp_path / "run", config, STEPS, make_records(STEPS, final=True))
    next((images / "train").rglob("*.*")).unlink()
    read = ReadPage(make_reported_page(workdir))
    assert read.ids == ["errors", "left-out", "curves", *WITHOUT_IMAGES]
    assert made.read_bytes() == before
    reason = "the images in …/images have changed since the pack in …/folder-"
    assert reason in read.text
    assert "Jane" not in read.text
    assert "python -m alexnet_jax.prepare" in read.text
    assert "Preparing" not in capsys.readouterr().err
