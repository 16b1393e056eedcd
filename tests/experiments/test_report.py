"""The page about a run: what is in it, what is not, and how a browser takes it."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import processes
from helpers.image_sets import write_folder
from helpers.in_process import run_here
from helpers.saved_run import save_run
from PIL import Image

from alexnet_jax import convert, fields, run_config
from alexnet_jax.config import Config, config_to_text, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Metrics
from alexnet_jax.model_data import open_data
from alexnet_jax.models.ops import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.models.registry import init_variables
from alexnet_jax.prepare import prepare
from alexnet_jax.records import Record, make_record
from alexnet_jax.trained import TrainedModel, load_trained
from configs import resnet, variants
from configs.alexnet import get_config
from experiments import html_page
from experiments.figures import predictions
from experiments.figures.predictions import Predictions
from experiments.report import content, image_sections, presets

pytestmark = pytest.mark.usefixtures("quick_to_compile")

CLASSES = ("<script>", "a & b", "c", "d", "e", "f")
SECTIONS = ["errors", "curves", "predictions", "neighbors", "mistakes", "confusion", "kernels"]
SECTIONS += ["activations", "layers", "config", "made"]
WITHOUT_IMAGES = ["kernels", "layers", "config", "made"]
VOID = {"meta", "img", "br"}
STEPS, BATCH, IMAGES = 4, 8, 36


class Read(HTMLParser):
    """A page as a parser sees it: elements with their attributes, ids, text; every end in place."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("th", "td"):
            self.text += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the config of a small model in color, on a folder of noise whose pack is made."""
    data = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("validation", 1), ("test", 5)):
        write_folder(data / split, dict.fromkeys(CLASSES, count), side=16, seed=len(split))
    places = {"data.name": "folder", "data.dir": str(data), "data.pack_dir": str(data / "pack")}
    sizes = {"data.image_size": 16, "data.crop": 12, "batch_size": BATCH, "max_steps": STEPS}
    conv1 = Conv(4, kernel=3, stride=3, padding=(1, 1))
    ops = dict(conv1=conv1, relu1=ReLU(), norm1=LRN(), pool1=MaxPool(), fc8=Dense(0))
    changes = {**places, **sizes, "model.channels": 3, "model.ops": ops}
    config = with_changes(get_config("sample"), changes)
    return run_config.complete_config(config, prepare(config.data, progress=False))


def records(step: int, *, final: bool) -> list[Record]:
    """Return the records of a run of some steps, all errors different."""

    def record(split: str, top1_error: float) -> Record:
        metrics = Metrics(loss=1.5, top1_error=top1_error, top5_error=0.125, count=30)
        return make_record(step, step * BATCH / IMAGES, split, metrics)

    train = record("train", 0.75)
    train["learning_rate"], train["images_per_second"] = 0.1, 1.0
    found = [train, record("validation", 0.5)]
    for views, error in (("center", 0.3125), ("ten", 0.25)) if final else ():
        found.append(record("test", error))
        found[-1]["views"] = views
    return found


def save(workdir: Path, config: Config, step: int, lines: list[Record]) -> Path:
    """Make the folder that training would leave after a step, with the initial parameters."""
    return save_run(workdir, config, step, lines, CLASSES, IMAGES)


def made(workdir: Path, split: str | None = None) -> str:
    return content.make_page(workdir, load_trained(workdir), split, [f"--workdir={workdir}"])


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run that has ended, a file in its workdir."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    save(workdir, config, STEPS, records(STEPS, final=True))
    with processes.compiled_quickly():
        (workdir / "report.html").write_text(made(workdir), encoding="utf-8")
    return workdir / "report.html"


def test_a_finished_run_has_every_section_in_one_file(finished: Path) -> None:
    """Catches a section that is lost, an image without text or in a file of its own, anything
    that a browser would load or run, an id said twice, and the folders of who made the page."""
    html = finished.read_text(encoding="utf-8")
    read = Read(html)
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
    first = Read(finished.read_text(encoding="utf-8")).text
    assert "31.25 %" in first
    assert "25.00 %" in first
    assert "4 steps, 0.9 epochs of 36 images; training is complete." in first
    older = content.final_errors(records(STEPS, final=True), step=STEPS + 1)
    assert [(row.images, row.top1) for row in older] == [
        ("final, center view", "not run"),
        ("final, ten views", "not run"),
    ]
    rows = content.final_errors(records(STEPS, final=True), STEPS)
    assert [(row.images, row.top1, row.top5, row.count) for row in rows] == [
        ("test, center view", "31.25 %", "12.50 %", "30"),
        ("test, ten views", "25.00 %", "12.50 %", "30"),
        ("validation, while training", "50.00 %", "12.50 %", "30"),
    ]


def test_neighbors_and_activations(finished: Path) -> None:
    """Catches images beside the distances or classes of others, a true class in red, activations
    of another image, and columns that are mixed up."""
    model = load_trained(finished.parent)
    pack = open_data(model)
    shown = predictions.predict_split(model, pack, "train", index=[7, 30])
    found, text = image_sections.make_neighbors(model, pack, shown)
    assert text == "the nearest of 36 training images by conv1's activations after pooling"
    for one, label in zip(found, shown.labels, strict=True):
        assert len(one.nearest) == 6
        first = one.nearest[0]
        assert first.image.source == one.image.source
        assert first.distance == pytest.approx(0, abs=1e-4)
        assert first.label == one.label == CLASSES[label]
        assert [near.correct for near in one.nearest] == [
            near.label == one.label for near in one.nearest
        ]
        distances = [near.distance for near in one.nearest]
        assert distances == sorted(distances)
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


def test_a_residual_network(config: Config, tmp_path: Path) -> None:
    """Catches a page that fails for a model with branches, or compares its config with those of
    another family; columns in the captions of a model without columns."""
    network = resnet.get_config("sample")
    small = {"width": 2, "stage_sizes": (1,), "channels": 3, "num_classes": len(CLASSES)}
    network.data, network.model = config.data, fields.replace(network.model, small)
    network.batch_size, network.max_steps = BATCH, STEPS
    read = Read(made(save(tmp_path / "run", network, STEPS, records(STEPS, final=True))))
    assert read.ids == SECTIONS
    words = " ".join(read.text.split())
    assert "The nearest preset is configs/resnet.py:sample." in words
    assert "by conv2_1's activations, averaged over all pixels" in words
    assert "Activations of every hidden layer for image" in words
    assert "conv1: 2 channels of 12×12" in words
    assert "column 0" not in words


def test_names_of_classes_are_text(finished: Path) -> None:
    """Catches markup from a folder's name: in text, in an alt text, in a script of the page."""
    read = Read(finished.read_text(encoding="utf-8"))
    assert "<script>" in read.text
    assert "a & b" in read.text
    assert any("<script>" in image["alt"] for image in read.all("img"))
    assert read.all("script") == []


def test_the_page_of_an_interrupted_run(config: Config, tmp_path: Path) -> None:
    """Catches numbers of the final evaluation where there was none, and an unfinished model that
    passes for a finished one."""
    workdir = save(tmp_path / "half", config, 2, records(2, final=False))
    read = Read(made(workdir))
    assert read.ids == SECTIONS
    words = " ".join(read.text.split())
    assert "final, center view not run not run" in words
    assert "final, ten views not run not run" in words
    assert "test, center view, evaluated for this page" in words
    assert "training was interrupted, the config has 4 steps" in words


def test_imported_weights_without_images(config: Config, tmp_path: Path) -> None:
    """Catches a page that fails, downloads or prepares where there are neither images nor curves,
    and a section that goes without a word."""
    places = {"data.name": "imagenet2012", "data.dir": "", "data.pack_dir": ""}
    config = with_changes(config, {**places, "model.num_classes": 1000})
    names = tuple(f"n{i:08d}" for i in range(1000))
    mean = np.zeros((16, 16, 3), np.float32)
    model = TrainedModel(config, 0, init_variables(config), mean, names)
    convert.write_workdir(tmp_path / "zoo", model)
    read = Read(made(tmp_path / "zoo"))
    assert read.ids == ["errors", "left-out", *WITHOUT_IMAGES]
    assert "The weights were imported, not trained." in read.text
    assert "Learning curves: the model was imported, not trained" in read.text
    assert "confusion matrix and activations: there is no pack in …/imagenet2012-" in read.text


def test_a_pack_that_is_gone(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a page that makes the pack again, which for ImageNet takes hours, or that fails."""
    config = with_changes(config, {"data.pack_dir": str(tmp_path / "gone")})
    workdir = save(tmp_path / "run", config, STEPS, records(STEPS, final=True))
    read = Read(made(workdir))
    assert read.ids == ["errors", "left-out", "curves", *WITHOUT_IMAGES]
    assert not (tmp_path / "gone").exists()
    assert "there is no pack in …/gone; make it with python -m alexnet_jax.prepare" in read.text
    assert f"there is no pack in {tmp_path / 'gone'}" in capsys.readouterr().err


def test_another_split(finished: Path) -> None:
    """Catches --split that is not heeded, and a wrong one that is passed over."""
    html = made(finished.parent, "validation")
    assert "validation, center view, evaluated for this page" in html
    assert f"{len(CLASSES)} images of the validation split in their center view" in html
    with pytest.raises(InputError, match="--split=tests: folder has the splits train, validation"):
        made(finished.parent, "tests")


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
        ("no pack in /root/.cache/x/sample-1; make it", "no pack in …/sample-1; make it"),
        ("'/home/me/my pictures/'", "'…/my pictures/'"),
        ("--workdir=/tmp/run --output=~/a/b.html", "--workdir=…/run --output=…/b.html"),
        ("runs/seed-0/x, configs/a.py, 1/2", "runs/seed-0/x, configs/a.py, 1/2"),
    ],
)
def test_folders_of_this_machine_are_left_out(text: str, shown: str) -> None:
    """Catches a user's name in a page that is sent around, and relative paths cut short."""
    assert html_page.strip_folders(text) == shown


def test_the_command(finished: Path, tmp_path: Path) -> None:
    """Catches a wrong place, and a traceback where it cannot be written."""
    output = tmp_path / "page.html"
    workdir = f"--workdir={finished.parent}"
    good = run_here("report", workdir, f"--output={output}", package="experiments")
    assert (good.returncode, good.stdout) == (0, f"{output}\n"), good.stderr
    assert Read(output.read_text(encoding="utf-8")).ids == SECTIONS
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
    found = json.loads(Read(ended.stdout).all("body")[0]["data-found"])
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
