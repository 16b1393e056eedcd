"""Exceptions for the user, of which commands print the message without a traceback."""

import os
import sys


class InputError(Exception):
    """Exception for user errors: wrong flags, config or data.

    The message names what was given, what was expected and the remedy. Commands print it and exit
    with status 2. All exceptions other than this and `DivergedError` are defects of the program
    and are printed with their traceback.
    """


class DivergedError(Exception):
    """Exception for a loss or parameters that are not finite.

    Commands print the message and exit with status 3.
    """


def print_error(message: str) -> None:
    """Print an error message on stderr, after the program's name."""
    print(f"{_program()}: {message}", file=sys.stderr)


def _program() -> str:
    """Return the name of the main module, or of the program without one."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # `python -m experiments.figures` runs experiments.figures.__main__.
    return spec.name.removesuffix(".__main__") if spec else os.path.basename(sys.argv[0])
