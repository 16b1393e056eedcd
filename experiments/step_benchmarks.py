"""The training step beside PyTorch's: its time, its memory; its time as batches grow.

And what reading a checkpoint takes.

The cases train_step/…, sample_train_step/…, train_step_memory, restore_memory and
train_step_growth of experiments.benchmark.
"""

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data.parallel_map import available_cores
from alexnet_jax.errors import InputError
from configs.alexnet import get_config
from experiments.growth import straight_line
from experiments.memory import in_a_process, peak_during
from experiments.race import OURS, Result, compare, take_turns

LAYOUTS = ("contiguous", "channels_last")
BATCHES = (16, 32, 64, 128, 256, 512)


def paper() -> ConfigDict:
    """The paper's net, batch 128."""
    config = get_config()
    config.model.classes = 1000
    return config


def sample() -> ConfigDict:
    """The sample's net."""
    config = get_config("sample")
    config.model.classes = 10
    return config


def train_step(config: ConfigDict, repeats: int, kinds: tuple[str, ...]) -> list[Result]:
    """The whole training step on random images against PyTorch's, all in one run.

    Args:
        kinds: of "eager" and "compile"; of each the better of two memory layouts is the peer.

    Returns:
        For each kind what `compare` says, with images_per_second and peer_images_per_second.
    """
    from experiments.steps import TrainStep

    calls: dict[str, Callable[[], None]] = {OURS: TrainStep(config)}
    for kind in kinds:
        for layout in LAYOUTS:
            calls[f"{kind}, {layout}"] = _peer(config, kind, layout)
    seconds = take_turns(calls, repeats)
    results = []
    for kind in kinds:
        result = compare(seconds, [name for name in calls if name.startswith(kind)])
        rate, peer = (config.batch_size / result[k] for k in ("seconds", "peer_seconds"))
        results.append({"images_per_second": rate, "peer_images_per_second": peer, **result})
    return results


def _peer(config: ConfigDict, kind: str, layout: str) -> Callable[[], None]:
    try:
        import torch
    except ImportError:
        raise InputError(
            "the peer is PyTorch, which is not installed; pip install -r requirements-test.txt, "
            "or name other cases with --only"
        ) from None
    from experiments.peers import TrainStep

    torch.set_num_threads(available_cores())
    formats = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    return TrainStep(config, formats[layout], compiled=kind == "compile")


def memory(repeats: int) -> Result:
    """The most memory that a process holds during a training step, after it has compiled.

    Each is measured in a process of its own: ours, and PyTorch's eager step in both layouts.
    """
    del repeats
    peaks = {layout: in_a_process(_peak_of_peer, layout) for layout in LAYOUTS}
    peaks[OURS] = in_a_process(_peak_of_ours)
    peer = min(LAYOUTS, key=lambda layout: peaks[layout])
    return {
        "mib": peaks[OURS],
        "peer": f"eager, {peer}",
        "peer_mib": peaks[peer],
        "ratio": peaks[peer] / peaks[OURS],
        "summary": f"{peaks[OURS]:,.0f} MiB, peer (eager, {peer}) {peaks[peer]:,.0f} MiB",
    }


def restore_memory(repeats: int) -> Result:
    """What reading a checkpoint of the paper's net adds to a process, at the most and in the end.

    The difference of both was in transit, at least: what has been freed may still be counted.
    """
    del repeats
    with tempfile.TemporaryDirectory() as folder:
        size = in_a_process(_save, folder)
        peak, kept = in_a_process(_restore, folder)
    summary = (
        f"reading {size:,.0f} MiB of parameters and velocity adds {peak:,.0f} MiB at the peak, "
        f"{kept:,.0f} MiB in the end"
    )
    return {"mib": peak, "kept_mib": kept, "state_mib": size, "summary": summary}


def growth(repeats: int) -> Result:
    """Seconds of a step of the paper's net for batches of 16 to 512, which take turns.

    Their states are held at the same time, 465 MiB each.
    """
    from experiments.steps import TrainStep

    calls: dict[str, Callable[[], None]] = {}
    for batch in BATCHES:
        config = paper()
        config.batch_size = batch
        calls[str(batch)] = TrainStep(config)
    seconds = take_turns(calls, repeats)
    return straight_line([(batch, statistics.median(seconds[str(batch)])) for batch in BATCHES])


def _peak_of_ours() -> float:
    from experiments.steps import TrainStep

    step = TrainStep(paper())
    step()
    return peak_during(step)[2]


def _peak_of_peer(layout: str) -> float:
    step = _peer(paper(), "eager", layout)
    step()
    return peak_during(step)[2]


def _save(folder: str) -> float:
    """A checkpoint of a state of the paper's net; MiB of its arrays.

    Noise throughout: zeros, as the velocity has them at first, would take no memory when read.
    """
    import jax

    from alexnet_jax import train
    from alexnet_jax.checkpoint import Checkpoints

    state = jax.eval_shape(lambda: train.init_state(paper()))
    draw = np.random.default_rng(0).standard_normal
    params, optimizer = jax.tree.map(
        lambda leaf: jax.device_put(draw(leaf.shape, leaf.dtype)),
        (state.params, {"velocity": state.velocity}),
    )
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, params, optimizer, np.zeros((1, 1, 3), np.float32), {})
    return sum(array.nbytes for array in jax.tree.leaves([params, optimizer])) / 2**20


def _restore(folder: str) -> tuple[float, float]:
    """MiB that reading the checkpoint adds at the peak, and in the end."""
    trees: list[Any] = []
    before, after, peak = peak_during(lambda: trees.extend(_read(folder)))
    return peak - before, after - before


def _read(folder: str) -> tuple[Any, Any]:
    """Parameters and velocity of the checkpoint, as a run that goes on reads them."""
    import jax

    from alexnet_jax import parallel, train
    from alexnet_jax.checkpoint import Checkpoints

    abstract = jax.eval_shape(lambda: train.init_state(paper()))
    template = parallel.template(abstract, parallel.make_mesh(paper()))
    with Checkpoints(folder) as checkpoints:
        params = checkpoints.params(1, template.params)
        return params, checkpoints.optimizer(1, {"velocity": template.velocity})
