"""Exceptions whose message is for the user: commands print it without a traceback."""

import os
import sys


class InputError(Exception):
    """Exception for user errors: wrong flags, config or data.

    The message names what was given, what was expected and what to do about it. Commands print
    it and exit with status 2. Every exception that is neither this nor `DivergedError` is a
    defect of the program and keeps its traceback.
    """


class DivergedError(Exception):
    """Training ended since the loss or the parameters are not finite.

    Commands print the message and exit with status 3.
    """


def print_error(message: str) -> None:
    """Print an error message on stderr, after the program's name."""
    print(f"{_program()}: {message}", file=sys.stderr)


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else os.path.basename(sys.argv[0])
