"""Prediction and evaluation as commands, on linear models whose outputs NumPy computes as well."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import processes
from helpers.in_process import run_here
from helpers.linear_runs import SYNSETS, linear_config, save_color_run, save_run
from PIL import Image

from alexnet_jax.compatible import check_compatible
from alexnet_jax.config import with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.model_data import with_folder
from alexnet_jax.predict import print_predictions
from alexnet_jax.prepare import prepare
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import write_config

COLORS = {"red.png": (255, 0, 0), "blue.jpg": (0, 0, 255), "green.bmp": (0, 255, 0)}


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose model tells colors apart: logits of 3, 2, 1 × the share of R, G, B."""
    workdir = tmp_path_factory.mktemp("colors") / "run"
    save_color_run(workdir)
    for number, (name, rgb) in enumerate(COLORS.items()):
        Image.new("RGB", (20 + number, 15), rgb).save(workdir.parent / name, quality=100)
    (workdir.parent / "notes.txt").write_text("no image")
    return workdir


def test_json_in_the_order_given(colors: Path) -> None:
    """Catches: sorted or merged images; log-probabilities for probabilities; the least
    probable first; a resized or cropped image other than in training."""
    images = [str(colors.parent / name) for name in COLORS]
    ended = processes.run("predict", f"--workdir={colors}", "--json", *images)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["image"] for line in found] == images
    for line, best, logit in zip(found, (0, 2, 1), (3.0, 1.0, 2.0), strict=True):
        expected = np.exp(logit) / (np.exp(logit) + len(SYNSETS) - 1)
        others = [name for name in SYNSETS if name != SYNSETS[best]]
        assert [top["class"] for top in line["top5"]] == [SYNSETS[best], *others[:4]]
        shares = [top["probability"] for top in line["top5"]]
        np.testing.assert_allclose(shares[0], expected, rtol=0.01)
        np.testing.assert_allclose(shares[1:], (1 - expected) / 5, rtol=0.02)


def test_text_has_readable_names_and_goes_on_after_a_file_that_is_no_image(
    colors: Path,
) -> None:
    """Catches: synset numbers without readable names; one bad file that hides the answers for the
    others; a name beside another image's answer; status 0 or a traceback."""
    names = ("red.png", "notes.txt", "missing.png", "green.bmp")
    images = [str(colors.parent / name) for name in names]
    ended = processes.run("predict", f"--workdir={colors}", *images)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    for bad in images[1:3]:
        assert f"{bad}: cannot read this image" in ended.stderr
    lines = ended.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [images[0], images[3]]
    assert len(lines) == 2 * 6
    assert "tench, Tinca tinca (n01440764)" in lines[1]
    assert "goldfish, Carassius auratus (n01443537)" in lines[7]
    assert all("%" in line for line in lines[1:6] + lines[7:])


def test_probabilities_that_are_not_finite(tmp_path: Path) -> None:
    """Catches: "nan %", and NaN in --json, which is not JSON, with status 0."""
    kernel = np.full((24 * 24, 3), 1e38)
    save_run(tmp_path / "run", linear_config(), kernel, np.zeros((28, 28, 1)), ("a", "b", "c"))
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    ended = run_here("predict", f"--workdir={tmp_path / 'run'}", "--json", tmp_path / "red.png")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "the probabilities are not finite" in ended.stderr


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_images_smaller_than_the_crop(tmp_path: Path, command: str) -> None:
    """Catches: a corner of the image taken for its center; flags advised that the command does not
    have."""
    kernel = np.zeros((24 * 24, 3))
    save_run(tmp_path / "run", linear_config(), kernel, np.zeros((20, 20, 1)), ("a", "b", "c"))
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    images = [tmp_path / "red.png"] if command == "predict" else []
    ended = run_here(command, f"--workdir={tmp_path / 'run'}", *images)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "crops of 24 pixels, but its images are scaled to 20; import its wei" in ended.stderr


def test_no_images_given(colors: Path) -> None:
    """Catches: silence and status 0, as if all were well."""
    ended = processes.run("predict", f"--workdir={colors}")
    assert ended.returncode == 2
    assert "no images given" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("count", [1, 31, 32, 33])
def test_any_number_of_images_is_answered_in_order(
    colors: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """Catches: a name paired with a neighbor's answer, or an IndexError, where a batch of 32 fills
    up; a batch lost at the end; unreadable files counted as readable ones."""
    names = [list(COLORS)[i % 3] for i in range(count)]
    readable = [str(colors.parent / name) for name in names]
    paths = list(readable)
    for place in range(count, -1, -7):  # after the last, and before the first or in between
        paths.insert(place, f"{colors.parent}/missing{place}.png")
    unreadable = print_predictions(load_trained(colors), paths, as_json=True)
    assert unreadable == len(paths) - count
    output = capsys.readouterr()
    found = [json.loads(line) for line in output.out.splitlines()]
    assert [line["image"] for line in found] == readable
    expected = {"red.png": SYNSETS[0], "blue.jpg": SYNSETS[2], "green.bmp": SYNSETS[1]}
    assert [line["top5"][0]["class"] for line in found] == [expected[name] for name in names]
    assert [line.split(":")[0] for line in output.err.splitlines()] == [
        path for path in paths if path not in readable
    ]


def test_a_full_batch_with_an_unreadable_file_exits_with_2(colors: Path) -> None:
    """Catches: a status other than 2, or a traceback, once a batch is full."""
    images = [str(colors.parent / "red.png")] * 32 + [str(colors.parent / "notes.txt")]
    ended = processes.run("predict", f"--workdir={colors}", "--json", *images)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stdout.splitlines()) == 32


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two runs of linear models on the sample: each class's mean image, and with noise."""
    folder = tmp_path_factory.mktemp("pair")
    pack = prepare(linear_config().data, progress=False)
    pixels, labels = split_of(pack, "train", 2000)
    center = pixels[:, 2:26, 2:26].reshape(len(pixels), -1) - 128.0
    means = np.stack([center[labels == k].mean(0) for k in range(10)], axis=1)
    noise = np.random.default_rng(0).normal(size=means.shape) * means.std()
    for name, kernel in (("a", means), ("b", means + noise)):
        norm = 50 * np.linalg.norm(kernel, axis=0)
        save_run(folder / name, linear_config(), kernel / norm, pack.mean_image, pack.class_names)
    return folder / "a", folder / "b"


def split_of(pack: Pack, name: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 28, 28) and labels (n,) of a split of the sample."""
    split = pack.splits[name]
    records = split.read(np.arange(count or split.count))
    pixels = np.frombuffer(b"".join(records), np.uint8).reshape(-1, 28, 28)
    return pixels, split.labels[: len(pixels)]


def probabilities(workdir: Path, pixels: np.ndarray, ten: bool) -> np.ndarray:
    """Return probabilities (images, classes), averaged over the views, by NumPy."""
    model = load_trained(workdir)
    kernel = np.asarray(model.params["fc8"]["kernel"], np.float64).sum(0)
    scaled = (pixels - model.mean_image[:, :, 0]) * model.config.data.scale
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)] if ten else [(2, 2)]
    views = [scaled[:, top : top + 24, left : left + 24] for top, left in corners]
    views += [view[:, :, ::-1] for view in views] * ten
    logits = np.stack([view.reshape(len(view), -1) @ kernel for view in views])
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return (exponents / exponents.sum(-1, keepdims=True)).mean(0)


@pytest.mark.parametrize("views", ["center", "ten"])
def test_evaluation_is_exact(pair: tuple[Path, Path], views: str) -> None:
    """Catches: images left out or counted twice; logits averaged instead of probabilities; the
    mean image not cut or mirrored with its view; the average of the errors for the error of
    the average; test mistaken for validation."""
    both = ",".join(map(str, pair))
    ended = processes.run("evaluate", f"--workdir={both}", f"--views={views}", "--json")
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    pixels, labels = split_of(prepare(linear_config().data, progress=False), "test")
    assert len(labels) == 2000
    models = [probabilities(workdir, pixels, views == "ten") for workdir in pair]
    assert [line["workdir"] for line in found] == [*map(str, pair), "average"]
    for line, shares in zip(found, [*models, np.mean(models, axis=0)], strict=True):
        rank = (shares > shares[np.arange(2000), labels][:, None]).sum(1)
        assert line["split"] == "test"
        assert line["views"] == views
        assert line["count"] == 2000
        assert line["top1_error"] == (rank >= 1).mean()
        assert line["top5_error"] == (rank >= 5).mean()
        loss = -np.log(shares[np.arange(2000), labels]).mean()
        np.testing.assert_allclose(line["loss"], loss, rtol=1e-5)
    assert 0.1 < found[0]["top1_error"] < 0.8
    assert len({line["top1_error"] for line in found}) == 3


def test_a_split_of_choice_on_four_devices(pair: tuple[Path, Path]) -> None:
    """Catches: another split than was asked for; a model that stays where it was loaded."""
    model = load_trained(pair[0])
    split, results = evaluate([model], "validation")
    assert (split, results[0]["count"]) == ("validation", 1000)
    assert evaluate([model], "train")[1][0]["count"] == 9000


def test_splits_and_models_that_do_not_fit(pair: tuple[Path, Path], colors: Path) -> None:
    """Catches: a KeyError for a split; averaging over other classes."""
    model = load_trained(pair[0])
    with pytest.raises(InputError, match=r"--split=nonsense: .*train, validation, test"):
        evaluate([model], "nonsense")
    with pytest.raises(InputError, match="models whose classes differ cannot be averaged"):
        evaluate([model, load_trained(colors)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.crop": 20}, r"data\.crop differ cannot be averaged: 24 and 20"),
        ({"data.split_seed": 1}, r"data\.split_seed differ cannot be averaged: 0 and 1"),
        ({"model.channels": 3}, "channels differ cannot be averaged: 1 and 3"),
    ],
)
def test_models_of_other_images(
    pair: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    """Catches: averaging over models that other images were held out from, or that cannot be
    given the same crops."""
    model = load_trained(pair[0])
    other = dataclasses.replace(model, config=with_changes(model.config, changes))
    with pytest.raises(InputError, match=message):
        evaluate([model, other])


def test_models_trained_on_different_images(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Catches: models averaged on the images of the first one, where another was trained on others
    of the same classes; only neighbors compared, so that one of unknown images comes between; a
    refusal where all are evaluated on the images of one folder."""
    model = load_trained(pair[0])
    unknown, one, other = (
        dataclasses.replace(model, source_digest=digest) for digest in (None, "one", "other")
    )
    with pytest.raises(InputError, match=r"different images .*digest one\) and .*digest o"):
        evaluate([unknown, one, other])
    check_compatible(unknown, one)
    check_compatible(one, one)
    check_compatible(*(with_folder(model, tmp_path) for model in (one, other)))


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    """Catches: a traceback while the first epoch is still running."""
    write_config(tmp_path, linear_config(), 0)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        load_trained(tmp_path)


def test_averaged_parameters_are_evaluated(tmp_path: Path) -> None:
    """Catches a checkpoint with averaged parameters that cannot be read, or the last parameters
    taken in their place."""
    kernel = np.random.default_rng(0).normal(size=(24 * 24, 2))
    arguments = linear_config(), kernel, np.zeros((28, 28, 1), np.float32), ("a", "b")
    save_run(tmp_path / "run", *arguments, averaged=True)
    loaded = load_trained(tmp_path / "run")
    assert [*loaded.variables] == ["params"]
    expected = np.stack([kernel * 0.25, kernel * 0.75]).astype(np.float32)
    np.testing.assert_array_equal(loaded.params["fc8"]["kernel"], expected)
