"""Exceptions whose message is for the user: commands print it without a traceback."""


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
