"""Damage files at random places, and count what comes of it."""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

KINDS = ("flip", "truncate", "empty", "zeros", "garbage", "delete")


def flip_bit(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return content that is truncated, or has some bytes changed, removed or inserted."""
    place = draw.randrange(len(content))
    length = draw.choice((1, 4, 64))
    return draw.choice(
        (
            content[:place],
            flip_bit(content, draw),
            content[:place] + draw.randbytes(length) + content[place + length :],
            content[:place] + content[place + length :],
            content[:place] + draw.randbytes(length) + content[place:],
        )
    )


def damage(path: Path, kind: str, draw: random.Random) -> None:
    """Damage a file that is not empty in one of KINDS, in place."""
    content = path.read_bytes()
    if kind == "delete":
        path.unlink()
        return
    changed = {
        "flip": lambda: flip_bit(content, draw),
        "truncate": lambda: content[: draw.randrange(len(content))],
        "empty": lambda: b"",
        "zeros": lambda: bytes(len(content)),
        "garbage": lambda: draw.randbytes(len(content)),
    }
    path.write_bytes(changed[kind]())


def written_files(folder: Path) -> list[Path]:
    """Return the files below a folder that are not empty, the newest first."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    kept = [path for path in found if path.stat().st_size]
    return sorted(kept, key=lambda path: (-path.stat().st_mtime_ns, str(path)))


def summarize(outcomes: Counter[str], record_property: Callable[[str, object], None]) -> None:
    """Have the counts printed at the end of the tests, and require that there are some."""
    assert outcomes
    listed = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    record_property("campaign", f"{outcomes.total()} cases: {listed}")
