"""Several seeds of one config, trained together in one compiled program on one device.

Each seed has a workdir of its own, which is that of a run trained alone.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from alexnet_jax import evaluate, sharding
from alexnet_jax.config import Config, with_changes
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.resident import explain_host_images
from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.status import read_status, write_status


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Return the numbers of --seeds.

    Raises:
        InputError: a word is not an integer, or occurs twice.
    """
    for word in words:
        if not re.fullmatch("-?[0-9]+", word):
            raise InputError(
                f"--seeds={','.join(words)}: {word!r} is not an integer; expected numbers "
                "separated by commas, such as 0,1,2,3"
            )
    numbers = [int(word) for word in words]
    if len({*numbers}) < len(numbers):
        raise InputError(f"--seeds={','.join(words)} has a seed twice; expected each once")
    return numbers


def configs_of_seeds(config: Config, directory: Path, seeds: Sequence[int]) -> dict[Path, Config]:
    """Return the config of the run of each seed by its workdir.

    Args:
        config: the config.
        directory: value of --workdir. A "{seed}" in its last part stands for the seed; without it,
            the run of seed N is in the folder seed-N of `directory`.
        seeds: the seeds; without any, the only run is that of the config, in `directory` itself.

    Raises:
        InputError: there are several processes, or `check_config` refuses the config.
    """
    if not seeds:
        return {directory: config}
    check_config(config)
    if (count := jax.process_count()) > 1:
        raise InputError(
            f"--seeds trains in one process, and there are {count}; expected one, or the runs one "
            "by one with --config.seed"
        )
    pattern = directory if "{seed}" in directory.name else directory / "seed-{seed}"
    return {
        pattern.with_name(pattern.name.replace("{seed}", str(seed))): with_changes(
            config, {"seed": seed}
        )
        for seed in seeds
    }


def check_config(config: Config) -> None:
    """Raise InputError if the config splits a model or batch over devices, or keeps one checkpoint.

    This does not look at the devices.
    """
    if config.parallel.columns * config.parallel.data > 1:
        raise InputError(
            f"--seeds trains on one device, and parallel.data={config.parallel.data}, "
            f"parallel.columns={config.parallel.columns} were given; expected 1 of each, or the "
            "runs one by one with --config.seed"
        )
    if config.keep_checkpoints < 2:
        raise InputError(
            "--seeds needs the last two checkpoints of each run, to go on from the same step after "
            "an interruption; expected --config.keep_checkpoints=2 or more"
        )


def without_diverged(configs: Mapping[Path, Config]) -> dict[Path, Config]:
    """Return the runs that have not diverged before; print the others, of which nothing is left.

    Raises:
        DivergedError: all of several runs have diverged.
    """
    diverged = list_diverged(configs)
    for workdir in diverged:
        print(f"{workdir} has diverged before, and is left out.", file=sys.stderr)
    left = {workdir: config for workdir, config in configs.items() if workdir not in diverged}
    if not left:
        raise make_diverged_error(diverged)
    return left


def make_diverged_error(workdirs: Sequence[Path]) -> DivergedError:
    """Return the error for runs that have diverged, while others may have finished."""
    names = ", ".join(workdir.name for workdir in workdirs)
    whose = "its status.json has" if len(workdirs) == 1 else "their status.json have"
    return DivergedError(f"diverged: {names}; {whose} the reason")


def list_diverged(configs: Mapping[Path, Config]) -> list[Path]:
    """Return the workdirs of the runs whose status.json has "diverged"."""
    found = {workdir: read_status(workdir) for workdir in configs}
    return [workdir for workdir, status in found.items() if status and status.status == "diverged"]


def check_images_on_device(config: Config, pack: Pack) -> None:
    """Raise InputError if the host would cut the crops.

    Args:
        config: the config of the runs.
        pack: the prepared images.
    """
    device = sharding.make_mesh(config.parallel).local_devices[0]
    splits = [name for name in ("train", "validation") if name in pack.splits]
    reason = explain_host_images(config.data, pack, splits, device)
    if reason is not None:
        raise InputError(
            f"--seeds trains on images that are on the device, and the host would cut the crops, "
            f"since {reason}; expected --config.data.resident=on with small square images, or the "
            "runs one by one with --config.seed"
        )


def evaluate_runs(configs: Mapping[Path, Config]) -> None:
    """Evaluate the runs after training, except for those that have diverged.

    Raises:
        DivergedError: the loss of the only run is not finite; that of one of several is written to
            its status.json.
    """
    config = next(iter(configs.values()))
    mesh = sharding.make_mesh(config.parallel)
    if len(configs) == 1:
        evaluate.final_evaluation(next(iter(configs)), mesh)
        return
    diverged = list_diverged(configs)
    for workdir in configs:
        if workdir in diverged:
            continue
        try:
            evaluate.final_evaluation(workdir, mesh)
        except DivergedError as error:
            print(error, file=sys.stderr)
            write_status(workdir, "diverged", str(error))
        else:
            write_status(workdir, "finished")
