"""Evaluation of trained models on a folder of images with some of their classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import write_idx_set
from helpers.in_process import run_here, train_here
from helpers.linear_runs import SYNSETS, linear_config, save_color_run, save_run
from helpers.tiny_model import tiny_config
from PIL import Image

from alexnet_jax import cache
from alexnet_jax.model_data import open_folder, with_folder
from alexnet_jax.trained import load_trained

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model answers SYNSETS[0] to red, [1] to green and [2] to blue."""
    found = tmp_path_factory.mktemp("folder") / "run"
    save_color_run(found)
    return found


def write_class(folder: Path, *colors: tuple[int, int, int]) -> None:
    """Write a class folder with one image of each color, larger than the model's."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, color in enumerate(colors):
        Image.new("RGB", (30 + number, 25), color).save(folder / f"{number}.png")


def evaluated(*arguments: object) -> list[dict[str, object]]:
    """Run evaluate and return its results."""
    ended = run_here("evaluate", "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def refused(*arguments: object) -> str:
    """Run evaluate, which has to refuse its arguments with one line, and return that."""
    ended = run_here("evaluate", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 + ended.stderr.count("prepare:"), ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("views", ["center", "ten"])
def test_some_classes_in_another_order(workdir: Path, tmp_path: Path, views: str) -> None:
    """Catches: labels of the folder taken for those of the model; images held out from the
    evaluation; an answer chosen among the folder's classes only; several models that are not
    evaluated on the folder."""
    write_class(tmp_path / SYNSETS[2], BLUE, BLUE, RED)
    write_class(tmp_path / SYNSETS[1], GREEN, GREEN, BLUE, GREEN)
    for name in (workdir, f"{workdir},{workdir}"):
        flags = (f"--workdir={name}", f"--data_dir={tmp_path}", f"--views={views}")
        results = evaluated(*flags)
        assert len(results) == (1 if name == workdir else 3)
        for result in results:
            assert (result["split"], result["views"]) == ("all images", views)
            assert result["count"] == 7
            assert result["top1_error"] == pytest.approx(2 / 7)  # red is not in the folder
            assert result["top5_error"] == 0


def test_folders_of_splits(workdir: Path, tmp_path: Path) -> None:
    """Catches: another split than the usual one, or than the one asked for."""
    write_class(tmp_path / "train" / SYNSETS[1], GREEN)
    write_class(tmp_path / "train" / SYNSETS[0], RED)
    write_class(tmp_path / "validation" / SYNSETS[1], RED)
    write_class(tmp_path / "test" / SYNSETS[1], GREEN, RED)
    flags = (f"--workdir={workdir}", f"--data_dir={tmp_path}")
    (result,) = evaluated(*flags)
    assert [result[name] for name in ("split", "count", "top1_error")] == ["test", 2, 0.5]
    (result,) = evaluated(*flags, "--split=validation")
    assert [result[name] for name in ("split", "count", "top1_error")] == ["validation", 1, 1.0]
    assert "has the splits train, validation, test" in refused(*flags, "--split=nonsense")


def test_images_are_prepared_as_those_of_the_model(workdir: Path, tmp_path: Path) -> None:
    """Catches: the size of a config that the images did not have; a pack beside the user's files;
    a folder that is found only from the current one."""
    write_class(tmp_path / "data" / SYNSETS[2], BLUE)
    write_class(tmp_path / "data" / SYNSETS[0], RED)
    before = sorted(tmp_path.rglob("*"))
    model = with_folder(load_trained(workdir), tmp_path / "data")
    assert model.config.data.image_size == 12
    pack = open_folder(model)
    assert (pack.side, pack.channels, pack.class_names) == (12, 3, SYNSETS)
    assert sorted(pack.splits["train"].labels.tolist()) == [0, 2]
    assert pack.directory.parent == cache.directory()
    assert sorted(tmp_path.rglob("*")) == before


def test_colors_for_a_gray_model(tmp_path: Path) -> None:
    """Catches: a model of gray images that refuses photographs; another gray than that of predict;
    a gray pack that is taken for the one in color of the same folder."""
    rng = np.random.default_rng(0)
    names = ("ant", "bee", "cat")
    kernel = rng.normal(size=(24 * 24, 3)) / 24
    save_run(tmp_path / "gray", linear_config(), kernel, np.full((28, 28, 1), 128.0), names)
    for name in names[:2]:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    (result,) = evaluated(f"--workdir={tmp_path / 'gray'}", f"--data_dir={tmp_path / 'data'}")
    ended = run_here("predict", f"--workdir={tmp_path / 'gray'}", "--json", tmp_path / "data")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    wrong = [line["top5"][0]["class"] != Path(line["image"]).parent.name for line in lines]
    assert (result["count"], result["top1_error"]) == (20, np.mean(wrong))
    assert 0.2 < np.mean(wrong) < 0.95


def test_files_that_cannot_be_read_are_skipped(workdir: Path, tmp_path: Path) -> None:
    """Catches: training's limit on unreadable files applied to other images, where no flag raises
    it; a folder without any readable image that is evaluated, or ends in a traceback."""
    for name, color in ((SYNSETS[0], RED), (SYNSETS[2], BLUE)):
        write_class(tmp_path / name, color)
        (tmp_path / name / "bad.jpg").write_text("no image")
    count = len([*tmp_path.rglob("*.*")]) - 2
    ended = run_here("evaluate", f"--workdir={workdir}", f"--data_dir={tmp_path}", "--json")
    assert "train: cannot read n01440764/bad.jpg" in ended.stderr
    assert json.loads(ended.stdout)["count"] == count
    for path in tmp_path.rglob("*.*"):
        path.write_text("no image")
    message = refused(f"--workdir={workdir}", f"--data_dir={tmp_path}")
    assert "no image of the train split could be read" in message


def test_a_folder_that_does_not_exist(workdir: Path, tmp_path: Path) -> None:
    """Catches: a message about fields of the config, which evaluate does not have."""
    message = refused(f"--workdir={workdir}", f"--data_dir={tmp_path / 'x'}")
    assert f"--data_dir={tmp_path / 'x'} is not a folder" in message


def test_unknown_classes(workdir: Path, tmp_path: Path) -> None:
    """Catches: a KeyError; unknown classes counted as errors or left out; a message without their
    names, or without those that were meant."""
    for name in ("Tench", "n01443538", "zzz", SYNSETS[2]):
        write_class(tmp_path / name, BLUE)
    message = refused(f"--workdir={workdir}", f"--data_dir={tmp_path}")
    assert "folders that are not classes of the model: Tench (nearest: tench, Tinca t" in message
    assert "n01443538 (nearest: goldfish, Carassius auratus (n01443537)" in message
    assert "zzz (nothing similar)" in message
    assert "--class_names=FILE" in message
    assert f"{SYNSETS[2]} (n" not in message.partition("Rename")[0].split("zzz")[1]


def test_classes_named_by_a_file(tmp_path: Path) -> None:
    """Catches: an imported model, whose classes are numbers, that cannot be evaluated on folders
    with names; numbers matched by order, whatever they are."""
    save_color_run(tmp_path / "colors")
    model = load_trained(tmp_path / "colors")
    kernel = np.asarray(model.params["fc8"]["kernel"]).sum(0)
    numbers = tuple(map(str, range(6)))
    save_run(tmp_path / "run", model.config, kernel, model.mean_image, numbers)
    write_class(tmp_path / "data" / "blue", BLUE, BLUE)
    write_class(tmp_path / "data" / "red", RED, BLUE)
    flags = (f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}")
    assert "give the names of the model's 6 classes with --class_names" in refused(*flags)
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\nx\ny\nz\n")
    (result,) = evaluated(*flags, f"--class_names={names}")
    assert (result["count"], result["top1_error"]) == (4, 0.25)
    assert "cannot read --class_names=none.txt" in refused(*flags, "--class_names=none.txt")


@pytest.mark.parametrize("recorded", ["absolute", "relative"])
def test_a_relative_folder_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
) -> None:
    """Catches: a run that can be evaluated from the folder only in which it was started; a run of
    an earlier version, with a relative path, that cannot be used where it was started."""
    write_idx_set(tmp_path / "data", train=60, test=20)
    config = tiny_config(tmp_path / "data", **{"data.dir": "data"})
    monkeypatch.chdir(tmp_path)
    assert train_here(config, Path("run")) == 0
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    assert content["data"]["dir"] == str(tmp_path / "data")
    assert train_here(config, Path("run")) == 0  # the same command again
    if recorded == "relative":
        content["data"]["dir"] = "data"
        path.write_text(json.dumps(content))
        assert train_here(config, Path("run")) == 0
    else:
        monkeypatch.chdir("/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # without the pack
    (result,) = evaluated(f"--workdir={tmp_path / 'run'}")
    assert (result["split"], result["count"]) == ("test", 20)
