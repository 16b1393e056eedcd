"""What a claim of a paper consists of: its runs, published numbers, costs and criterion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.reproduce.verdicts import Rule

Fields = tuple[tuple[str, Any], ...]  # (path, value) of a config
SEEDS = 3  # of each kind of run whose means are compared


@dataclass(frozen=True)
class Training:
    """A config that is trained, with any number of seeds; each seed is the run NAME-SEED.

    Attributes:
        name: first part of the names of its runs.
        config: config file with its variant, FILE:VARIANT.
        hours: duration of one run on two cores, in hours.
        fields: (path, value) of the fields that differ from the config, besides the seed and the
            folder of the data.
        measured: whether `hours` was measured; otherwise it is an estimate.
    """

    name: str
    config: str
    hours: float
    fields: Fields = ()
    measured: bool = False


@dataclass(frozen=True)
class TrainedGroup:
    """The runs of a training, as one side of a claim.

    Attributes:
        label: what distinguishes them from the claim's other runs.
        training: the training whose seeds are the runs.
        value: name of the error of `runs.RunRow` that is compared.
        seeds: number of runs wanted.
    """

    label: str
    training: Training
    value: str
    seeds: int = 1


@dataclass(frozen=True)
class SweepCommand:
    """Another experiment of this folder that makes the runs of a claim, in OUTPUT/MODULE.

    Attributes:
        module: name of the experiment's module in `experiments`.
        arguments: its flags, besides --output, the folder of the data and those that start runs.
        runs: number of runs that it makes.
        hours: duration of all its runs on two cores, one after another, in hours.
        measured: whether `hours` was measured; otherwise it is an estimate.
    """

    module: str
    arguments: tuple[str, ...]
    runs: int
    hours: float
    measured: bool = False


@dataclass(frozen=True)
class SweptRuns:
    """The runs of a `SweptGroup` that have been made.

    Attributes:
        names: names of the finished runs.
        values: the value of each finished seed that has one.
        reason: why finished seeds lack a value, DIVERGED or NOT_REACHED, once all runs have ended;
            "" before.
    """

    names: list[str]
    values: list[float]
    reason: str


ReadRuns = Callable[[Path], SweptRuns]  # folder of the experiment → its runs


@dataclass(frozen=True)
class SweptGroup:
    """Some runs of a claim's `SweepCommand`, as one side of the claim.

    Attributes:
        label: what distinguishes them from the claim's other runs.
        read_runs: function that reads this group's runs, without any that the command would not
            make, from the experiment's table.
    """

    label: str
    read_runs: ReadRuns
    seeds: ClassVar[int] = SEEDS


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how it is tested.

    Attributes:
        name: name of the claim on the command line.
        paper: paper, or program, and section that make the claim.
        statement: the quantity that is measured, in a few words.
        published: the paper's numbers, as text; "" if there are none.
        rule: rule by which the measured values are compared with the published ones.
        groups: kinds of run, in the order in which `rule` takes them.
        sweep: command that makes the runs of a `SweptGroup`; None without such groups.
    """

    name: str
    paper: str
    statement: str
    published: str
    rule: Rule
    groups: tuple[TrainedGroup | SweptGroup, ...]
    sweep: SweepCommand | None = None

    @property
    def trained(self) -> list[TrainedGroup]:
        """The groups whose runs this command makes itself."""
        return [group for group in self.groups if isinstance(group, TrainedGroup)]

    @property
    def swept(self) -> list[SweptGroup]:
        """The groups whose runs `sweep` makes."""
        return [group for group in self.groups if isinstance(group, SweptGroup)]

    @property
    def hours(self) -> float:
        """Duration of all runs on two cores, one after another, in hours."""
        own = sum(group.seeds * group.training.hours for group in self.trained)
        return own + (self.sweep.hours if self.sweep else 0.0)

    @property
    def measured(self) -> bool:
        """Whether all of `hours` was measured."""
        own = all(group.training.measured for group in self.trained)
        return own and (self.sweep is None or self.sweep.measured)
