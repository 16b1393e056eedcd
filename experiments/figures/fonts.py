"""Choose fonts that can draw the names of classes, and replace names that no font can draw."""

import sys
from collections.abc import Sequence
from functools import cache

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names

# Fonts with Chinese, Japanese and Korean characters: of Linux, of macOS and of Windows.
FALLBACKS = (
    "Noto Sans CJK JP",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
)
_INSTALLED = {*get_font_names()}
FONT_FAMILIES = (*matplotlib.rcParams["font.family"], *(f for f in FALLBACKS if f in _INSTALLED))

# Dollars in a class name are not mathematics. A Text reads the settings when it is created.
plain_text = matplotlib.rc_context({"text.parse_math": False, "font.family": FONT_FAMILIES})


@cache
def _drawn_characters() -> frozenset[int]:
    """Return the code points that some font of FONT_FAMILIES has."""
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in FONT_FAMILIES)
    return frozenset[int]().union(*(font.get_charmap() for font in fonts))


def replace_undrawable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, with "class 7" for one that no font of FONT_FAMILIES can draw.

    A line on stderr reports such names.
    """
    characters = _drawn_characters()
    shown = tuple(
        name if {*map(ord, name)} <= characters else f"class {number}"
        for number, name in enumerate(names)
    )
    if missing := [number for number, name in enumerate(names) if name != shown[number]]:
        print(
            f"Figures have numbers for {len(missing)} of {len(names)} class names, such as "
            f"class {missing[0]} for {names[missing[0]]}, whose characters are in no font that was "
            f"found. Install one, such as {FALLBACKS[0]}, and delete Matplotlib's list of fonts in "
            f"{matplotlib.get_cachedir()}.",
            file=sys.stderr,
        )
    return shown
