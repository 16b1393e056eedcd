"""What channels respond to: patches, channels and checkpoints that are chosen, and the plots."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers.image_sets import random_pixels, write_folder
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config
from matplotlib.figure import Figure

from alexnet_jax.analysis.invariance import SCALE, InvarianceCurves
from alexnet_jax.analysis.occlusion import OcclusionMaps
from alexnet_jax.analysis.receptive_fields import compute_receptive_fields
from alexnet_jax.analysis.strongest import Strongest
from alexnet_jax.config import sequential_model, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.model_data import open_data
from alexnet_jax.models.ops import Conv, Dense, MaxPool, Op, ReLU
from alexnet_jax.trained import TrainedModel, load_trained
from experiments.figures import channel_plots, tiles
from experiments.figures.channels import (
    FILL,
    ChannelPatches,
    Evolution,
    Projector,
    checkpoint_variables,
    choose_channels,
    compute_channel_patches,
    compute_evolution,
    convolution_ops,
    cut_field,
    find_peak,
    spread_steps,
)
from experiments.figures.predictions import (
    compute_image_activations,
    first_conv_kernels,
    load_crops,
)
from experiments.figures.workdir_figures import Figures

OPS: dict[str, Op] = dict(
    conv1=Conv(4, kernel=5, stride=2, padding=(1, 2)), relu1=ReLU(), pool1=MaxPool(),
    conv2=Conv(4, kernel=3, padding=(1, 1)), relu2=ReLU(),
    fc3=Dense(0),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with three checkpoints on color images, whose model takes blue first."""
    directory = tmp_path_factory.mktemp("channels")
    write_folder(directory / "images" / "train", dict(a=8, b=8, c=8))
    write_folder(directory / "images" / "test", dict(a=4, b=5, c=4), seed=7)
    changes = {
        "max_steps": 6,
        "checkpoint_every": 2,
        "data.name": "folder",
        "model.channels": 3,
        "model.ops": OPS,
        "data.channel_order": "bgr",
        "data.std": (1.0, 2.0, 4.0),
        "model.num_columns": 1,
    }
    config = tiny_config(directory / "images", **changes)
    assert train_here(config, directory / "run") == 0
    return directory / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_trained(run)


def test_a_patch_at_the_edge() -> None:
    """Catches a patch that is displaced or rolled over to the other edge, and one of a unit that
    sees the whole image which is not that image."""
    image = np.arange(12 * 12 * 1).reshape(12, 12, 1)
    ops: dict[str, Op] = dict(conv1=Conv(1, kernel=5, stride=3, padding=(2, 2)), fc2=Dense(0))
    fields = compute_receptive_fields(ops, crop=12)
    np.testing.assert_array_equal(cut_field(image, fields["conv1"], 1, 2, FILL), image[1:6, 4:9])
    corner = cut_field(image, fields["conv1"], 0, 3, FILL)
    np.testing.assert_array_equal(corner[2:], image[:3, 7:12])
    assert (corner[:2] == FILL).all()
    assert cut_field(image, fields["fc2"], 0, 0, FILL) is image


def test_the_peak_and_the_channels() -> None:
    """Catches the position of another channel; a channel that is never active shown before one
    that is, and another choice every time."""
    activations = random_pixels(3, 3, 4).astype(float)
    activations[1, 2, 3] = 300
    peak = find_peak(activations)
    assert (peak.channel, peak.position) == (3, (1 * 3 + 2) * 4 + 3)
    of_channel = find_peak(activations, 1)
    row, column, channel = np.unravel_index(of_channel.position, activations.shape)
    assert channel == of_channel.channel == 1
    assert activations[row, column, 1] == activations[..., 1].max()
    values = np.where(np.arange(20)[:, None] % 2, np.ones((1, 3)), 0.0)
    strongest = Strongest(values, values.astype(int), values.astype(int))
    chosen = choose_channels(strongest, 12)
    assert (chosen[:10] % 2 == 1).all()
    assert len({*chosen}) == 12
    assert choose_channels(strongest, 12).tolist() == chosen.tolist()


def test_the_projection_of_layer_1_is_in_true_colors(model: TrainedModel) -> None:
    """Catches a projection or a gradient in the model's order of channels or in its units.

    `first_conv_kernels` divides the kernels by std, as a gradient with respect to pixels does. A
    projection multiplies by std instead, which turns inputs into pixels.
    """
    crops = load_crops(model, open_data(model), "test", [0, 5])
    activations = [compute_image_activations(model, crop)["conv1"] for crop in crops]
    peaks = [find_peak(each[3:8, 3:8]) for each in activations]
    positions, expected, gradients = [], [], []
    for each, peak in zip(activations, peaks, strict=True):
        row, column, channel = (
            int(i) + offset
            for i, offset in zip(np.unravel_index(peak.position, (5, 5, 4)), (3, 3, 0), strict=True)
        )
        positions.append((row * each.shape[1] + column) * 4 + channel)
        kernel = first_conv_kernels(model)[0, ..., channel] * np.array([1, 2, 4]) ** 2
        expected.append(each[row, column, channel] * kernel / model.config.data.scale)
        gradients.append(first_conv_kernels(model)[0, ..., channel] * model.config.data.scale)
    projector = Projector(model)
    projected = projector.project("conv1", crops, np.array(positions))
    found = projector.cut("conv1", projected, np.array(positions), fill=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    gradient = projector.cut(
        "conv1",
        projector.project("conv1", crops, np.array(positions), "gradient"),
        np.array(positions),
        0,
    )
    np.testing.assert_allclose(gradient, gradients, rtol=1e-4)


def test_patches_of_the_strongest(model: TrainedModel) -> None:
    """Catches patches of other images or positions than the projections', and channels beside the
    values of others."""
    layers = convolution_ops(model.config)
    assert layers == {"conv1": "relu1", "conv2": "relu2"}
    found = compute_channel_patches(
        Projector(model), open_data(model), "test", layers, channels=3, count=2
    )
    crops = load_crops(model, open_data(model), "test", np.arange(13))
    activations = [compute_image_activations(model, crop) for crop in crops]
    field = compute_receptive_fields(sequential_model(model.config).ops, len(crops[0]))["relu1"]
    assert len(found["conv1"]) == len(found["conv2"]) == 3
    for channel in found["conv1"]:
        peaks = [find_peak(each["relu1"], channel.channel) for each in activations]
        values = np.array([each["relu1"].ravel()[p.position] for each, p in zip(
            activations, peaks, strict=True)])  # fmt: skip
        best = np.argsort(-values, kind="stable")[:2]
        np.testing.assert_allclose(channel.values, values[best], rtol=1e-5)
        for patch, image in zip(channel.patches, best, strict=True):
            shape = activations[0]["relu1"].shape
            row, column, _ = np.unravel_index(peaks[image].position, shape)
            expected = cut_field(crops[image], field, int(row), int(column), FILL)
            np.testing.assert_array_equal(patch, expected)
    assert found["conv2"][0].projections.shape == found["conv2"][0].patches.shape


def test_the_evolution_of_a_run(model: TrainedModel, run: Path) -> None:
    """Catches checkpoints in another order, the newest parameters under an older step, a start
    without the initial parameters, and other channels at other steps."""
    pack = open_data(model)
    index = np.arange(pack.splits["train"].count)
    layers = convolution_ops(model.config)
    projector = Projector(model)
    found = compute_evolution(projector, run, pack, layers, 2, index)["conv1"]
    assert found.steps == [0, 2, 4, 6]
    kernels = {}
    steps, load = checkpoint_variables(model, run)
    for number, step in enumerate(steps):
        variables = load(step)
        assert variables is not None
        kernels[step] = np.asarray(variables["params"]["conv1"]["kernel"])[..., ::-1, :]
        for row, channel in enumerate(found.channels):
            signal = found.projections[row, number] / np.array([1, 2, 4])
            kernel = kernels[step][..., channel]
            seen = signal != 0  # the rest is outside the image
            cosine = (signal * kernel)[seen].sum() / np.linalg.norm(signal[seen])
            assert cosine / np.linalg.norm(kernel[seen]) == pytest.approx(1, abs=1e-4)
    assert not any(np.array_equal(kernels[6], kernels[step]) for step in (0, 2, 4))
    found_now = compute_channel_patches(projector, pack, "train", layers, channels=2, count=1)[
        "conv1"
    ]
    for row, now in enumerate(found_now):
        assert now.channel == found.channels[row]
        np.testing.assert_allclose(now.projections[0], found.projections[row, -1], rtol=1e-4)
        np.testing.assert_array_equal(now.patches[0], found.patches[row])


def test_an_evolution_without_damaged_checkpoints(
    model: TrainedModel, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: a traceback for an older checkpoint that is damaged or was deleted by the run; the
    remaining steps under wrong numbers; a figure of the initial parameters alone."""
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "step_4" / "variables")
    pack, projector = open_data(model), Projector(model)
    layers, index = {"conv1": "relu1"}, np.arange(4)
    found = compute_evolution(projector, workdir, pack, layers, 2, index)["conv1"]
    assert found.steps == [0, 2, 6]
    assert found.projections.shape[:2] == (2, 3)
    assert capsys.readouterr().err.startswith(f"left out: step 4 of {workdir}: ")
    for step in (2, 6):
        shutil.rmtree(workdir / "checkpoints" / f"step_{step}" / "variables")
    with pytest.raises(InputError, match=r"^no checkpoint of .* can be read"):
        compute_evolution(projector, workdir, pack, layers, 2, index)


def test_the_data_are_opened_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: the data opened again for every checkpoint and layer, with the same line on stderr
    each time."""
    images = run.parent / "images"
    images.rename(run.parent / "elsewhere")
    try:
        Figures(run).make("evolution")
    finally:
        (run.parent / "elsewhere").rename(images)
    assert capsys.readouterr().err.count("does not exist; using the pack") == 1


def test_a_run_with_one_checkpoint(model: TrainedModel, run: Path) -> None:
    """Catches an evolution of a single step, for a run that began with other parameters."""
    started = TrainedModel(
        with_changes(model.config, {"init_from": "elsewhere"}), 2, model.variables,
        model.mean_image, model.class_names,
    )  # fmt: skip
    with pytest.raises(InputError, match="has one checkpoint; expected several"):
        checkpoint_variables(started, run)


def test_steps_are_spread() -> None:
    """Catches the first or the last step left out, more steps than wanted, and a step twice."""
    assert spread_steps([200, 400], 8) == [200, 400]
    steps = spread_steps(range(10, 1010, 10), 6)
    assert (steps[0], steps[-1], len(steps)) == (10, 1000, 6)
    assert steps == sorted({*steps})
    ratios = np.divide(steps[1:], steps[:-1])
    assert ratios.max() / ratios.min() < 2


def test_zero_is_gray_and_tiles_are_in_order() -> None:
    """Catches zero that is not mid-gray, a signal scaled by its range, and tiles that are
    transposed or overlap."""
    np.testing.assert_allclose(tiles.scale_signed(np.array([-1.0, 0, 4])), [0.375, 0.5, 1])
    assert (tiles.scale_signed(np.zeros(3)) == 0.5).all()
    images = np.arange(5.0)[:, None, None, None] / 10 * np.ones((1, 2, 2, 1))
    expected = np.array([[0.0, 0.1, 0.2], [0.3, 0.4, 1]])
    mosaic = channel_plots.tile(images)
    assert mosaic.shape == (5, 8, 1)
    np.testing.assert_allclose(mosaic[::3, ::3, 0], expected)
    np.testing.assert_allclose(mosaic[1::3, 1::3, 0], expected)
    assert (mosaic[2] == 1).all()


DOLLARS = "$A_$"  # as a formula it cannot be set
SIGNAL = np.zeros((1, 4, 4, 3))
PIXELS = SIGNAL.astype(np.uint8)
LABELS = np.array([0])
MAPS = OcclusionMaps(np.arange(3), 2, np.ones((3, 3, 1)), np.ones((3, 3, 5)))
CURVES = InvarianceCurves(SCALE, np.ones(2), {"relu1": np.ones((2, 1))}, np.ones((2, 1)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: channel_plots.plot_strongest(
            {"conv1": [ChannelPatches(0, np.ones(1), SIGNAL, PIXELS)]}, DOLLARS
        ),
        lambda: channel_plots.plot_evolution(
            {"conv1": Evolution([1, 2], LABELS, np.zeros((1, 2, 4, 4, 3)), PIXELS)}, DOLLARS
        ),
        lambda: channel_plots.plot_projections(PIXELS, [DOLLARS], {"gradient": SIGNAL}, DOLLARS),
        lambda: channel_plots.plot_occlusion(
            PIXELS, LABELS, [MAPS], LABELS, SIGNAL, [DOLLARS], "relu5", DOLLARS
        ),
        lambda: channel_plots.plot_invariance([CURVES], [SIGNAL], LABELS, [DOLLARS], DOLLARS),
    ],
    ids=["strongest", "evolution", "projections", "occlusion", "invariance"],
)
def test_dollars_are_plain(draw: Callable[[], Figure]) -> None:
    """Catches a figure that sets names as formulas, and a setting of Matplotlib's that is left
    changed."""
    draw().savefig(io.BytesIO())
    assert matplotlib.rcParams["text.parse_math"]


def test_a_map_lies_over_its_image() -> None:
    """Catches a map that is stretched over the whole image or displaced: the square of 2 pixels
    covers the pixels 0 and 1 first, whose common edge is at 0.5 in units of pixels."""
    figure = channel_plots.plot_occlusion(PIXELS, LABELS, [MAPS], LABELS, SIGNAL, ["a"], "relu5")
    for axis in (figure.axes[i] for i in (1, 3, 4)):
        assert [*axis.images[0].get_extent()] == [0, 3, 3, 0]
        assert axis.get_xlim() == (-0.5, 3.5)
