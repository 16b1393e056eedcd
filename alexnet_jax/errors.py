"""Exceptions for the user, of which commands print the message without a traceback."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InputError(Exception):
    """Exception for user errors: wrong flags, config or data.

    The message names what was given, what was expected and the remedy. Commands print it and exit
    with status 2. All exceptions other than this and `DivergedError` are defects of the program
    and are printed with their traceback.
    """


class DivergedError(Exception):
    """Exception for a loss or parameters that are not finite or absurdly large.

    Commands print the message and exit with status 3.
    """


def one_line(error: BaseException) -> str:
    """Return the message of a library's exception in one line of at most 200 printable characters.

    An exception without a message is described by its type.
    """
    return _printable(" ".join(str(error).split()) or type(error).__name__)[:200]


def list_names(names: Sequence[object], limit: int = 10) -> str:
    """Return names as text, separated by commas; "…" stands for those beyond the limit."""
    return ", ".join([*map(str, names[:limit]), *["…"] * (len(names) > limit)])


@contextmanager
def printable_errors() -> Iterator[None]:
    """Replace characters of user errors that are not printable, such as a file's names have."""
    try:
        yield
    except InputError as error:
        raise InputError(_printable(str(error))) from None


def _printable(text: str) -> str:
    """Return text with question marks for line breaks, escapes and other control characters."""
    return "".join(char if char.isprintable() else "?" for char in text)


def print_error(message: str) -> None:
    """Print an error message on stderr, after the program's name."""
    print(f"{_program()}: {message}", file=sys.stderr)


def _program() -> str:
    """Return the name of the main module, or of the program without one."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # `python -m experiments.figures` runs experiments.figures.__main__.
    return spec.name.removesuffix(".__main__") if spec else os.path.basename(sys.argv[0])
