"""The state with which a run begins or continues."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax import finetune
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.data.pack import Pack
from alexnet_jax.errors import InputError
from alexnet_jax.files import MAKE_ROOM, write_errors_as_input_errors
from alexnet_jax.metrics import MetricSums
from alexnet_jax.train_step import TrainState, abstract_state, init_state
from alexnet_jax.workdir import CONFIG


@dataclass(frozen=True)
class Start:
    """The state with which a run begins or continues.

    Attributes:
        state: the training state.
        sums: metric sums of the steps since the last record.
        epoch_sums: metric sums of the steps of an epoch, see `training_run.save_checkpoint`.
        init_step: step of the checkpoint of config.init_from from which a new run starts.
    """

    state: TrainState
    sums: MetricSums
    epoch_sums: MetricSums
    init_step: int | None = None


def load_start(config: Config, pack: Pack, mesh: Mesh, checkpoints: Checkpoints) -> Start:
    """Restore the newest readable checkpoint, or initialize.

    Raises:
        InputError: the checkpoint was trained on other images than the pack has, or the
            parameters of config.init_from do not fit; or a damaged checkpoint cannot be renamed.
    """
    abstract = abstract_state(config, mesh)

    def read(step: int) -> Start:
        variables = checkpoints.variables(step, abstract.saved_variables())
        train_state = checkpoints.train_state(step, abstract.saved_train_state())
        metadata = checkpoints.metadata(step)
        trained_on = (
            metadata["images"],
            metadata["class_names"],
            checkpoints.mean(step).tobytes(),
        )
        given = (pack.splits["train"].count, list(pack.class_names), pack.mean_image.tobytes())
        if trained_on != given:
            raise InputError(
                f"the run in {checkpoints.directory.parent} was trained on other images than "
                f"{pack.directory} holds: their number, classes or mean differ. Give the data "
                "it was made with, or another --workdir"
            )
        state = abstract.replace(**variables, **train_state)
        sums, epoch_sums = (MetricSums(**metadata[name]) for name in ("metric_sums", "epoch_sums"))
        return Start(state, sums, epoch_sums)

    found = checkpoints.newest(read)
    if found is not None:
        with write_errors_as_input_errors(checkpoints.directory, MAKE_ROOM):
            checkpoints.set_aside_after(found[0])
        return found[1]
    # On CPUs, optimizing the loops of the random numbers takes far longer than running them once.
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    compiler_options = {"xla_backend_optimization_level": 0} if is_cpu else {}
    init = jax.jit(
        lambda: init_state(config),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
        compiler_options=compiler_options,
    )
    state = init()
    if not config.init_from:
        return Start(state, MetricSums(), MetricSums())
    initial = {"params": state.params, "batch_stats": state.batch_stats}
    init_step, variables = finetune.load_pretrained(config, initial, mesh)
    average = jax.tree.map(jnp.copy, variables["params"]) if state.ema_params else {}
    state = state.replace(**variables, ema_params=average)
    return Start(state, MetricSums(), MetricSums(), init_step)


def go_back_to_common_step(
    starts: Mapping[Path, Start],
    configs: Mapping[Path, Config],
    pack: Pack,
    mesh: Mesh,
    checkpoints: Mapping[Path, Checkpoints],
) -> dict[Path, Start]:
    """Return the starts of runs at the same step, which are to be trained together.

    A SIGKILL while checkpoints are saved leaves some runs one checkpoint ahead of others. Their
    newest one is deleted, and its steps are taken again. A run without a config.json has never
    begun: it is a new one, for which no checkpoint of another one is deleted.

    Args:
        starts: the states with which the runs would continue alone, by workdir.
        configs: config of each run, with the number of classes.
        pack: the prepared images.
        mesh: the mesh of devices.
        checkpoints: the checkpoints of each run.

    Raises:
        InputError: a run is further ahead than by one checkpoint, or ahead of a new one.
    """
    found = dict(starts)
    while True:
        steps = {workdir: int(start.state.step) for workdir, start in found.items()}
        common = min(steps.values())
        ahead = [workdir for workdir, step in steps.items() if step > common]
        if not ahead:
            return found
        behind = [workdir for workdir, step in steps.items() if step == common]
        have_begun = all((workdir / CONFIG).exists() for workdir in behind)
        for workdir in ahead:
            if not have_begun or max(checkpoints[workdir].steps()[:-1], default=0) != common:
                names = ", ".join(map(str, behind))
                raise InputError(
                    f"{workdir} is at step {steps[workdir]}, and {names} at step {common}: runs "
                    "that are trained together go on from the same step; give --seeds of those "
                    "behind alone first"
                )
        for workdir in ahead:
            text = f"{workdir} goes back from step {steps[workdir]} to {common}, where others are."
            print(text, file=sys.stderr)
            checkpoints[workdir].delete(steps[workdir])
            found[workdir] = load_start(configs[workdir], pack, mesh, checkpoints[workdir])
