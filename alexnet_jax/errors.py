"""The one exception that is the user's to mend, and not ours."""


class InputError(ValueError):
    """Wrong usage, config or data: what was given, what was expected, what to do.

    Commands print its message without a traceback and exit with status 2; every other
    exception is a defect of the program and keeps its traceback.
    """
