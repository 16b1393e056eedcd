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


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Return the names in the file of --class_names, one per line in the order of the classes.

    Raises:
        InputError: the file cannot be read, or does not have `count` different names.
    """
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"--class_names={path} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read --class_names={path}: {error.strerror}") from None
    if len(names) != count or len({*names}) != count:
        raise InputError(
            f"--class_names={path} has {len({*names})} different names in {len(names)} lines; "
            f"expected {count}, one per class"
        )
    return names


@functools.cache
def _lemmas() -> dict[str, str]:
    """Return the lemmas of every synset, separated by commas."""
    lines = Path(__file__).with_name("imagenet_names.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))
