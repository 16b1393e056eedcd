"""Write records of metrics to metrics.jsonl and TensorBoard, and read them."""

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict, cast

from alexnet_jax.errors import InputError, list_names
from alexnet_jax.files import (
    MAKE_ROOM,
    AppendOnlyFile,
    unused_path,
    write_atomically,
    write_errors_as_input_errors,
)
from alexnet_jax.progress import TrainingBar

if TYPE_CHECKING:  # that module imports JAX
    from alexnet_jax.metrics import Metrics


class Record(TypedDict, total=False):
    """One line of metrics.jsonl; errors are fractions.

    Only records of training have `learning_rate` and `images_per_second`; only those of the final
    evaluation have `views`. `epoch` is None for imported weights.
    """

    step: int
    epoch: float | None
    split: str
    loss: float
    top1_error: float
    top5_error: float
    count: int
    learning_rate: float
    images_per_second: float
    views: str


# Fields of every record and their types, and those that records of training have besides.
_FIELDS: dict[str, Any] = {
    "step": int,
    "epoch": int | float | None,
    "split": str,
    "loss": int | float,
    "top1_error": int | float,
    "top5_error": int | float,
    "count": int,
}
_TRAIN_FIELDS: dict[str, Any] = {"learning_rate": int | float, "images_per_second": int | float}

NOT_CURVES = ("step", "split", "epoch", "count")  # fields that TensorBoard does not plot


def make_record(step: int, epoch: float | None, split: str, metrics: "Metrics") -> Record:
    """Return the record of a split's metrics after a step."""
    return Record(
        step=step,
        epoch=epoch,
        split=split,
        loss=metrics["loss"],
        top1_error=metrics["top1_error"],
        top5_error=metrics["top5_error"],
        count=metrics["count"],
    )


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
            warnings = _restore_records(directory, step, last_recorded)
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
            self._file.append(_format_line(record).encode())
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


def read_records(directory: Path) -> list[Record]:
    """Return the records of metrics.jsonl, oldest first, without an incomplete last line.

    Raises:
        InputError: another line is no record, or the file cannot be read.
    """
    path = directory / "metrics.jsonl"
    records, damaged = _parse_records(path)
    if damaged:
        raise InputError(
            f"{path}, {_name_lines(damaged)}: no record of metrics; delete it, or continue the "
            "run, which sets the damaged file aside"
        )
    return records


def append_record(directory: Path, record: Record) -> None:
    """Append a record to metrics.jsonl after training, in place of an incomplete last line.

    Raises:
        InputError: see `read_records`; or the file cannot be written.
    """
    records = [*read_records(directory), record]
    with write_errors_as_input_errors(directory / "metrics.jsonl", MAKE_ROOM):
        _write_records(directory, records)


def _parse_records(path: Path) -> tuple[list[Record], list[int]]:
    """Return the records of a file, and the numbers of its lines that are no records.

    The beginning of a record at the end of the file, which a run that was killed leaves, is
    neither. Without a file there is no record.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # also of bytes that are not UTF-8
            record = None
        if _is_record(record):
            records.append(cast(Record, record))
        else:
            damaged.append(number)
    if rest and (not rest.startswith(b"{") or b"\0" in rest):
        damaged.append(len(lines) + 1)
    return records, damaged


def _is_record(value: object) -> bool:
    """Return whether a JSON value has the fields of a record."""
    if not isinstance(value, dict):
        return False
    required = _FIELDS | (_TRAIN_FIELDS if value.get("split") == "train" else {})
    return all(
        name in value and isinstance(value[name], kind) and not isinstance(value[name], bool)
        for name, kind in required.items()
    )


def _name_lines(numbers: list[int]) -> str:
    """Return "line 3", or "lines 3, 7" of up to ten numbers."""
    return f"line{'s' * (len(numbers) > 1)} {list_names(numbers)}"


def _restore_records(directory: Path, step: int, last_recorded: int) -> list[str]:
    """Rewrite metrics.jsonl with its records up to a step, and return lines about problems found.

    A damaged file is kept under another name.
    """
    path = directory / "metrics.jsonl"
    is_missing = not path.exists()
    records, damaged = _parse_records(path)
    warnings = []
    if damaged:
        aside = unused_path(directory / "damaged_metrics.jsonl")
        write_atomically(aside, path.read_bytes())
        warnings.append(
            f"{path}, {_name_lines(damaged)}: no record of metrics; the file is kept as "
            f"{aside.name}, and its {len(records)} other records are used."
        )
    kept = [record for record in records if record["step"] <= step]
    last = max((record["step"] for record in kept), default=0)
    if last < last_recorded:
        what = "is missing" if is_missing else f"ends at step {last}"
        warnings.append(
            f"{path} {what}: the records of steps {last + 1} to {last_recorded} are lost; the "
            "checkpoints are not affected."
        )
    _write_records(directory, kept)
    return warnings


def _write_records(directory: Path, records: list[Record]) -> None:
    """Replace the records in metrics.jsonl."""
    write_atomically(directory / "metrics.jsonl", "".join(map(_format_line, records)))


def _format_line(record: Record) -> str:
    """Return a record as a line of metrics.jsonl."""
    return json.dumps(record, allow_nan=False) + "\n"


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
