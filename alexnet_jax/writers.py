"""Write the records of a run to metrics.jsonl and TensorBoard while it is trained."""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from alexnet_jax.files import (
    MAKE_ROOM,
    AppendOnlyFile,
    unused_path,
    write_atomically,
    write_errors_as_input_errors,
)
from alexnet_jax.progress import TrainingBar
from alexnet_jax.records import Record, format_line, restore_records

NOT_CURVES = ("step", "split", "epoch", "count")  # fields that TensorBoard does not plot


class RunWriter:
    """Write records to metrics.jsonl and TensorBoard, and show them."""

    def __init__(
        self,
        directory: Path,
        step: int,
        bar: TrainingBar,
        *,
        last_recorded: int = 0,
        name: str = "",
    ) -> None:
        """Continue after a step, and delete the records of later steps.

        An interrupted run may have recorded steps after its newest checkpoint. A line on stderr
        names what is damaged or missing.

        Args:
            directory: the workdir.
            step: step after which the run continues; 0 for a new run.
            bar: the progress of the training, which the caller closes.
            last_recorded: last step up to `step` that the run recorded; 0 without any.
            name: name of the run among several that are trained together; "" for a single one.

        Raises:
            InputError: the files cannot be written.
        """
        with write_errors_as_input_errors(directory, MAKE_ROOM):
            warnings = restore_records(directory, step, last_recorded)
            self._file = AppendOnlyFile(directory / "metrics.jsonl")
            self._events = _EventFile(directory, step)
        self._directory, self._bar, self._name = directory, bar, name
        for warning in warnings:
            self.write_line(warning)

    def advance(self, step: int) -> None:
        """Move the progress bar to a step."""
        self._bar.advance(step)

    def write_record(self, record: Record) -> None:
        """Append a record to metrics.jsonl, add it to TensorBoard and show it.

        Raises:
            InputError: the files cannot be written.
        """
        with write_errors_as_input_errors(self._directory, MAKE_ROOM):
            self._file.append(format_line(record).encode())
            self._events.add_record(record)
        self._bar.show(record, self._name)

    def write_line(self, text: str) -> None:
        """Print a line on stderr, above the progress bar."""
        self._bar.write_line(text, self._name)

    def leave_progress(self) -> None:
        """Leave the run's metrics out of the progress, since it has ended before others."""
        self._bar.forget(self._name)

    def close(self) -> None:
        """Close all files."""
        self._events.close()
        self._file.close()


class NullWriter:
    """A writer that does nothing, for all processes but the first."""

    def advance(self, step: int) -> None:
        """Do nothing."""

    def write_record(self, record: Record) -> None:
        """Do nothing."""

    def write_line(self, text: str) -> None:
        """Do nothing."""

    def leave_progress(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _EventFile:
    """A TensorBoard event file, written without buffers, so that a full disk is noticed at once."""

    def __init__(self, directory: Path, step: int) -> None:
        """Create the file for the records after `step`, and hide later ones of earlier files.

        Raises:
            OSError: the file cannot be written.
        """
        with _torch_hidden():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        path = unused_path(directory / name)
        start = SessionLog(status=SessionLog.START)
        first = (
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(step=step + 1, session_log=start),
        )
        write_atomically(path, b"".join(map(_format_event, first)))
        self._file = AppendOnlyFile(path)

    def add_record(self, record: Record) -> None:
        """Append the metrics of a record.

        Raises:
            OSError: the file cannot be written.
        """
        with _torch_hidden():
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.proto.summary_pb2 import Summary
        values = [
            Summary.Value(tag=f"{record['split']}/{name}", simple_value=value)
            for name, value in record.items()
            if name not in NOT_CURVES
        ]
        event = Event(wall_time=time.time(), step=record["step"], summary=Summary(value=values))
        self._file.append(_format_event(event))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _format_event(event: Any) -> bytes:
    """Return an event in the TFRecord format: length, checksum, content, checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checksums) + content + next(checksums)


@contextmanager
def _torch_hidden() -> Iterator[None]:
    """Within the context, make `import torch` fail, unless PyTorch is imported already.

    tensorboardX 2.6.5 imports PyTorch if it is installed, to accept tensors in place of numbers.
    This takes seconds, and no submodule avoids it. Setting the entry in `sys.modules` to None is
    Python's documented way to block an import; the entry is removed afterwards. A program that
    uses tensors with tensorboardX has to import tensorboardX before a run begins.
    """
    if "torch" in sys.modules:
        yield
        return
    modules = cast(dict[str, ModuleType | None], sys.modules)
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]
