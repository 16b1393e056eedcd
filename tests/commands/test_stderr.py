"""Messages after stderr is lost."""

import io
import os
from pathlib import Path

import pytest

from alexnet_jax.stderr import replace_if_lost


@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_messages_after_a_loss_are_dropped(is_terminal: bool) -> None:
    """Catches: an exception for a line after the loss, the first or a later one, printed or written
    by a program that has inherited the file; a line before it that is not printed at once."""
    reader, writer = os.openpty() if is_terminal else os.pipe()
    with os.fdopen(writer, "w") as stream:
        replaced = replace_if_lost(stream)
        print("before", file=replaced)
        assert os.read(reader, 100).split() == [b"before"]
        os.close(reader)
        for text in ("first", "second"):
            print(text, file=replaced)
            os.write(stream.fileno(), b"of another program\n")


def test_other_errors_are_raised() -> None:
    """Catches: messages lost on a full disk without a word."""
    with open("/dev/full", "w") as stream:
        replaced = replace_if_lost(stream)
        with pytest.raises(OSError, match="No space left"):
            print("message", file=replaced)
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), stream.fileno())  # for the same text when it is closed


def test_names_that_are_not_utf8_are_still_printed(tmp_path: Path) -> None:
    """Catches: a stream that is strict where stderr is not, so that a message about a file cannot
    be printed."""
    path = tmp_path / "log"
    with open(path, "w", encoding="ascii", errors="backslashreplace") as file:
        print("caf\udce9.jpg", file=replace_if_lost(file))
    assert path.read_text() == "caf\\udce9.jpg\n"


def test_a_stream_without_a_file_is_left() -> None:
    """Catches: a traceback in notebooks and tests, whose stderr is no file."""
    stream = io.StringIO()
    assert replace_if_lost(stream) is stream
