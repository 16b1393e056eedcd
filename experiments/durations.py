"""Durations on the command line."""

import re

from alexnet_jax.errors import InputError


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 480, 480s, 8m or 1.5h.

    Raises:
        InputError: the text is no duration.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not float(found[1]):
        raise InputError(f"--budget={text} is no duration; expected one such as 480s, 8m or 1.5h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
