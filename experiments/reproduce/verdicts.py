"""Compare measured values with published ones, by rules fixed in the registry of claims."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

REPRODUCED = "reproduced"
LOWER = "lower than published"
HIGHER = "higher than published"
SAME_DIRECTION = "same direction"
WITHIN_SPREAD = "same direction, within the spread"
OPPOSITE = "opposite"
SHORTENED = "shortened; no published number"
DIVERGED = "diverged"  # some or all runs of a kind
NOT_REACHED = "not reached"  # an error, by some or all runs of a kind
ROUNDING = 1e-9  # a difference that is exactly the limit counts as within it

Groups = Sequence[Sequence[float]]  # a value for each seed of each kind of run


@dataclass(frozen=True)
class Outcome:
    """What was measured, as text.

    Attributes:
        here: the mean over seeds, or the comparison of two means; "" without values.
        spread: number of seeds, lowest and highest value of each kind of run; "" without values.
        verdict: "" while runs are missing; why there are too few values once all have ended.
    """

    here: str = ""
    spread: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Close:
    """The mean error has to be near the published one.

    Attributes:
        published: error in percent; None for a schedule that nobody has published.
        tolerance: in points.
    """

    published: float | None
    tolerance: float = 0.0

    @property
    def criterion(self) -> str:
        """What counts as reproduced."""
        if self.published is None:
            return ""
        return f"within {self.tolerance:g} point{'s' * (self.tolerance != 1)}"

    def judge(self, groups: Groups) -> str:
        """Return the verdict on the errors, in percent, of the seeds of one kind of run."""
        (errors,) = groups
        if self.published is None:
            return SHORTENED
        difference = statistics.mean(errors) - self.published
        if abs(difference) <= self.tolerance + ROUNDING:
            return REPRODUCED
        return LOWER if difference < 0 else HIGHER

    def format_here(self, groups: Groups) -> str:
        """Return the mean error."""
        return f"{statistics.mean(groups[0]):.2f} %"


@dataclass(frozen=True)
class Contrast:
    """The mean of the last kind of run has to be above that of the first one.

    Attributes:
        least: for the claim to be reproduced, in points or as a factor; every seed of the last
            kind has to be above every seed of the first, too. None where the published number is
            of other images, so that only the direction can be compared.
        is_factor: whether to divide the means, in place of subtracting them.
        shortened: whether the published number is of a longer schedule.
    """

    least: float | None
    is_factor: bool = False
    shortened: bool = False

    @property
    def criterion(self) -> str:
        """What counts as reproduced, if seeds do not overlap."""
        if self.shortened:
            return ""
        if self.least is None:
            return f"above {self._neutral:g} (direction only)"
        if self.least == self._neutral:
            return f"above {self.least:g}"
        return f"at least {self._format(self.least)}"

    @property
    def _neutral(self) -> float:
        """The effect without any difference."""
        return 1.0 if self.is_factor else 0.0

    def effect(self, groups: Groups) -> float:
        """Return the factor, or the difference, of the means of the last and the first kind."""
        first, last = statistics.mean(groups[0]), statistics.mean(groups[-1])
        return last / first if self.is_factor else last - first

    def judge(self, groups: Groups) -> str:
        """Return the verdict on the values of the seeds of each kind of run."""
        if self.shortened:
            return SHORTENED
        effect = self.effect(groups)
        if effect <= self._neutral:
            return OPPOSITE
        if min(groups[-1]) <= max(groups[0]):
            return WITHIN_SPREAD
        if self.least is None or effect < self.least - ROUNDING:
            return SAME_DIRECTION
        return REPRODUCED

    def format_here(self, groups: Groups) -> str:
        """Return the effect."""
        return self._format(self.effect(groups))

    def _format(self, effect: float) -> str:
        """Return an effect with its unit, such as 6 times or +2.00 points."""
        return f"{effect:.3g} times" if self.is_factor else f"{effect:+.2f} points"


Rule = Close | Contrast


def compare_groups(
    rule: Rule,
    labels: Sequence[str],
    groups: Groups,
    wanted: Sequence[int],
    lacking: Sequence[str],
) -> Outcome:
    """Return what the values show.

    Args:
        rule: by which they are compared.
        labels: of the kinds of run.
        groups: values of the seeds of each kind.
        wanted: number of seeds of each kind without which the values are not judged.
        lacking: for each kind why seeds may lack a value, DIVERGED or NOT_REACHED; "" while runs
            of the kind have not ended.
    """
    reasons = [
        (label, reason)
        for label, values, count, reason in zip(labels, groups, wanted, lacking, strict=True)
        if len(values) < count
    ]
    verdict = ""
    if all(reason for _, reason in reasons):
        verdict = "; ".join(f"{label}: {reason}" if label else reason for label, reason in reasons)
    if not any(groups):
        return Outcome(verdict=verdict)
    several = len(groups) > 1
    spread = "; ".join(
        f"{label}: {format_spread(values)}" if several else format_spread(values)
        for label, values in zip(labels, groups, strict=True)
    )
    if not all(groups):
        return Outcome("", spread, verdict)
    return Outcome(rule.format_here(groups), spread, verdict if reasons else rule.judge(groups))


def format_spread(values: Sequence[float]) -> str:
    """Return the number of seeds with the lowest and the highest value."""
    if not values:
        return "no value"
    if len(values) == 1:
        return f"1 seed, {values[0]:.2f}"
    return f"{len(values)} seeds, {min(values):.2f} to {max(values):.2f}"
