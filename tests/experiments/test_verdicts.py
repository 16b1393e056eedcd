"""When a claim counts as reproduced, for any values."""

from hypothesis import given
from hypothesis import strategies as st

from experiments.reproduce import verdicts
from experiments.reproduce.verdicts import Close, Contrast

ERRORS = st.lists(st.floats(0, 100), min_size=1, max_size=5)


@given(ERRORS, st.floats(0, 100), st.floats(0, 5))
def test_an_error_is_reproduced_within_the_tolerance(
    errors: list[float], published: float, tolerance: float
) -> None:
    """Catches: the best seed in place of the mean; a lower error that counts as reproduced, or a
    higher one as lower; a tolerance for the sum of both sides."""
    difference = sum(errors) / len(errors) - published
    verdict = Close(published, tolerance).judge([errors])
    if abs(difference) < tolerance - 1e-6:
        assert verdict == verdicts.REPRODUCED
    elif abs(difference) > tolerance + 1e-6:
        assert verdict == (verdicts.HIGHER if difference > 0 else verdicts.LOWER)
    assert Close(None).judge([errors]) == verdicts.SHORTENED


@given(ERRORS, ERRORS, st.sampled_from([None, 0.0, 1.0, 3.0]))
def test_a_difference_needs_its_size_and_seeds_that_do_not_overlap(
    first: list[float], last: list[float], least: float | None
) -> None:
    """Catches: a difference within the spread that counts; groups exchanged; a small difference, or
    one without a number to reach, that counts as the published one."""
    difference = sum(last) / len(last) - sum(first) / len(first)
    verdict = Contrast(least).judge([first, last])
    overlap = min(last) <= max(first)
    if abs(difference) < 1e-6:
        return
    assert (verdict == verdicts.OPPOSITE) == (difference < 0)
    assert (verdict == verdicts.WITHIN_SPREAD) == (difference > 0 and overlap)
    if verdict == verdicts.REPRODUCED:
        assert least is not None
        assert difference >= least - 1e-6
        assert not overlap
    if least == 0.0 and difference > 0:
        assert verdict == (verdicts.WITHIN_SPREAD if overlap else verdicts.REPRODUCED)
    assert Contrast(least, shortened=True).judge([first, last]) == verdicts.SHORTENED


@given(st.floats(0.1, 10), st.floats(1.01, 10))
def test_a_factor_is_of_the_last_to_the_first(epochs: float, factor: float) -> None:
    """Catches: the factor upside down; one that is compared with 0 in place of 1."""
    rule = Contrast(3.0, is_factor=True)
    verdict = rule.judge([[epochs], [epochs * factor]])
    if abs(factor - 3) > 1e-6:
        assert verdict == (verdicts.REPRODUCED if factor > 3 else verdicts.SAME_DIRECTION)
    assert rule.judge([[epochs * factor], [epochs]]) == verdicts.OPPOSITE


def test_there_is_no_verdict_without_all_seeds() -> None:
    """Catches: a verdict on one of three seeds; a mean that is hidden until all are there; a
    comparison with runs that do not exist; no verdict where the missing values will never come, or
    one while some may."""
    rule = Contrast(1.0)

    def compare(*groups: list[float], lacking: tuple[str, str] = ("", "")) -> tuple[str, str, str]:
        found = verdicts.compare_groups(rule, ["with", "without"], groups, [2, 2], lacking)
        return found.here, found.spread, found.verdict

    assert compare([], []) == ("", "", "")
    assert compare([11.0], []) == ("", "with: 1 seed, 11.00; without: no value", "")
    assert compare([11.0, 12.0], [14.0])[::2] == ("+2.50 points", "")
    assert compare([11.0, 12.0], [14.0, 14.2]) == (
        "+2.60 points",
        "with: 2 seeds, 11.00 to 12.00; without: 2 seeds, 14.00 to 14.20",
        verdicts.REPRODUCED,
    )
    ended = verdicts.NOT_REACHED
    assert compare([], [], lacking=("", ended))[2] == ""
    assert (
        compare([11.0], [], lacking=(ended, ended))[2] == "with: not reached; without: not reached"
    )
    assert compare([11.0, 12.0], [14.0], lacking=(ended, ended))[::2] == (
        "+2.50 points",
        "without: not reached",
    )
    assert compare([11.0, 12.0], [14.0, 14.2], lacking=(ended, ended))[2] == verdicts.REPRODUCED
