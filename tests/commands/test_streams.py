"""Output and messages that nobody can read, or for which there is no room."""

import os
from pathlib import Path

import pytest
from helpers import processes

from alexnet_jax.errors import InputError
from alexnet_jax.streams import open_messages, open_output


@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_messages_after_a_loss_are_dropped(is_terminal: bool) -> None:
    """Catches: an exception for a line after the loss, the first or a later one, printed or written
    by a program that has inherited the file; a line before it that is not printed at once."""
    reader, writer = os.openpty() if is_terminal else os.pipe()
    with open(writer, "w") as stderr:
        stream = open_messages(stderr)
        print("before", file=stream)
        assert os.read(reader, 100).split() == [b"before"]
        os.close(reader)
        for text in ("first", "second"):
            print(text, file=stream)
            os.write(writer, b"of another program\n")


def test_messages_without_room_are_an_error() -> None:
    """Catches: messages lost on a full disk without a word."""
    with open("/dev/full", "w") as stderr:
        stream = open_messages(stderr)
        with pytest.raises(OSError, match="No space left"):
            print("message", file=stream)
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), stderr.fileno())  # for the same text when it is closed


def test_names_that_are_not_utf8_are_printed(tmp_path: Path) -> None:
    """Catches: an exception for the name of a file, which ends the command."""
    path = tmp_path / "log"
    for open_stream in (open_messages, open_output):
        with open(path, "w", encoding="ascii", errors="backslashreplace") as file:
            print("caf\udce9.jpg", file=open_stream(file))
        assert path.read_text() == "caf\\udce9.jpg\n"


def test_output_that_cannot_be_written_is_one_error() -> None:
    """Catches: a traceback for a full disk; a second exception when the stream is closed."""
    with open("/dev/full", "w") as stdout:
        stream = open_output(stdout)
        with pytest.raises(InputError, match="output cannot be written: No space left on device"):
            print("text", file=stream, flush=True)
        print("more", file=stream, flush=True)


def test_a_command_on_a_full_disk() -> None:
    """Catches: the output of commands that is not written by `open_output`, with the status of a
    defect, or 120 for what Python could not flush."""
    with open("/dev/full", "w") as full:
        process = processes.start("describe", "--config=configs/alexnet.py:sample", stdout=full)
        ended = processes.end(process)
    assert ended.returncode == 2
    assert ended.stderr == (
        "alexnet_jax.describe: the output cannot be written: No space left on device; make room, "
        "or send stdout elsewhere\n"
    )
