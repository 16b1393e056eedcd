"""The benchmarks of the training step run, small; what they measure is not asserted."""

import json

import jax
import numpy as np
import processes
import pytest
from ml_collections import ConfigDict

from alexnet_jax import train
from experiments import benchmark, memory, step_benchmarks, steps
from experiments.benchmark import CASES, format_result, result_names


def test_the_step_beside_pytorch() -> None:
    """Catches a peer that no longer fits the config, and a result that lacks a number.

    In a process of its own: PyTorch's compiler does not bear all the libraries of the tests.
    """
    ran = processes.run(
        *("benchmark", "--only=sample_train_step/torch_eager", "--repeats=1", "--json"),
        package="experiments",
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["peer"].startswith("eager, ")
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert "images/s" in format_result(result)


def test_names_are_those_of_kinds() -> None:
    """Catches two results of one name, and a kind of peer that no name ends with."""
    known = result_names(CASES)
    assert len(set(known)) == len(known)
    assert {"train_step/torch_eager", "train_step/torch_compile"} <= set(known)


def test_peak_is_of_the_call() -> None:
    """Catches a peak from before the call, and one that misses what the call freed again."""
    before = np.ones(2**25)  # 256 MiB, freed before
    del before
    held, after, peak = memory.peak_during(lambda: np.ones(2**24).sum())  # 128 MiB
    assert peak - held == pytest.approx(128, abs=64)
    assert after - held < 64


def test_restored_arrays_are_all_of_them(tmp_path, monkeypatch) -> None:
    """Catches a checkpoint without the velocity, whose reading would look cheap."""
    monkeypatch.setattr(step_benchmarks, "paper", step_benchmarks.sample)
    size = step_benchmarks._save(str(tmp_path))
    params = jax.tree.leaves(
        jax.eval_shape(lambda: train.init_state(step_benchmarks.sample())).params
    )
    assert size * 2**20 == 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in params)
    trees = step_benchmarks._read(str(tmp_path))
    assert size * 2**20 == sum(array.nbytes for array in jax.tree.leaves(trees))
    _, kept = step_benchmarks._restore(str(tmp_path))
    assert kept > 0


def test_growth_of_a_step(monkeypatch) -> None:
    """Catches steps of another batch than is said, and a case whose result has no name here."""
    monkeypatch.setattr(step_benchmarks, "paper", step_benchmarks.sample)
    monkeypatch.setattr(step_benchmarks, "BATCHES", (8, 16))
    seen = []

    class Seen(steps.TrainStep):
        def __init__(self, config: ConfigDict) -> None:
            seen.append(config.batch_size)
            super().__init__(config)

    monkeypatch.setattr(steps, "TrainStep", Seen)
    (result,) = benchmark.run_cases(CASES, ["train_step_growth"], repeats=1)
    assert seen == [size for size, _ in result["points"]] == [8, 16]
    assert result["name"] in benchmark.GROWTH
