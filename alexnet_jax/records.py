"""The records of a run's metrics, the lines of metrics.jsonl: make, read and restore them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from alexnet_jax.errors import InputError, list_names
from alexnet_jax.files import (
    MAKE_ROOM,
    unused_path,
    write_atomically,
    write_errors_as_input_errors,
)

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


def training_records(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records made during training by split, "train" and "validation".

    A split without records is left out.
    """
    found: dict[str, list[Record]] = {"train": [], "validation": []}
    for record in records:
        if "views" not in record and record["split"] in found:
            found[record["split"]].append(record)
    return {split: rows for split, rows in found.items() if rows}


def final_records(records: Sequence[Record]) -> dict[str, Record]:
    """Return the records of the final evaluation after the last recorded step, by their views.

    A finished run that is continued keeps those of its former last step, which are left out. The
    result is empty if the run has not been evaluated after its last step.
    """
    last = max((record["step"] for record in records), default=0)
    return {r["views"]: r for r in records if "views" in r and r["step"] == last}


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
            format_line(record)  # which refuses numbers that are not finite
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


def restore_records(directory: Path, step: int, last_recorded: int) -> list[str]:
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
    write_atomically(directory / "metrics.jsonl", "".join(map(format_line, records)))


def format_line(record: Record) -> str:
    """Return a record as a line of metrics.jsonl."""
    return json.dumps(record, allow_nan=False) + "\n"
