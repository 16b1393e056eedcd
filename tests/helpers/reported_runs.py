"""Make runs for the tests of the report, and parse its pages."""

from html.parser import HTMLParser
from pathlib import Path

from alexnet_jax import run_config
from alexnet_jax.config import Config, with_changes
from alexnet_jax.metrics import Metrics
from alexnet_jax.models.ops import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.prepare import prepare
from alexnet_jax.records import Record, make_record
from alexnet_jax.trained import load_trained
from configs.alexnet import get_config
from experiments.report import content
from helpers.image_sets import write_folder
from helpers.saved_run import save_run

CLASSES = ("<script>", "a & b", "c", "d", "e", "f")
SECTIONS = ["errors", "curves", "predictions", "neighbors", "mistakes", "confusion", "kernels"]
SECTIONS += ["activations", "layers", "config", "made"]
WITHOUT_IMAGES = ["kernels", "layers", "config", "made"]
VOID = {"meta", "img", "br"}
STEPS, BATCH, IMAGES = 4, 8, 36


class ReadPage(HTMLParser):
    """Parse a page into elements and text, and check that every element is closed."""

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


def make_reported_config(folder: Path) -> Config:
    """Return the config of a small model in color, on noise in the folder whose pack is made."""
    for split, count in (("train", 6), ("validation", 1), ("test", 5)):
        write_folder(folder / split, dict.fromkeys(CLASSES, count), side=16, seed=len(split))
    places = {"data.name": "folder", "data.dir": str(folder), "data.pack_dir": str(folder / "pack")}
    sizes = {"data.image_size": 16, "data.crop": 12, "batch_size": BATCH, "max_steps": STEPS}
    conv1 = Conv(4, kernel=3, stride=3, padding=(1, 1))
    ops = dict(conv1=conv1, relu1=ReLU(), norm1=LRN(), pool1=MaxPool(), fc8=Dense(0))
    changes = {**places, **sizes, "model.channels": 3, "model.ops": ops}
    config = with_changes(get_config("sample"), changes)
    return run_config.complete_config(config, prepare(config.data, progress=False))


def make_records(step: int, *, final: bool) -> list[Record]:
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


def save_reported_run(workdir: Path, config: Config, step: int, lines: list[Record]) -> Path:
    """Make the folder that training would leave after a step, with the initial parameters."""
    return save_run(workdir, config, step, lines, CLASSES, IMAGES)


def make_reported_page(workdir: Path, split: str | None = None) -> str:
    """Return the page of a run."""
    return content.make_page(workdir, load_trained(workdir), split, [f"--workdir={workdir}"])
