"""The page about a run, finished or interrupted: what is in it, and how a browser takes it."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from helpers import processes
from helpers.in_process import run_here
from helpers.reported_runs import (
    CLASSES,
    IMAGES,
    SECTIONS,
    STEPS,
    ReadPage,
    make_records,
    make_reported_page,
    save_reported_run,
)
from PIL import Image

from alexnet_jax.config import Config, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.model_data import open_data
from alexnet_jax.status import Status, write_status
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import lock_workdir
from experiments.figures import predictions
from experiments.report import content, image_sections

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def finished(reported_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run that has ended, a file in its workdir."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    save_reported_run(workdir, reported_config, STEPS, make_records(STEPS, final=True))
    with processes.compiled_quickly():
        (workdir / "report.html").write_text(make_reported_page(workdir), encoding="utf-8")
    return workdir / "report.html"


def test_a_finished_run_has_every_section_in_one_file(finished: Path) -> None:
    """Catches a section that is lost, an image without text or in a file of its own, anything
    that a browser would load or run, an id said twice, and the folders of who made the page."""
    html = finished.read_text(encoding="utf-8")
    read = ReadPage(html)
    assert read.ids == SECTIONS
    images = read.all("img")
    assert len(images) > 3 + 8  # figures, predictions, mistakes
    queries = [figure for figure in read.all("figure") if figure.get("class") == "query"]
    near = [image for image in images if " of the train split: " in image["alt"]]
    assert len(near) == 6 * len(queries) > 0
    assert sum(image["alt"].startswith("Activations of conv1: column ") for image in images) == 2
    assert len(html) < 1_000_000
    assert all(image["src"].startswith("data:image/") for image in images)
    assert all(image["alt"].strip() for image in images)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.elements}
    loading = [a[name] for _, a in read.elements for name in ("href", "src", "srcset") if name in a]
    assert not [target for target in loading if not target.startswith("data:")]
    assert "url(" not in html
    assert "@import" not in html
    assert html.startswith("<!DOCTYPE html>")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all(
        "meta"
    )
    assert str(finished.parents[1]) not in html
    assert "--workdir=…/finished" in read.text
    assert '"…/pack"' in read.text


def test_the_final_errors_are_those_of_the_newest_checkpoint(finished: Path) -> None:
    """Catches fractions for per cent, one view's error under the other's name, and errors of an
    earlier step."""
    first = ReadPage(finished.read_text(encoding="utf-8")).text
    assert "31.25 %" in first
    assert "25.00 %" in first
    assert "4 steps, 0.9 epochs of 36 images; training is complete." in first
    older = content.final_errors(make_records(STEPS, final=True), step=STEPS + 1)
    assert [(row.images, row.top1) for row in older] == [
        ("final, center view", "not run"),
        ("final, ten views", "not run"),
    ]
    rows = content.final_errors(make_records(STEPS, final=True), STEPS)
    assert [(row.images, row.top1, row.top5, row.count) for row in rows] == [
        ("test, center view", "31.25 %", "12.50 %", "30"),
        ("test, ten views", "25.00 %", "12.50 %", "30"),
        ("validation, while training", "50.00 %", "12.50 %", "30"),
    ]


def test_neighbors_and_activations(finished: Path) -> None:
    """Catches images beside the distances or classes of others, an image among its own neighbors, a
    true class in red, activations of another image, and columns that are mixed up."""
    model = load_trained(finished.parent)
    pack = open_data(model)
    shown = predictions.predict_split(model, pack, "train", index=[7, 30])
    found, text = image_sections.make_neighbors(model, pack, shown)
    assert text == "the nearest of 36 training images by conv1's activations after pooling"
    train = predictions.predict_split(model, pack, "train", features=True)
    assert train.features is not None
    for one, label, index in zip(found, shown.labels, shown.index, strict=True):
        every = np.linalg.norm(train.features - train.features[index], axis=1)
        expected = [row for row in np.argsort(every, kind="stable") if row != index][:6]
        assert [near.image.alt for near in one.nearest] == [
            f"Image {row} of the train split: {CLASSES[train.labels[row]]}" for row in expected
        ]
        np.testing.assert_allclose([near.distance for near in one.nearest], every[expected], 1e-4)
        assert one.label == CLASSES[label]
        assert [near.correct for near in one.nearest] == [
            near.label == one.label for near in one.nearest
        ]
    (layer,) = image_sections.make_activations(model, pack, "train", 7)
    assert re.fullmatch(
        r"conv1: column 0, 2 channels of 4×4, (\d+) % above 0; column 1, .*", layer.text
    )
    (crop,) = predictions.load_crops(model, pack, "train", [7])
    relu1 = predictions.compute_image_activations(model, crop)["relu1"]
    for column, channels in zip(layer.columns, (relu1[..., :2], relu1[..., 2:]), strict=True):
        content = base64.b64decode(column.source.partition(",")[2])
        shades = np.asarray(Image.open(io.BytesIO(content)))[..., 1]  # rise with the value
        brightest = np.unravel_index(channels.argmax(), channels.shape)
        row, place, channel = map(int, brightest)
        assert shades[row, channel * 5 + place] == shades.max()


def test_names_of_classes_are_text(finished: Path) -> None:
    """Catches markup from a folder's name: in text, in an alt text, in a script of the page."""
    read = ReadPage(finished.read_text(encoding="utf-8"))
    assert "<script>" in read.text
    assert "a & b" in read.text
    assert any("<script>" in image["alt"] for image in read.all("img"))
    assert read.all("script") == []


def test_the_page_of_an_interrupted_run(reported_config: Config, tmp_path: Path) -> None:
    """Catches numbers of the final evaluation where there was none, and an unfinished model that
    passes for a finished one."""
    workdir = save_reported_run(tmp_path / "half", reported_config, 2, make_records(2, final=False))
    write_status(workdir, "interrupted", "stopped by SIGTERM")
    read = ReadPage(make_reported_page(workdir))
    assert read.ids == SECTIONS
    words = " ".join(read.text.split())
    assert "final, center view not run not run" in words
    assert "final, ten views not run not run" in words
    assert "test, center view, evaluated for this page" in words
    assert "training was interrupted, the config has 4 steps" in words


def test_curves_without_validation(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: an alternative text that names images of which there is no curve."""
    monkeypatch.setattr(content, "_predict", lambda *_: None)
    model = load_trained(finished.parent)
    train, validation, *_ = make_records(STEPS, final=False)
    for lines, images in (
        ([train, validation], "training and on validation"),
        ([train], "training"),
    ):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        curves = content.make_sections(tmp_path, model, None).curves
        assert curves is not None
        assert curves.alt == f"Top-1 error over epochs, on {images} images."


def test_progress_in_words(finished: Path, tmp_path: Path) -> None:
    """Catches: images that are recovered from steps, where last batches of parts are masked; a
    run that `stop_error` has ended, or one of all its steps, called interrupted; one that has
    diverged, failed or still trains called interrupted; a killed one called running."""

    def progress(config: Config, step: int, images: int) -> str:
        model = dataclasses.replace(loaded, config=config, step=step, num_images=images)
        return content.describe_progress(model, tmp_path)

    loaded = load_trained(finished.parent)
    assert loaded.num_images == IMAGES
    config = with_changes(loaded.config, {"max_steps": 0, "epochs": 2, "stop_error": 0.25})
    assert progress(config, 9, IMAGES) == "Trained for 9 steps, 2.0 epochs of 36 images; " + (
        "training is complete."
    )
    parts = with_changes(config, {"data.part_images": 12, "data.shuffle": False})
    assert progress(parts, 12, IMAGES).endswith("2.0 epochs of 36 images; training is complete.")
    begun = "Trained for 3 steps, 0.7 epochs of 36 images; "
    assert progress(config, 3, IMAGES) == f"{begun}the config has 9 steps."
    for status, words in {
        "finished": "training is complete, by stop_error=0.25; ",
        "interrupted": "training was interrupted, ",
        "diverged": "training diverged, ",
        "failed": "training failed, ",
        "running": "training was interrupted, ",
    }.items():
        write_status(tmp_path, cast(Status, status))
        assert progress(config, 3, IMAGES) == f"{begun}{words}the config has 9 steps."
    with lock_workdir(tmp_path):
        assert "training goes on, the config" in progress(config, 3, IMAGES)
    assert progress(config, 0, 0) == "The weights were imported, not trained."


def test_another_split(finished: Path) -> None:
    """Catches --split that is not heeded, and a wrong one that is passed over."""
    html = make_reported_page(finished.parent, "validation")
    assert "validation, center view, evaluated for this page" in html
    assert f"{len(CLASSES)} images of the validation split in their center view" in html
    with pytest.raises(InputError, match="--split=tests: folder has the splits train, validation"):
        make_reported_page(finished.parent, "tests")


def test_a_model_without_mistakes(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that fails where there is no mistake to show."""
    model = load_trained(finished.parent)
    found = predictions.predict_split(model, open_data(model))
    correct = dataclasses.replace(found, labels=found.classes)
    monkeypatch.setattr(content, "predict_split", lambda model, pack, split: correct)
    sections = content.make_sections(finished.parent, model, None)
    assert (sections.mistakes, sections.confused) == ([], [])
    assert len(sections.predictions) == content.NUM_SHOWN[0]
    assert sections.confusion is not None


def test_the_command(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wrong place, a missing folder that is not made, a traceback where the page cannot
    be written, and this found out only after the page is computed."""
    output = tmp_path / "missing" / "page.html"
    workdir = f"--workdir={finished.parent}"
    good = run_here("report", workdir, f"--output={output}", package="experiments")
    assert (good.returncode, good.stdout) == (0, f"{output}\n"), good.stderr
    assert ReadPage(output.read_text(encoding="utf-8")).ids == SECTIONS
    monkeypatch.setattr(content, "make_page", None)
    bad = run_here("report", workdir, f"--output={tmp_path}", package="experiments")
    assert bad.returncode == 2
    assert f"cannot write {tmp_path}: Is a directory" in bad.stderr
    assert "Traceback" not in bad.stderr


PROBE = """<!DOCTYPE html><title>probe</title>
<iframe src="report.html" style="border: 0; width: 360px; height: 800px"></iframe>
<script>
document.querySelector("iframe").addEventListener("load", event => {
  const view = event.target.contentWindow, page = view.document;
  page.querySelectorAll("details").forEach(one => one.open = true);
  document.body.dataset.found = JSON.stringify({
    width: view.innerWidth,
    scroll: page.documentElement.scrollWidth,
    letters: parseFloat(view.getComputedStyle(page.body).fontSize),
    images: [...page.images].map(one => one.naturalWidth),
  });
});
</script>"""


def test_in_a_browser_as_wide_as_a_phone(finished: Path, tmp_path: Path) -> None:
    """Catches a page that scrolls sideways, letters too small to read, images that do not load,
    and errors on the console, as where the page's policy forbids what it uses itself.

    The page stands in a frame, because Chromium makes no window narrower than 500 pixels.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed; with it the page is tried in a browser")
    shutil.copy(finished, tmp_path / "report.html")
    (tmp_path / "probe.html").write_text(PROBE)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    flags += ["--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND"]

    def run_chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [browser, *flags, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    ended = run_chromium("--dump-dom", (tmp_path / "probe.html").as_uri())
    found = json.loads(ReadPage(ended.stdout).all("body")[0]["data-found"])
    assert found["width"] == 360
    assert found["scroll"] <= found["width"]
    assert found["letters"] >= 16
    assert len(found["images"]) > 3 + 8
    assert min(found["images"]) > 0
    assert "CONSOLE" not in ended.stderr
    pdf = tmp_path / "report.pdf"
    run_chromium(
        "--no-pdf-header-footer", f"--print-to-pdf={pdf}", (tmp_path / "report.html").as_uri()
    )
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type /Page" in pdf.read_bytes()
