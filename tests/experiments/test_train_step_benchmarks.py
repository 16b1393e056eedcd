"""The benchmarks of the training step run, small; what they measure is not asserted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import processes

from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.layers.lrn import within_channel_lrn
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Dropout,
    LocalConv,
    MaxPool,
    ReLU,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.models.registry import abstract_variables
from configs import alexnet, cifar, one_weird_trick, source2012
from experiments.benchmark import memory, synthetic_step, train_step_benchmarks
from experiments.benchmark.cases import CASES, SCALING, format_result, result_names, run_cases
from experiments.benchmark.torch_reference import (
    TorchLocalConv,
    TorchSequential,
    TorchWithinChannelLRN,
    make_torch_model,
)


def test_the_step_beside_pytorch() -> None:
    """Catches a reference that no longer fits the config, and a result that lacks a number.

    In a process of its own: PyTorch's compiler does not bear all the libraries of the tests.
    """
    ran = processes.run(
        *("benchmark", "--only=sample_train_step/torch_eager", "--repeats=1", "--json"),
        package="experiments",
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["reference"].startswith("eager, ")
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert "images/s" in format_result(result)


@pytest.mark.parametrize(
    "config",
    [
        *(alexnet.get_config(f"sample{words}") for words in ("", ",no_communication,tanh")),
        alexnet.get_config("sample,one_column,no_overlap"),
        source2012.get_config("sample"),
        one_weird_trick.get_config(),
        cifar.get_config("13pct"),
        cifar.get_config("80sec"),
    ],
    ids=[
        "columns",
        "no communication",
        "one column",
        "2012",
        "pools rounded down",
        "local",
        "means",
    ],
)
def test_the_reference_is_the_model_of_the_config(config: Config) -> None:
    """Catches a reference that lacks an op, connects separate groups, or pools to another size:
    each changes its parameters, its layers or the shape of its output."""
    config = with_changes(config, {"model.num_classes": 10})
    ops = sequential_model(config).ops.values()
    reference = make_torch_model(config).eval()
    assert isinstance(reference, TorchSequential)
    ours = jax.tree.leaves(abstract_variables(config)["params"])
    assert sum(p.numel() for p in reference.parameters()) == sum(leaf.size for leaf in ours)
    images = torch.ones(2, config.model.channels, config.data.crop, config.data.crop)
    assert reference(images)[0].shape == (2, 10)
    for op, layer in (
        *((ReLU, torch.nn.ReLU), (Tanh, torch.nn.Tanh), (LRN, torch.nn.LocalResponseNorm)),
        *((MaxPool, torch.nn.MaxPool2d), (Dropout, torch.nn.Dropout)),
        *((AvgPool, torch.nn.AvgPool2d), (LocalConv, TorchLocalConv)),
        (WithinChannelLRN, TorchWithinChannelLRN),
    ):
        wanted = sum(isinstance(one, op) for one in ops)
        assert sum(isinstance(one, layer) for one in reference) == wanted, op


def test_within_channel_lrn_of_the_reference() -> None:
    """Catches an alpha that is divided once too often, and means over what lies outside."""
    x = np.random.default_rng(0).normal(0, 30, (2, 7, 6, 3)).astype(np.float32)
    op = WithinChannelLRN(size=3)
    ours = within_channel_lrn(jnp.asarray(x), op.size, op.k, op.coefficient(), op.beta)
    reference = TorchWithinChannelLRN(op)(torch.from_numpy(x).permute(0, 3, 1, 2))
    np.testing.assert_allclose(reference.permute(0, 2, 3, 1).numpy(), ours, rtol=1e-5)


def test_local_convolution_of_the_reference() -> None:
    """Catches: weights of one place used at another, and pixels or channels in another order."""
    op = LocalConv(4, kernel=3, stride=2, padding=(1, 1))
    reference = TorchLocalConv(op, inputs=2, side=3)
    x = torch.randn(2, 2, 5, 5)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    y = reference(x)
    for i, j in np.ndindex(3, 3):
        patch = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten(1)
        expected = patch @ reference.kernel[3 * i + j] + reference.bias[3 * i + j]
        torch.testing.assert_close(y[:, :, i, j], expected)


def test_names_are_those_of_kinds() -> None:
    """Catches two results of one name, and a kind of reference that no name ends with."""
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
    """Catches a checkpoint without the optimizer state, whose reading would look cheap."""
    monkeypatch.setattr(train_step_benchmarks, "paper_config", train_step_benchmarks.sample_config)
    size = train_step_benchmarks._save_checkpoint(str(tmp_path))
    params = jax.tree.leaves(abstract_variables(train_step_benchmarks.sample_config())["params"])
    assert size * 2**20 == 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in params)
    trees = train_step_benchmarks._read_checkpoint(str(tmp_path))
    assert size * 2**20 == sum(array.nbytes for array in jax.tree.leaves(trees))
    _, kept = train_step_benchmarks._measure_reading(str(tmp_path))
    assert kept > 0


@pytest.mark.slow
def test_scaling_of_a_step(monkeypatch) -> None:
    """Catches steps of another batch size than reported, and a result that has no scaling plot."""
    monkeypatch.setattr(train_step_benchmarks, "paper_config", train_step_benchmarks.sample_config)
    monkeypatch.setattr(train_step_benchmarks, "BATCHES", (8, 16))
    seen = []

    class Seen(synthetic_step.SyntheticTrainStep):
        def __init__(self, config: Config) -> None:
            seen.append(config.batch_size)
            super().__init__(config)

    monkeypatch.setattr(synthetic_step, "SyntheticTrainStep", Seen)
    (result,) = run_cases(CASES, ["train_step_scaling"], repeats=1)
    assert seen == [size for size, _ in result["points"]] == [8, 16]
    assert result["name"] in SCALING
