"""The runs of a sweep: their names, folders and commands, and which share a command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from alexnet_jax import command
from alexnet_jax.config import Config
from alexnet_jax.workdir import saved_steps


def run_name(*key: Any) -> str:
    """Return the name of a run, such as tanh-0.01-2."""
    return "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in key)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        key: identifies the run; its row begins with it, and its last part is the seed.
        description: what distinguishes the run, in a few words.
        workdir: its folder.
        arguments: of `alexnet_jax.main`.
    """

    key: tuple[Any, ...]
    description: str
    workdir: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of its folder and of its row."""
        return run_name(*self.key)

    @property
    def shared_arguments(self) -> tuple[str, ...]:
        """Return the arguments that runs with other seeds have, too."""
        own = (f"--workdir={self.workdir}", f"--config.seed={self.key[-1]}")
        return tuple(argument for argument in self.arguments if argument not in own)


@dataclass(frozen=True)
class Base:
    """The settings that all runs of a sweep share.

    Attributes:
        file: the value of --config, with its variant.
        overrides: fields set for every run, as on the command line.
        config: the config that results from both.
        output: the sweep's folder.
    """

    file: str
    overrides: dict[str, Any]
    config: Config
    output: Path

    @classmethod
    def from_flags(cls) -> "Base":
        """Return the settings given by the flags."""
        config = command.validated_config()
        return cls(*command.given_config(), config, Path(flags.FLAGS.output))

    def variant(self, *words: str) -> str:
        """Return the config file with words appended to its variant."""
        path, _, before = self.file.partition(":")
        return ":".join(filter(None, [path, ",".join(filter(None, [before, *words]))]))

    def workdir(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.output / "runs" / name

    def make_run(
        self, key: tuple[Any, ...], description: str, words: Sequence[str], fields: dict[str, Any]
    ) -> Run:
        """Return the run with words appended to the variant and fields set over the overrides."""
        workdir = self.workdir(run_name(*key))
        overrides = (f"--config.{f}={value}" for f, value in {**self.overrides, **fields}.items())
        arguments = (f"--config={self.variant(*words)}", f"--workdir={workdir}", *overrides)
        return Run(key, description, workdir, arguments)


def group_runs(runs: Sequence[Run], *, seeds_together: bool) -> list[list[Run]]:
    """Return the runs in groups, each of which is to be trained by one program.

    With `seeds_together` these are the runs of one config that are at the same step.
    """
    if not seeds_together:
        return [[run] for run in runs]
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        step = max(saved_steps(run.workdir), default=0)
        groups.setdefault((run.shared_arguments, step), []).append(run)
    return [*groups.values()]


def group_arguments(group: Sequence[Run]) -> tuple[str, ...]:
    """Return the arguments of `alexnet_jax.main` that train a group of `group_runs`."""
    first = group[0]
    if len(group) == 1:
        return first.arguments
    pattern = first.workdir.with_name(run_name(*first.key[:-1], "{seed}"))
    seeds = ",".join(str(run.key[-1]) for run in group)
    return (*first.shared_arguments, f"--workdir={pattern}", f"--seeds={seeds}")
