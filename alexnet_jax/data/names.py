"""Readable names for classes that are called by their WordNet synset, as ImageNet's are."""

import functools
from pathlib import Path


def readable_name(name: str) -> str:
    """'tench, Tinca tinca (n01440764)' for 'n01440764'; a name that is no synset as it is."""
    lemmas = _lemmas().get(name)
    return f"{lemmas} ({name})" if lemmas else name


def short_name(name: str) -> str:
    """'tench' for 'n01440764': the first of its words; a name that is no synset as it is."""
    return _lemmas()[name].split(", ")[0] if name in _lemmas() else name


def synsets() -> tuple[str, ...]:
    """The 1,000 classes of ILSVRC-2012 in the order of their synsets, the usual numbering."""
    return tuple(sorted(_lemmas()))


@functools.cache
def _lemmas() -> dict[str, str]:
    lines = Path(__file__).with_name("imagenet_names.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))
