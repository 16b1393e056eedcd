"""Refuse a second command that starts runs in the same folder."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from alexnet_jax import command
from alexnet_jax.errors import InputError
from alexnet_jax.files import MAKE_ROOM, exclusive_lock, write_errors_as_input_errors


def exclusive(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Return the command `main`, refused while another one starts runs in the same --output.

    Each reads the table at its beginning, and would write it without the other's rows. --list and
    --dry_run are never refused.

    Raises:
        InputError: another command is at work, or the folder cannot be written to.
    """

    @functools.wraps(main)
    def run(arguments: list[str]) -> int:
        """Run the command."""
        flag = flags.FLAGS
        if flag.list or flag.dry_run:
            return main(arguments)
        with _lock(Path(flag.output)):
            return main(arguments)

    return run


@contextlib.contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder, which is created, and removed if it remains empty."""
    path = command.make_folder(output) / ".lock"
    try:
        with contextlib.ExitStack() as stack:
            with write_errors_as_input_errors(path, MAKE_ROOM):
                try:
                    stack.enter_context(exclusive_lock(path))
                except BlockingIOError:
                    raise InputError(
                        f"another command is starting runs in --output={output}; wait for its "
                        "end, or give another --output"
                    ) from None
            yield
    finally:
        with contextlib.suppress(OSError):
            output.rmdir()
