"""The benchmarks of the data run, small; what they measure is not asserted."""

import sys

import numpy as np
import pytest
import torch
from helpers import processes
from PIL import Image

from alexnet_jax.errors import InputError
from experiments.benchmark import (
    input_benchmarks,
    memory,
    scaling,
    scaling_benchmarks,
    torch_input,
)
from experiments.benchmark.cases import (
    CASES,
    SCALING,
    format_result,
    result_names,
    run_cases,
    write_scaling_plot,
)
from experiments.benchmark.scaling import fit_line

RATIO = {
    "images_per_second",
    "reference_images_per_second",
    "reference",
    "ratio",
    "ratio_low",
    "ratio_high",
}


@pytest.mark.parametrize(
    "name", ["input_pipeline/decoder", "input_pipeline/raw_pack", "prepare/decode_resize"]
)
def test_cases_with_a_reference(monkeypatch, name):
    """Catches a case that no longer fits what it calls, and a result that lacks a number."""
    monkeypatch.setattr(input_benchmarks, "_IMAGES", 12)
    monkeypatch.setattr(input_benchmarks, "_STEPS", 1)
    monkeypatch.setattr(input_benchmarks, "_PREPARED", 12)
    (result,) = CASES[name,]((name,), 1)
    result = {"name": name, **result}
    assert result.keys() >= RATIO
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert f"{name}: " in format_result(result)


def test_the_reference_input_is_that_of_torchvision(tmp_path):
    """Catches crops of another size, pixels of 0…255, channels last, a flip that never comes."""
    ramp = np.broadcast_to(np.linspace(0, 255, 40)[:, None], (40, 40, 3)).astype(np.uint8)
    for number in range(2):
        Image.fromarray(ramp).save(tmp_path / f"{number}.jpg")
    dataset = torch_input.JpegImages(tmp_path, 32)
    images = torch.stack([dataset[0][0] for _ in range(40)])
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 1 < images.abs().max() < 4  # (1 - 0.4) / 0.2, and some light
    flipped = images[:, :, :, 0].mean((1, 2)) > images[:, :, :, -1].mean((1, 2))
    assert {True, False} == set(flipped.tolist())
    torch_input.BatchReader(tmp_path, crop=32, batch_size=4, batches=3, workers=0)()


def test_evaluation_grows(monkeypatch):
    """Catches sizes that are not what was evaluated, and a line fitted through other points."""
    monkeypatch.setattr(scaling_benchmarks, "_EVALUATION_SIZES", (20, 40, 60))
    result = scaling_benchmarks.time_evaluation(1)
    assert [size for size, _ in result["points"]] == [20, 40, 60]
    assert scaling.fit_line(result["points"]) == result
    assert "straight line" in format_result({"name": "evaluate_scaling", **result})


def test_a_straight_line():
    """Catches slope and intercept exchanged, and a deviation in seconds in place of a share."""
    line = fit_line([(1, 3.0), (2, 5.0), (10, 21.0)])
    assert line["seconds_each"] == pytest.approx(2)
    assert line["seconds_before"] == pytest.approx(1)
    assert line["largest_deviation"] < 1e-9
    assert 0.05 < fit_line([(1, 3.0), (2, 5.0), (10, 26.0)])["largest_deviation"] < 0.5


def test_scaling_plot():
    """Catches an image's time that is not the whole time divided by the images, another line than
    that through the points, and panels interchanged."""
    measured = {"a": fit_line([(1, 3.0), (2, 5.0)]), "b": fit_line([(4, 2.0), (8, 3.0)])}
    axes = scaling.plot_scaling(measured).axes
    assert [axis.get_title() for axis in axes[:2]] == ["a", "b"]
    assert [np.asarray(axis.lines[1].get_xydata()).tolist() for axis in axes[:3]] == [
        [[1, 3], [2, 5]],
        [[4, 2], [8, 3]],
        [[1, 3000], [2, 2500]],
    ]
    lines = [np.asarray(axis.lines[0].get_xydata())[[0, -1]] for axis in axes[:3]]
    np.testing.assert_allclose(lines, [[[1, 3], [2, 5]], [[4, 2], [8, 3]], [[1, 3000], [2, 2500]]])


def test_a_figure_of_what_was_measured(tmp_path):
    """Catches a run whose figure is missed after minutes, for a name that is none of a case."""
    assert set(SCALING) <= set(result_names(CASES))

    def case(wanted, repeats):
        return [fit_line([(1, 3.0), (2, 5.0)]) for _ in wanted]

    cases = {("evaluate_scaling",): case, ("startup", "sample"): case}
    results = list(run_cases(cases, ["evaluate_scaling", "sample"], repeats=1))
    assert [result["name"] for result in results] == ["evaluate_scaling", "sample"]
    assert write_scaling_plot(results, tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["input_pipeline/torch_dataloader", "train_step/torch_eager", "train_step_memory"]
)
def test_missing_pytorch_is_named(monkeypatch, name):
    """Catches a traceback, or a step that is compiled before the message."""
    monkeypatch.setattr("experiments.benchmark.synthetic_step.SyntheticTrainStep", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        InputError,
        match=r"^a case with PyTorch .* needs torch, which is not installed; .*'\.\[test\]'",
    ):
        list(run_cases(CASES, [name], repeats=1))


@pytest.mark.parametrize(
    ("only", "flag", "expected"),
    [
        ("startup", "--output=out", "a plot of train_step_scaling or evaluate_scaling, none of"),
        ("startup", "--budget=8m", "--budget is for --platform"),
        ("evaluate_scaling", "--output=README.md", "--output=README.md cannot be written to: File"),
    ],
)
def test_what_cannot_be_given_is_refused(only, flag, expected):
    """Catches a run that ends, minutes later, without what was asked for."""
    ended = processes.run("benchmark", f"--only={only}", flag, package="experiments")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert expected in ended.stderr


def test_memory_of_a_process(tmp_path):
    """Catches images that cannot be prepared or read, and a peak in another unit than MiB."""
    scaling_benchmarks.link_images(tmp_path / "images", 220)
    data = scaling_benchmarks.small_data_config(tmp_path)
    prepared = memory.call_in_new_process(scaling_benchmarks._measure_preparing, data)
    assert 10 < prepared < 2000
    assert 10 < memory.call_in_new_process(scaling_benchmarks._measure_reading, data) < 4000
