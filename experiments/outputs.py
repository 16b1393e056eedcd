"""Write figures, and check the paths of outputs before long computations."""

import errno
import os
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


def check_output_path(path: Path) -> None:
    """Create the folder of a file, and check that the file can be written there.

    Raises:
        InputError: the folder cannot be created or written to, or `path` is a folder.
    """
    with write_errors_as_input_errors(path, MAKE_ROOM):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
