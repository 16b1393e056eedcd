"""Readable names for classes that are named by WordNet synsets, such as those of ImageNet."""

import functools
from pathlib import Path

from alexnet_jax.errors import InputError


def readable_name(name: str) -> str:
    """Return 'tench, Tinca tinca (n01440764)' for 'n01440764'; other names are unchanged."""
    lemmas = _lemmas().get(name)
    return f"{lemmas} ({name})" if lemmas else name


def short_name(name: str) -> str:
    """Return 'tench', the first lemma, for 'n01440764'; other names are unchanged."""
    return _lemmas()[name].split(", ")[0] if name in _lemmas() else name


def synsets() -> tuple[str, ...]:
    """Return the synsets of the 1,000 classes of ILSVRC-2012, sorted, which is the usual order."""
    return tuple(sorted(_lemmas()))


def read_class_names(
    path: Path, count: int, *, flag: str = "--class_names=", allow_more: bool = False
) -> tuple[str, ...]:
    """Return the names in a text file, one per line in the order of the classes.

    The file is UTF-8, with or without a byte-order mark. Empty lines at its end are ignored.

    Args:
        path: the file.
        count: number of classes.
        flag: flag that names the file, for messages; "" if there is none.
        allow_more: accept names of further classes, of which there are no images.

    Raises:
        InputError: the file cannot be read, does not have `count` names, or repeats a name.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{flag}{path} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {flag}{path}: {error.strerror}") from None
    while names and not names[-1].strip():
        names.pop()
    has_count = len(names) >= count if allow_more else len(names) == count
    if not has_count or len({*names}) != len(names):
        raise InputError(
            f"{flag}{path} has {len({*names})} different names in {len(names)} lines; "
            f"expected {count}{' or more' * allow_more}, one per class"
        )
    return tuple(names)


@functools.cache
def _lemmas() -> dict[str, str]:
    """Return the lemmas of every synset, separated by commas."""
    lines = Path(__file__).with_name("imagenet_names.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))
