"""The rows of a sweep, one per run, read from and written to a CSV file."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from alexnet_jax.errors import InputError
from alexnet_jax.files import MAKE_ROOM, replace_when_complete, write_errors_as_input_errors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Row(Protocol):
    """The row of a run: a dataclass of strings and numbers, some of which may be None.

    Attributes:
        name: the run's name.
        status: "done", "diverged, …" or "failed, …".
        seconds: duration of the command, or the share in it of a run trained with others; None if
            unknown.
        outcome: a few words, printed when the run ends.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def seconds(self) -> float | None: ...  # noqa: D102
    @property
    def outcome(self) -> str: ...  # noqa: D102


R = TypeVar("R", bound=Row)
D = TypeVar("D", bound="DataclassInstance")


def to_percents(fractions: Iterable[float | None]) -> list[float]:
    """Return fractions in percent, without those of rows that have none."""
    return [100 * fraction for fraction in fractions if fraction is not None]


def read_rows(path: Path, row_type: type[D]) -> list[D]:
    """Return the rows of a CSV file; none if there is no file.

    Raises:
        InputError: the file cannot be read as rows of this type.
    """
    if not path.exists():
        return []
    types = get_type_hints(row_type)

    def value(name: str, text: str) -> Any:
        """Return the value of a field from its text; None if that is empty and None is allowed."""
        if types[name] == float | None:
            return float(text) if text else None
        return types[name](text)

    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            if set(rows.fieldnames or ()) != {field.name for field in fields(row_type)}:
                raise ValueError("it has other columns")
            found = [*rows]
        if any(None in row or None in row.values() for row in found):
            raise ValueError("a row has more or fewer fields than columns")
        return [row_type(**{name: value(name, row[name]) for name in row}) for row in found]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is not a table of this sweep ({error}); move it away, or give another --output"
        ) from None


def write_rows(path: Path, rows: list[D]) -> None:
    """Write rows as a CSV file.

    Raises:
        InputError: the file cannot be written.
    """
    with (
        write_errors_as_input_errors(path, MAKE_ROOM),
        replace_when_complete(path) as new,
        new.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(type(rows[0]))])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
