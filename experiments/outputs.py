"""Write figures so that a full disk leaves the previous file and a message."""

from pathlib import Path

from matplotlib.figure import Figure

from alexnet_jax.files import MAKE_ROOM, replace_when_complete, write_errors_as_input_errors


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure at 120 pixels an inch, in the format of the path's suffix.

    Raises:
        InputError: the file cannot be written.
    """
    with write_errors_as_input_errors(path, MAKE_ROOM), replace_when_complete(path) as temporary:
        figure.savefig(temporary, dpi=120)
