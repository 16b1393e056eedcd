"""Parameters in numbers and figures, and their norms over a run."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.tiny_model import tiny_config

from alexnet_jax import fields
from alexnet_jax.config import validated
from alexnet_jax.convert import write_workdir
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Metrics
from alexnet_jax.models.registry import init_variables
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.records import append_record, make_record
from alexnet_jax.trained import TrainedModel, load_trained
from configs import resnet
from experiments.figures import weights

STEPS = (2, 4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a run that kept every checkpoint, and one that began with its weights."""
    path = tmp_path_factory.mktemp("parameters")
    write_idx_set(path / "data", train=60, test=20)
    fields = dict(max_steps=STEPS[-1], checkpoint_every=2, keep_checkpoints=9)
    assert train_here(tiny_config(path / "data", **fields), path / "run") == 0
    later = tiny_config(path / "data", init_from=str(path / "run"))
    assert train_here(later, path / "later") == 0
    return path


def test_numbers_of_an_array() -> None:
    """Catches a norm of the mean, a standard deviation over n - 1, layers in the order of text,
    biases before kernels or left out of the sum, arrays deeper in the tree lost, and float32 where
    a large mean hides the spread."""
    params = {
        "conv10": {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.zeros(2, np.float32)},
        "conv2": {"kernel": np.array([4096, 4096.5] * 8, "f4"), "bias": np.array([3, 4], "f4")},
        "block11": {"conv1": {"kernel": np.ones(3, "f4")}},
    }
    layers = ["conv2", "relu2", "conv10", "block11/conv1"]
    rows = {row.path: row for row in weights.summarize_parameters(params, layers)}
    assert [*rows] == [
        *("conv2/kernel", "conv2/bias", "conv10/kernel", "conv10/bias"),
        "block11/conv1/kernel",
    ]
    assert rows["conv2/kernel"].mean == 4096.25
    assert rows["conv2/kernel"].std == 0.25
    assert rows["conv2/bias"].norm == 5
    assert rows["conv10/kernel"].shape == (2, 3)
    text = weights.format_parameters(params, layers)
    assert text.splitlines()[-1] == "| all | | 29 | | | |"
    assert "| conv10/kernel | 2 × 3 | 6 | +2.0000 | 0.0000 | 4.90 |" in text


def test_norms_from_the_start_to_the_end(folder: Path) -> None:
    """Catches checkpoints left out or mixed up, and a start that is not where the run began."""
    model = load_trained(folder / "run")
    found = weights.load_norm_history(folder / "run")
    assert found.steps == [0, *STEPS]
    ends = {0: init_variables(model.config)["params"], -1: model.params}
    layers = weights.layer_order(model.config)
    for at, params in ends.items():
        for name, array in weights.ordered_arrays(params, layers).items():
            expected = np.sqrt(np.sum(np.square(array, dtype=np.float64)))
            np.testing.assert_allclose(found.norms[name][at], expected, rtol=1e-12)
    assert len(set(found.norms["conv1/kernel"])) == 4
    left, right = weights.plot_norms(found).axes
    for line, name in zip(left.lines[:4], ("conv1", "conv2", "fc6", "fc8"), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_ydata(), found.norms[f"{name}/kernel"])
        np.testing.assert_array_equal(line.get_xdata(), found.steps)
    assert [np.asarray(line.get_ydata())[0] for line in right.lines[:4]] == [1.0] * 4


def test_norms_without_damaged_checkpoints(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches: a traceback for a checkpoint that is damaged or was deleted by the run, also for the
    newest one, which could be read before."""
    model = load_trained(folder / "run")
    workdir = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    monkeypatch.setattr(weights, "load_trained", lambda _: model)
    whole = weights.load_norm_history(workdir).norms["conv1/kernel"]
    for step, left in ((2, (0, 4, 6)), (6, (0, 4))):
        shutil.rmtree(workdir / "checkpoints" / f"step_{step}" / "variables")
        found = weights.load_norm_history(workdir)
        assert found.steps == [*left]
        assert found.norms["conv1/kernel"] == [whole[i // 2] for i in left]
        assert f"left out: step {step} of {workdir}: " in capsys.readouterr().err
    shutil.rmtree(workdir / "checkpoints" / "step_4")
    with pytest.raises(InputError, match=r"^no checkpoint of .* can be read"):
        weights.load_norm_history(workdir)


def test_norms_of_imported_weights(folder: Path, tmp_path: Path) -> None:
    """Catches: step 0, the only one of imported weights, taken for no checkpoint."""
    config = tiny_config(folder / "data", **{"model.num_classes": 5})
    names, mean = tuple("abcde"), np.zeros((28, 28, 1), np.float32)
    model = TrainedModel(validated(config), 0, init_variables(config), mean, names)
    write_workdir(tmp_path / "imported", model)
    found = weights.load_norm_history(tmp_path / "imported")
    assert (found.steps, found.drops) == ([0], [])
    left, _ = weights.plot_norms(found).axes
    assert np.asarray(left.lines[0].get_ydata()).tolist() == found.norms["conv1/kernel"] != [0]


def test_where_the_rate_was_divided(tmp_path: Path, folder: Path) -> None:
    """Catches marks at every record, at the first one, or one record too early."""
    workdir = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (workdir / "metrics.jsonl").unlink()
    metrics = Metrics(loss=1.0, top1_error=0.5, top5_error=0.0, count=8)
    for step, rate in ((1, 0.1), (3, 0.1), (5, 0.01)):
        record = make_record(step, 1.0, "train", metrics)
        append_record(workdir, {**record, "learning_rate": rate, "images_per_second": 1.0})
    append_record(workdir, make_record(6, 1.0, "validation", metrics))
    assert weights.load_norm_history(workdir).drops == [5]


def test_a_start_that_is_not_known(folder: Path) -> None:
    """Catches random numbers shown as the start of a model that began with another's weights."""
    assert weights.initial_params(load_trained(folder / "later")) is None
    assert weights.load_norm_history(folder / "later").steps == [3]


@pytest.mark.parametrize(("name", "start"), [("run", ["initial"]), ("later", [])])
def test_histograms_of_every_layer_and_column(folder: Path, name: str, start: list[str]) -> None:
    """Catches a layer or a column left out, and columns that are shown as one."""
    model = load_trained(folder / name)
    figure = weights.plot_histograms(model)
    drawn = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in drawn] == ["conv1", "conv2", "fc6", "fc8"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*start, "column 0", "column 1"]
    shapes = [patch for patch in drawn[1].patches if not patch.get_fill()]
    outlines = [np.asarray(shape.get_path().vertices) for shape in shapes]
    assert len(outlines) == 2
    assert not np.array_equal(outlines[0], outlines[1])


def test_histograms_of_a_model_of_one_column(folder: Path) -> None:
    """Catches rows of a kernel without a column axis that are shown as its columns, and a column
    named where there is one."""
    config = tiny_config(folder / "data", **{"model.num_columns": 1, "model.num_classes": 5})
    model = dataclasses.replace(
        load_trained(folder / "run"), config=config, variables=init_variables(config)
    )
    figure = weights.plot_histograms(model)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["initial", "trained"]


@pytest.fixture(scope="module")
def residual() -> TrainedModel:
    """Return an untrained residual network of 20 layers."""
    config = resnet.get_config("sample")
    config.model = fields.replace(config.model, {"width": 1, "num_classes": 3})
    variables = init_variables(config)
    return TrainedModel(config, 0, variables, np.zeros((28, 28, 1), np.float32), ("a", "b", "c"))


def test_arrays_of_a_residual_network(residual: TrainedModel) -> None:
    """Catches layers in the order of text, where fc comes before conv2_1 and conv2_10 before
    conv2_2, and a normalization that is not beside its convolution."""
    arrays = weights.ordered_arrays(residual.params, weights.layer_order(residual.config))
    assert [*arrays][:5] == [
        *("conv1/kernel", "bn1/bias", "bn1/scale"),
        *("conv2_1/conv1/kernel", "conv2_1/bn1/bias"),
    ]
    assert [*arrays][-2:] == ["fc/kernel", "fc/bias"]
    assert len(arrays) == len(leaves_by_path(residual.params))


def test_figures_of_many_layers(residual: TrainedModel) -> None:
    """Catches a figure with a histogram of each of hundreds of layers, without the first or the
    last one, and a legend longer than the figure."""
    figure = weights.plot_histograms(residual)
    titles = [axis.get_title() for axis in figure.axes]
    assert (titles[0], titles[-1], len(titles)) == ("conv1", "fc", weights.MAX_LAYERS)
    assert figure.get_suptitle() == "12 of 20 layers"
    norms = {f"conv{i}/kernel": [1.0, float(i)] for i in range(1, 41)}
    left, _ = weights.plot_norms(weights.NormHistory([0, 5], norms, [])).axes
    assert len(left.lines) == 40
    assert len({tuple(line.get_color()) for line in left.lines}) == 40
    _, labels = left.get_legend_handles_labels()
    assert (labels[0], labels[-1], len(labels)) == ("conv1", "conv40", weights.MAX_LAYERS)


def test_batch_normalizations(residual: TrainedModel, folder: Path) -> None:
    """Catches variances for standard deviations, scales beside another layer's, and a traceback
    for a model without batch normalization."""
    params = dict(residual.params)
    params["bn1"] = {**params["bn1"], "scale": np.array([5.0])}
    stats = dict(residual.variables["batch_stats"])
    stats["bn1"] = {**stats["bn1"], "var": np.array([9.0])}
    model = dataclasses.replace(residual, variables={"params": params, "batch_stats": stats})
    scales, deviations = weights.plot_batch_norms(model).axes
    for axis, first in ((scales, 5), (deviations, 3)):
        medians = [line for line in axis.lines if line.get_color() == "C0"]
        assert np.asarray(medians[0].get_ydata())[0] == first
        assert np.asarray(medians[-1].get_ydata())[0] == 1
    labels = [label.get_text() for label in deviations.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("bn1", "conv4_3/bn2")
    with pytest.raises(InputError, match="has no batch normalization"):
        weights.plot_batch_norms(load_trained(folder / "run"))
