"""The benchmarks of the training step run, small; what they measure is not asserted."""

import json

import jax
import numpy as np
import processes
import pytest

from alexnet_jax import train
from experiments import memory, step_benchmarks
from experiments.benchmark import CASES, names, text


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
    assert "images/s" in text(result)


def test_names_are_those_of_kinds() -> None:
    """Catches two results of one name, and a kind of peer that no name ends with."""
    known = names(CASES)
    assert len(set(known)) == len(known)
    assert {"train_step/torch_eager", "train_step/torch_compile"} <= set(known)


def test_peak_is_of_the_call() -> None:
    """Catches a peak from before the call, and one that misses what the call freed again."""
    before = np.ones(2**25)  # 256 MiB, freed before
    del before
    held, peak = memory.peak_during(lambda: np.ones(2**24).sum())  # 128 MiB
    assert peak - held == pytest.approx(128, abs=64)


def test_restored_arrays_are_all_of_them(tmp_path, monkeypatch) -> None:
    """Catches a checkpoint without the velocity, whose reading would look cheap."""
    monkeypatch.setattr(step_benchmarks, "paper", step_benchmarks.sample)
    size = step_benchmarks._save(str(tmp_path))
    params = jax.tree.leaves(
        jax.eval_shape(lambda: train.init_state(step_benchmarks.sample())).params
    )
    assert size * 2**20 == 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in params)
    peak, kept = step_benchmarks._restore(str(tmp_path))
    assert peak >= kept
