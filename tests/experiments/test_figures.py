"""The command that plots a run, and the figures."""

import dataclasses
import importlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
import pytest
from helpers.explored_run import make_explored_run
from helpers.image_sets import write_folder
from helpers.in_process import run_here, train_here
from helpers.tiny_model import tiny_config
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from alexnet_jax.errors import InputError
from alexnet_jax.records import Record
from configs import resnet
from experiments import html_page
from experiments.figures import __main__ as figures_command
from experiments.figures import fonts, plots, workdir_figures
from experiments.figures.predictions import sample_index

pytestmark = pytest.mark.usefixtures("quick_to_compile")

DATA_FREE = ("kernels", "curves")


@pytest.fixture(scope="module")
def color_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on a folder of color images, which lies beside it."""
    directory = tmp_path_factory.mktemp("color")
    write_folder(directory / "images" / "train", dict(a=20, b=20, c=20))
    write_folder(directory / "images" / "test", dict(a=4, b=5, c=4), seed=7)
    changes = {"max_steps": 6, "checkpoint_every": 6, "data.name": "folder", "model.channels": 3}
    config = tiny_config(directory / "images", **changes)
    assert train_here(config, directory / "run") == 0
    return directory / "run"


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_every_figure_of_a_run(color_run: Path) -> None:
    """Catches a figure that is listed and not plotted, or plotted and not listed; a blank one."""
    ended = run_here("figures", f"--workdir={color_run}", package="experiments")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        str(color_run / f"{name}.png") for name in workdir_figures.NAMES
    ]
    assert "left out" not in ended.stderr
    for name in workdir_figures.NAMES:
        pixels = np.asarray(Image.open(color_run / f"{name}.png").convert("RGB"))
        assert pixels.min() < 100, name
        assert (pixels == 255).mean() > 0.02, name


@pytest.mark.slow
def test_every_figure_of_a_residual_network(tmp_path: Path) -> None:
    """Catches a figure that fails for a model with branches, or is left out."""
    network = resnet.get_config("sample").model
    run = make_explored_run(tmp_path, network, width=2, stage_sizes=(1, 1))
    made = workdir_figures.Figures(run)
    figures = dict(workdir_figures.make_figures(made, workdir_figures.NAMES, needed=True))
    assert [*figures] == [*workdir_figures.NAMES]
    shown = texts(figures["strongest"])
    assert "conv2_1, patches of 7×7 pixels" in shown
    assert any("projected to pixels (gradient)" in text for text in shown)
    titles = [axis.get_title() for axis in figures["projections"].axes]
    assert titles[:2] == ["image", "gradient"]


def test_the_images_asked_for(color_run: Path) -> None:
    """Catches other images than asked for, labels beside the wrong one, and the true class
    unmarked or marked elsewhere."""
    made = workdir_figures.Figures(color_run, "test", images=(12, 0))
    figure = made.make("predictions")
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_xlabel() for axis in shown] == ["c", "a"]
    names = [path.stem for path in sorted((color_run.parent / "images/test/c").iterdir())]
    source = Image.open(color_run.parent / f"images/test/c/{names[-1]}.png")
    small = np.asarray(source.resize((28, 28), Image.Resampling.BICUBIC))[1:27, 1:27]
    (image,) = shown[0].findobj(AxesImage)
    np.testing.assert_array_equal(np.asarray(image.get_array()), small)
    bars = [axis for axis in figure.axes if axis.patches]
    for axis, label, shares in zip(bars, "ca", made.shown.probabilities, strict=True):
        (ticked,) = (text.get_text() for text in axis.texts if "✓" in text.get_text())
        assert ticked == f"{label} ✓"
        widths = [bar.get_width() for bar in axis.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose(widths, np.sort(shares)[::-1])
    assert "Image 12 of the test split:\nc" in texts(made.make("activations"))


def test_neighbors_of_training_images(color_run: Path) -> None:
    """Catches an image among its own neighbors, neighbors out of order, more images searched than
    allowed, and a failure where only the image itself is searched."""
    made = workdir_figures.Figures(color_run, "train", images=(5, 40), neighbors_among=10_000)
    figure = made.make("neighbors")
    shown = np.array([axis for axis in figure.axes if axis.images]).reshape(2, 7)
    for row in shown:
        query, *nearest = (np.asarray(axis.images[0].get_array()) for axis in row)
        assert not any(np.array_equal(one, query) for one in nearest)
        distances = [float(axis.get_xlabel().split("\n")[1]) for axis in row[1:]]
        assert distances == sorted(distances)
    images = (int(sample_index(60, 1)[0]),)  # among those searched
    few = workdir_figures.Figures(color_run, "train", images, neighbors_among=4).make("neighbors")
    assert sum(bool(axis.images) for axis in few.axes) == 1 + 3
    assert any("nearest of 4 training images" in text for text in texts(few))
    with pytest.raises(InputError, match="is the image itself"):
        workdir_figures.Figures(color_run, "train", images, neighbors_among=1).make("neighbors")


def test_the_evolution_among_few_images(color_run: Path) -> None:
    """Catches more images searched than allowed, and a run's start left out."""
    figure = workdir_figures.Figures(color_run, evolution_among=4).make("evolution")
    assert "The strongest activation of channels\non 4 training images, projected to pixels" in (
        texts(figure)
    )
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["step 0", "step 6", "image"]


def test_without_the_images(color_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches imported weights that get no kernels because there are no images, curves of a model
    that was not trained, and figures left out without a message."""
    workdir = tmp_path / "run"
    shutil.copytree(color_run, workdir)
    (workdir / "metrics.jsonl").unlink()
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "nowhere")
    (workdir / "config.json").write_text(json.dumps(config))
    made = workdir_figures.Figures(workdir)
    assert [
        name for name, _ in workdir_figures.make_figures(made, workdir_figures.NAMES, needed=False)
    ] == ["kernels"]
    of_images, curves = capsys.readouterr().err.splitlines()
    listed = ", ".join(name for name in workdir_figures.NAMES if name not in DATA_FREE)
    assert of_images.startswith(f"left out: {listed}: ")
    assert "nowhere" in of_images
    assert curves.startswith("left out: curves: ")
    assert "no records of training" in curves
    for name in ("curves", "predictions"):
        with pytest.raises(InputError):
            list(workdir_figures.make_figures(made, [name], needed=True))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--only=kernels,kernel", "--only=kernels,kernel: kernel is none of kernels, curves,"),
        ("--images=3,x", "--images=3,x: x is no number from 0 on"),
        ("--images=-1", "--images=-1: -1 is no number from 0 on"),
    ],
)
def test_wrong_flags(flag: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback, an index that counts from the end, and a typo passed over."""
    values = figures_command.flags.FlagValues()
    figures_command.define_flags(values)
    values(["figures", "--workdir=anywhere", flag])
    monkeypatch.setattr(figures_command.flags, "FLAGS", values)
    with pytest.raises(InputError) as raised:
        figures_command.main([])
    assert message in str(raised.value)


def test_images_and_splits_that_do_not_exist(color_run: Path) -> None:
    """Catches everything else plotted as if nothing had been asked for."""
    for made, message in (
        (workdir_figures.Figures(color_run, images=(13,)), "image 13 of test does not exist"),
        (workdir_figures.Figures(color_run, "tset"), "--split=tset: folder has the splits train, "),
    ):
        with pytest.raises(InputError, match=message):
            list(workdir_figures.make_figures(made, workdir_figures.NAMES, needed=True))


def test_kernels_are_titled_by_column() -> None:
    """Catches numbers under the wrong column, and a figure that leaves them out."""
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 2))
    figure = plots.plot_kernels(kernel, (0.25, 0.5), "a line of text")
    assert texts(figure) == [
        "conv1, column 0: 2 kernels of 3×3, colorfulness 0.25",
        "conv1, column 1: 2 kernels of 3×3, colorfulness 0.50",
        "a line of text",
    ]
    gray = plots.plot_kernels(kernel[:1, :, :, :1])
    assert texts(gray) == ["conv1: 2 kernels of 3×3"]


def test_a_kernel_is_scaled_by_itself() -> None:
    """Catches zero that is not mid-gray, and a strong kernel that darkens the others."""
    kernel = np.zeros((1, 1, 2, 3, 2))
    kernel[0, 0, 0, :, 0], kernel[0, 0, 1, :, 1] = (2, -1, 0), (0, 0, 1e-3)
    axes = plots.plot_kernels(kernel).axes[:2]
    first, second = (np.asarray(axis.images[0].get_array()) for axis in axes)
    np.testing.assert_allclose(first[0], [(1, 0.25, 0.5), (0.5, 0.5, 0.5)])
    np.testing.assert_allclose(second[0], [(0.5, 0.5, 0.5), (0.5, 0.5, 1)])


def test_confusions_of_few_and_of_many_classes() -> None:
    """Catches a matrix of a thousand classes that nobody can read, pairs the wrong way round, and
    a model without a mistake; a synset's number for a reader."""
    counts = np.diag([5, 6, 7])
    counts[0, 2] = 3
    matrix = plots.plot_confusion(counts, ["ant", "bee", "cat"], "title")
    (axis,) = matrix.axes
    places = {text.get_position(): text.get_text() for text in axis.texts}
    assert places == {(0, 0): "5", (1, 1): "6", (2, 2): "7", (2, 0): "3"}
    many = np.diag(np.full(1000, 5))
    many[7, 400], many[3, 2] = 4, 2
    names = [f"class {c}" for c in range(1000)]
    names[7] = "n01440764"
    (axis,) = plots.plot_confusion(many, names).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["tench → class 400", "class 3 → class 2"]
    assert [text.get_text() for text in axis.texts] == [" 4 of 9", " 2 of 7"]
    none = plots.plot_confusion(np.diag(np.full(30, 5)), ["x"] * 30)
    assert "no image is misclassified" in texts(none)


def test_names_with_dollars() -> None:
    """Catches a class's name that is set as a formula, or that ends the command where it is none
    that can be set."""
    figure = plots.plot_confusion(np.eye(2, dtype=int), ["$A_$", "$_$B"])
    figure.savefig(io.BytesIO())
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["$A_$", "$_$B"]


def test_long_names(color_run: Path) -> None:
    """Catches a class's name that is cut off at the edge of a figure: one that is not shortened."""
    made = workdir_figures.Figures(color_run, "test", images=(12, 0))
    made.names = tuple(f"{x}, of a name that does not end for very long" * 4 for x in "abc")
    for name in ("projections", "activations"):
        figure = made.make(name)
        FigureCanvasAgg(figure).draw()
        shown = [t for t in figure.findobj(Text) if "of a name" in t.get_text()]
        assert shown
        for text in shown:
            extent = text.get_window_extent()
            assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1, name


def test_names_that_no_font_can_draw(color_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches boxes in place of letters, of which Matplotlib warns for each figure, a message for
    each of them, and a number in place of a name that can be drawn."""
    made = workdir_figures.Figures(color_run, "test", images=(12, 0))
    assert made.pack.class_names == ("a", "b", "c")  # it is opened by the names of its folders
    made.model = dataclasses.replace(made.model, class_names=("é", "\U0010fffd", "c"))
    for name in ("confusion", "activations"):
        made.make(name).savefig(io.BytesIO())
    (axis,) = made.make("confusion").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["é", "class 1", "c"]
    report = capsys.readouterr().err
    assert report.count("Figures have numbers for 1 of 3 class names, such as class 1 for") == 1


def test_fonts_of_other_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a font for Korean that is installed and not used, one that is not installed, and
    letters of another font than Matplotlib's where that has them."""
    try:
        with monkeypatch.context() as patch:
            patch.setattr(font_manager, "get_font_names", lambda: ["Malgun Gothic", "Times"])
            importlib.reload(fonts)
        text = fonts.plain_text(lambda: Text(0, 0, "한"))()
    finally:
        importlib.reload(fonts)
    assert text.get_fontfamily() == ["sans-serif", "Malgun Gothic"]


DOLLARS = "$A_$"  # as a formula it cannot be set
PIXELS = np.zeros((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_kernels(np.ones((1, 2, 2, 3, 2)), text=DOLLARS),
        lambda: plots.plot_curves([], DOLLARS),
        lambda: plots.plot_predictions(PIXELS, np.array([0]), np.ones((1, 1)), [DOLLARS], DOLLARS),
        lambda: plots.plot_neighbors(
            PIXELS, np.array([0]), PIXELS[None], np.array([[0]]), np.ones((1, 1)), [DOLLARS]
        ),
        lambda: plots.plot_activations(PIXELS[0], {"fc6": np.ones((1, 8))}, DOLLARS),
        lambda: plots.plot_confusion(4 - np.eye(30, dtype=int), [DOLLARS] * 30, DOLLARS),
    ],
    ids=["kernels", "curves", "predictions", "neighbors", "activations", "confusion"],
)
def test_dollars_are_plain_in_this_figure_alone(draw: Callable[[], Figure]) -> None:
    """Catches a figure that sets names as formulas, and a setting of Matplotlib's that is left
    changed for other figures of the process."""
    figure = draw()
    assert any(DOLLARS in text for text in texts(figure))
    figure.savefig(io.BytesIO())
    assert matplotlib.rcParams["text.parse_math"]


def test_curves_of_a_run_that_was_continued() -> None:
    """Catches a line for the final error of the former last step, and one of a run that has not
    been evaluated since; validation in the legend of a run without it, or left out of another."""
    shared = dict(loss=1.0, top5_error=0.0, count=8, learning_rate=0.1, images_per_second=1.0)
    found = [
        cast(Record, dict(shared, step=step, epoch=step / 20, **fields))
        for step, fields in (
            (20, dict(split="train", top1_error=0.5)),
            (20, dict(split="test", top1_error=0.25, views="ten")),
            (40, dict(split="train", top1_error=0.25)),
            (40, dict(split="test", top1_error=0.125, views="center")),
            (40, dict(split="test", top1_error=0.125, views="ten")),
        )
    ]
    lines = [
        plots.plot_curves(records, "").axes[0].get_legend_handles_labels()[1]
        for records in (found, found[:3])
    ]
    assert lines == [["train", "test, ten views: 12.50 %"], ["train"]]
    found.append(cast(Record, dict(found[2], split="validation")))
    (axis,) = plots.plot_curves(found[:1] + found[-1:], "").axes
    assert axis.get_legend_handles_labels()[1] == ["train", "validation"]


def test_a_page_leaves_matplotlib_as_it_was() -> None:
    """Catches the salt of a page's SVG left for other figures, and a figure whose SVG is another
    one every time."""
    first, second = (html_page.embed_figure(plots.plot_curves([], ""), "").source for _ in range(2))
    assert first.startswith("data:image/svg+xml")
    assert first == second
    assert matplotlib.rcParams["svg.hashsalt"] is None
