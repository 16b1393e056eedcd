"""The command that draws a run, and the drawings."""

import io
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import processes
import pytest
from data_fixtures import write_folder
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from alexnet_jax import train
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import claim
from experiments import figures, html, plots

DATA_FREE = ("kernels", "curves")


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of colour pictures, which lies beside it."""
    directory = tmp_path_factory.mktemp("colour")
    write_folder(directory / "pictures" / "train", dict(a=20, b=20, c=20))
    write_folder(directory / "pictures" / "test", dict(a=4, b=5, c=4), seed=7)
    path = processes.write_config(directory, directory / "pictures")
    config = runpy.run_path(str(path))["get_config"]()
    config.update(dict(max_steps=6, checkpoint_every=6))
    config.data.name, config.model.channels = "folder", 3
    pack = prepare(config.data, progress=False)
    with claim(directory / "run"):
        assert train.train(train.complete(config, pack), pack, directory / "run") == 0
    return directory / "run"


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_every_picture_of_a_run(colour: Path) -> None:
    """Catches a picture that is named and not drawn, or drawn and not named, and a blank one."""
    ended = processes.run("figures", f"--workdir={colour}", package="experiments")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [str(colour / f"{name}.png") for name in figures.NAMES]
    assert "left out" not in ended.stderr
    for name in figures.NAMES:
        pixels = np.asarray(Image.open(colour / f"{name}.png").convert("RGB"))
        assert pixels.min() < 100, name
        assert (pixels == 255).mean() > 0.02, name


def test_the_images_asked_for(colour: Path) -> None:
    """Catches other images than asked for, labels beside the wrong one, and the true class
    unmarked or marked elsewhere."""
    made = figures.Figures(colour, "test", images=(12, 0))
    figure = made.make("predictions")
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_xlabel() for axis in shown] == ["c", "a"]
    names = [path.stem for path in sorted((colour.parent / "pictures/test/c").iterdir())]
    source = Image.open(colour.parent / f"pictures/test/c/{names[-1]}.png")
    small = np.asarray(source.resize((28, 28), Image.Resampling.BICUBIC))[1:27, 1:27]
    (image,) = shown[0].findobj(AxesImage)
    np.testing.assert_array_equal(np.asarray(image.get_array()), small)
    bars = [axis for axis in figure.axes if axis.patches]
    for axis, label, shares in zip(bars, "ca", made.shown.probabilities, strict=True):
        (ticked,) = (text.get_text() for text in axis.texts if "✓" in text.get_text())
        assert ticked == f"{label} ✓"
        widths = [bar.get_width() for bar in axis.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose(widths, np.sort(shares)[::-1])
    assert "Image 12 of the test split: c" in texts(made.make("activations"))


def test_a_training_image_is_its_own_neighbour(colour: Path) -> None:
    """Catches neighbours from another split, pictures beside the distances of others, and more
    images looked through than allowed."""
    made = figures.Figures(colour, "train", images=(5, 40), among=10_000)
    figure = made.make("neighbours")
    shown = np.array([axis for axis in figure.axes if axis.images]).reshape(2, 7)
    for row in shown:
        query, nearest = (np.asarray(axis.images[0].get_array()) for axis in row[:2])
        np.testing.assert_array_equal(nearest, query)
        distances = [float(axis.get_xlabel().split("\n")[1]) for axis in row[1:]]
        assert distances[0] == 0
        assert distances == sorted(distances)
    few = figures.Figures(colour, "train", images=(5,), among=4).make("neighbours")
    assert sum(bool(axis.images) for axis in few.axes) == 1 + 4
    assert any("nearest of 4 training images" in text for text in texts(few))


def test_without_the_images(colour: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches imported weights that get no kernels because there are no images, curves of a net
    that was not trained, and pictures left out without a word."""
    workdir = tmp_path / "run"
    shutil.copytree(colour, workdir)
    (workdir / "metrics.jsonl").unlink()
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "nowhere")
    (workdir / "config.json").write_text(json.dumps(config))
    made = figures.Figures(workdir)
    assert [name for name, _ in figures.draw(made, figures.NAMES, needed=False)] == ["kernels"]
    of_images, curves = capsys.readouterr().err.splitlines()
    listed = ", ".join(name for name in figures.NAMES if name not in DATA_FREE)
    assert of_images.startswith(f"left out: {listed}: ")
    assert "nowhere" in of_images
    assert curves.startswith("left out: curves: ")
    assert "no metrics.jsonl" in curves
    for name in ("curves", "predictions"):
        with pytest.raises(InputError):
            list(figures.draw(made, [name], needed=True))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--only=kernels,kernel", "--only=kernels,kernel: kernel is none of kernels, curves,"),
        ("--images=3,x", "--images=3,x: x is no number from 0 on"),
        ("--images=-1", "--images=-1: -1 is no number from 0 on"),
    ],
)
def test_wrong_flags(flag: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback, a place that counts from the end, and a typo passed over."""
    values = figures.flags.FlagValues()
    figures.define_flags(values)
    values(["figures", "--workdir=anywhere", flag])
    monkeypatch.setattr(figures.flags, "FLAGS", values)
    with pytest.raises(InputError) as raised:
        figures.main([])
    assert message in str(raised.value)


def test_images_and_splits_that_do_not_exist(colour: Path) -> None:
    """Catches everything else drawn as if nothing had been asked for."""
    for made, message in (
        (figures.Figures(colour, images=(13,)), "image 13 of test does not exist"),
        (figures.Figures(colour, "tset"), "--split=tset: folder has the splits train, "),
    ):
        with pytest.raises(InputError, match=message):
            list(figures.draw(made, figures.NAMES, needed=True))


def test_kernels_say_what_their_columns_are() -> None:
    """Catches numbers under the wrong column, and a picture that leaves them out."""
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 2))
    figure = plots.plot_kernels(kernel, (0.25, 0.5), "what there is to say")
    assert texts(figure) == [
        "conv1, column 0: 2 kernels of 3×3, colorfulness 0.25",
        "conv1, column 1: 2 kernels of 3×3, colorfulness 0.50",
        "what there is to say",
    ]
    grey = plots.plot_kernels(kernel[:1, :, :, :1])
    assert texts(grey) == ["conv1, column 0: 2 kernels of 3×3"]


def test_a_kernel_is_scaled_by_itself() -> None:
    """Catches zero that is not mid-grey, and a strong kernel that darkens the others."""
    kernel = np.zeros((1, 1, 2, 3, 2))
    kernel[0, 0, 0, :, 0], kernel[0, 0, 1, :, 1] = (2, -1, 0), (0, 0, 1e-3)
    axes = plots.plot_kernels(kernel).axes[:2]
    first, second = (np.asarray(axis.images[0].get_array()) for axis in axes)
    np.testing.assert_allclose(first[0], [(1, 0.25, 0.5), (0.5, 0.5, 0.5)])
    np.testing.assert_allclose(second[0], [(0.5, 0.5, 0.5), (0.5, 0.5, 1)])


def test_confusions_of_few_and_of_many_classes() -> None:
    """Catches a matrix of a thousand classes that nobody can read, pairs the wrong way round, and
    a net without a mistake; a synset's number for a reader."""
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
    assert "no image was taken for another class" in texts(none)


def test_names_with_dollars() -> None:
    """Catches a class's name that is set as a formula, or that ends the command where it is none
    that can be set."""
    figure = plots.plot_confusion(np.eye(2, dtype=int), ["$A_$", "$_$B"])
    figure.savefig(io.BytesIO())
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["$A_$", "$_$B"]


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
    ids=["kernels", "curves", "predictions", "neighbours", "activations", "confusion"],
)
def test_dollars_are_plain_in_this_figure_alone(draw: Callable[[], Figure]) -> None:
    """Catches a figure that sets names as formulas, and a setting of Matplotlib's that is left
    changed for other figures of the process."""
    figure = draw()
    assert any(DOLLARS in text for text in texts(figure))
    figure.savefig(io.BytesIO())
    assert matplotlib.rcParams["text.parse_math"]


def test_a_page_leaves_matplotlib_as_it_was() -> None:
    """Catches the salt of a page's SVG left for other figures, and a figure whose SVG is another
    one every time."""
    first, second = (html.embed_figure(plots.plot_curves([], ""), "").source for _ in range(2))
    assert first.startswith("data:image/svg+xml")
    assert first == second
    assert matplotlib.rcParams["svg.hashsalt"] is None
