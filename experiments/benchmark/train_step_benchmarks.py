"""Benchmark the training step against PyTorch's: time, memory, and time by batch size.

The cases [MODEL_]train_step/…, [MODEL_]train_step_memory, restore_memory and train_step_scaling of
experiments.benchmark. Without MODEL they are those of the paper's model.
"""

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.config import Config, with_changes
from alexnet_jax.extras import check_installed
from alexnet_jax.machine import available_cores
from alexnet_jax.memory import return_freed_memory
from configs import cifar, googlenet, resnet, vgg
from configs.alexnet import get_config
from experiments.benchmark.memory import call_in_new_process, peak_during
from experiments.benchmark.scaling import fit_line
from experiments.benchmark.timing import OURS, Result, add_rates, compare_times, time_interleaved

LAYOUTS = ("contiguous", "channels_last")
BATCHES = (16, 32, 64, 128, 256, 512)


def paper_config() -> Config:
    """Return the config of the paper's model, batch 128."""
    return with_changes(get_config(), {"model.num_classes": 1000})


def vgg_config() -> Config:
    """Return the config of VGG's model D, batch 16."""
    return with_changes(vgg.get_config(), {"model.num_classes": 1000, "batch_size": 16})


def googlenet_config() -> Config:
    """Return the config of GoogLeNet with its auxiliary classifiers, batch 16."""
    return with_changes(googlenet.get_config(), {"model.num_classes": 1000, "batch_size": 16})


def resnet18_config() -> Config:
    """Return the config of ResNet-18 for ImageNet, batch 16."""
    return with_changes(resnet.get_config("18"), {"model.num_classes": 1000, "batch_size": 16})


def resnet50_config() -> Config:
    """Return the config of ResNet-50, batch 16."""
    return with_changes(resnet.get_config("50"), {"model.num_classes": 1000, "batch_size": 16})


def resnet20_config() -> Config:
    """Return the config of ResNet-20 for CIFAR-10, batch 128."""
    return with_changes(resnet.get_config("cifar20"), {"model.num_classes": 10})


def cifar_18pct_config() -> Config:
    """Return the config of the authors' 18pct for CIFAR-10, batch 128."""
    return with_changes(cifar.get_config("18pct"), {"model.num_classes": 10})


def cifar_13pct_config() -> Config:
    """Return the config of the authors' 13pct for CIFAR-10, batch 128."""
    return with_changes(cifar.get_config("13pct"), {"model.num_classes": 10})


def sample_config() -> Config:
    """Return the config of the sample's model."""
    return with_changes(get_config("sample"), {"model.num_classes": 10})


def time_train_step(config: Config, repeats: int, kinds: tuple[str, ...]) -> list[Result]:
    """Time the whole training step on random images against PyTorch's, all in one run.

    Args:
        kinds: of "eager" and "compile"; the reference of each is the faster of two memory layouts.

    Returns:
        For each kind the result of `compare_times`, with images_per_second and
        reference_images_per_second.

    Raises:
        InputError: PyTorch is not installed.
    """
    check_installed("test", "a case with PyTorch (--only names others)", "torch")
    from experiments.benchmark.synthetic_step import SyntheticTrainStep

    calls: dict[str, Callable[[], None]] = {OURS: SyntheticTrainStep(config)}
    for kind in kinds:
        for layout in LAYOUTS:
            calls[f"{kind}, {layout}"] = _make_torch_step(config, kind, layout)
    seconds = time_interleaved(calls, repeats)
    results = []
    for kind in kinds:
        result = compare_times(seconds, [name for name in calls if name.startswith(kind)])
        results.append(add_rates(result, config.batch_size))
    return results


def _make_torch_step(config: Config, kind: str, layout: str) -> Callable[[], None]:
    """Return PyTorch's training step on all cores.

    Args:
        config: with its number of classes.
        kind: "eager" or "compile".
        layout: one of LAYOUTS.
    """
    import torch

    from experiments.benchmark.torch_reference import TorchTrainStep

    torch.set_num_threads(available_cores())
    formats = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    return TorchTrainStep(config, formats[layout], compiled=kind == "compile")


def measure_step_memory(make_config: Callable[[], Config]) -> Result:
    """Measure the most memory that a process holds during a training step, after compiling.

    Our step and PyTorch's eager one, in both memory layouts, run in a new process each. After the
    first step freed memory is returned to the operating system, as in training; PyTorch's, too.

    Args:
        make_config: function at the top level of a module, as new processes need.

    Raises:
        InputError: PyTorch is not installed.
    """
    check_installed("test", "a case with PyTorch (--only names others)", "torch")
    peaks = {layout: call_in_new_process(_torch_peak, make_config, layout) for layout in LAYOUTS}
    peaks[OURS] = call_in_new_process(_jax_peak, make_config)
    reference = min(LAYOUTS, key=lambda layout: peaks[layout])
    return {
        "mib": peaks[OURS],
        "reference": f"eager, {reference}",
        "reference_mib": peaks[reference],
        "ratio": peaks[reference] / peaks[OURS],
        "summary": f"{peaks[OURS]:,.0f} MiB, reference (eager, {reference}) "
        f"{peaks[reference]:,.0f} MiB",
    }


def measure_restore_memory(repeats: int) -> Result:
    """Measure what reading a checkpoint of the paper's model adds to a process: peak and end.

    At least the difference of the two was in transit: freed memory may still be counted.
    """
    del repeats
    with tempfile.TemporaryDirectory() as folder:
        size = call_in_new_process(_save_checkpoint, folder)
        peak, kept = call_in_new_process(_measure_reading, folder)
    summary = (
        f"reading {size:,.0f} MiB of parameters and optimizer state adds {peak:,.0f} MiB at the "
        f"peak, {kept:,.0f} MiB in the end"
    )
    return {"mib": peak, "kept_mib": kept, "state_mib": size, "summary": summary}


def time_scaling(repeats: int) -> Result:
    """Time a step of the paper's model for batches of 16 to 512, alternately.

    Their states are held at the same time, 465 MiB each.
    """
    from experiments.benchmark.synthetic_step import SyntheticTrainStep

    calls: dict[str, Callable[[], None]] = {}
    for batch in BATCHES:
        config = with_changes(paper_config(), {"batch_size": batch})
        calls[str(batch)] = SyntheticTrainStep(config)
    seconds = time_interleaved(calls, repeats)
    return fit_line([(batch, statistics.median(seconds[str(batch)])) for batch in BATCHES])


def _jax_peak(make_config: Callable[[], Config]) -> float:
    """Return the most memory that this process holds in the second training step, in MiB."""
    from experiments.benchmark.synthetic_step import SyntheticTrainStep

    step = SyntheticTrainStep(make_config())
    step()
    return_freed_memory()
    return peak_during(step)[2]


def _torch_peak(make_config: Callable[[], Config], layout: str) -> float:
    """Return what `_jax_peak` does, of PyTorch's eager step in a memory layout."""
    step = _make_torch_step(make_config(), "eager", layout)
    step()
    return_freed_memory()
    return peak_during(step)[2]


def _save_checkpoint(folder: str) -> float:
    """Save a checkpoint of a state of the paper's model; return the MiB of its arrays.

    All arrays are noise: zeros, as in the first optimizer state, would take no memory when read.
    """
    import jax

    from alexnet_jax.checkpoint import Checkpoints

    draw = np.random.default_rng(0).standard_normal
    variables, optimizer = jax.tree.map(
        lambda leaf: jax.device_put(draw(leaf.shape, leaf.dtype)), _abstract_trees()
    )
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, variables, optimizer, np.zeros((1, 1, 3), np.float32), {})
    return sum(array.nbytes for array in jax.tree.leaves([variables, optimizer])) / 2**20


def _measure_reading(folder: str) -> tuple[float, float]:
    """Return the MiB that reading the checkpoint adds at the peak, and in the end."""
    trees: list[Any] = []
    before, after, peak = peak_during(lambda: trees.extend(_read_checkpoint(folder)))
    return peak - before, after - before


def _read_checkpoint(folder: str) -> tuple[Any, Any]:
    """Read the parameters and the optimizer state of the checkpoint as a resumed run does."""
    from alexnet_jax.checkpoint import Checkpoints

    variables, optimizer = _abstract_trees()
    with Checkpoints(folder) as checkpoints:
        return checkpoints.variables(1, variables), checkpoints.train_state(1, optimizer)


def _abstract_trees() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return shapes and shardings of the parameters and the optimizer state in a checkpoint."""
    from alexnet_jax import sharding
    from alexnet_jax.train_step import abstract_state

    config = paper_config()
    state = abstract_state(config, sharding.make_mesh(config.parallel))
    return {"params": state.params}, {"opt_state": state.opt_state}
