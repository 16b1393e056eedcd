"""The order of layers: that of their names. It loads nothing, so that configs can use it."""

import re


def by_number(name: str) -> list[str]:
    """The key by which conv2 comes before conv10: letters first, then numbers by their value."""
    parts = re.split(r"(\d+)", name)
    return [part.zfill(9) if part.isdigit() else part for part in parts]
