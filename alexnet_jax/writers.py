"""Write records of metrics to metrics.jsonl, TensorBoard and the terminal, and read them."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from tqdm import tqdm

from alexnet_jax.files import write_atomically

if TYPE_CHECKING:  # that module imports JAX
    from alexnet_jax.metrics import Metrics

T = TypeVar("T")


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
    """Write records to metrics.jsonl, to TensorBoard and to the terminal.

    On a terminal a progress bar shows the latest training metrics; otherwise each record is
    printed as a line. Both are written to stderr, so that stdout can be piped.
    """

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        """Continue after `step` of `steps`, and delete the records of later steps.

        An interrupted run may have recorded steps after its newest checkpoint.
        """
        kept = [record for record in read_records(directory) if record["step"] <= step]
        _write_records(directory, kept)
        self._file = (directory / "metrics.jsonl").open("a")
        self._events = _open_events(directory, step)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            disable=not self._terminal,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self._bar.set_postfix_str("compiling the step")

    def compiled(self) -> None:
        """Start to estimate the remaining time; call this after the first step."""
        self._bar.set_postfix_str("")
        self._bar.unpause()

    def advance(self) -> None:
        """Move the progress bar by one step."""
        self._bar.update()

    def write_record(self, record: Record) -> None:
        """Append a record to metrics.jsonl, add it to TensorBoard and show it."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name not in NOT_CURVES:
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])
        if self._terminal and record["split"] == "train":
            self._bar.set_postfix_str(
                f"loss {record['loss']:.3f}, error {record['top1_error']:.1%}, "
                f"{record['images_per_second']:.0f} images/s"
            )
        else:
            self.write_line(format_record(record, self._bar.total))

    def write_line(self, text: str) -> None:
        """Print a line on stderr, above the progress bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close all files, and remove the progress bar of an interrupted run."""
        self._bar.leave = self._bar.n == self._bar.total
        self._bar.close()
        self._events.close()
        self._file.close()


class NullWriter:
    """A writer that does nothing, for all processes but the first."""

    def compiled(self) -> None:
        """Do nothing."""

    def advance(self) -> None:
        """Do nothing."""

    def write_record(self, record: Record) -> None:
        """Do nothing."""

    def write_line(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def format_record(record: Record, steps: int) -> str:
    """Return a record as a line of text."""
    text = (
        f"step {record['step']}/{steps}, epoch {record['epoch']:.1f}: {record['split']} "
        f"loss {record['loss']:.4f}, top-1 error {record['top1_error']:.2%}, "
        f"top-5 {record['top5_error']:.2%}"
    )
    if record["split"] == "train":
        return (
            f"{text}, rate {record['learning_rate']:.1e}, "
            f"{record['images_per_second']:.0f} images/s"
        )
    return f"{text} of {record['count']} images"


def read_records(directory: Path) -> list[Record]:
    """Return the records of metrics.jsonl, oldest first, without an incomplete last line."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_record(directory: Path, record: Record) -> None:
    """Append a record to metrics.jsonl after training, in place of an incomplete last line."""
    _write_records(directory, [*read_records(directory), record])


def progress_bar(items: Iterable[T], total: int, name: str, unit: str = "batch") -> Iterable[T]:
    """Return the items, with a temporary progress bar if stderr is a terminal."""
    import jax  # not at the top, since programs that only read records do not need it

    hidden = not sys.stderr.isatty() or jax.process_index() > 0
    bar: Iterable[T] = tqdm(items, total=total, desc=name, unit=unit, disable=hidden, leave=False)
    return bar


def _write_records(directory: Path, records: list[Record]) -> None:
    """Replace the records in metrics.jsonl."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(directory / "metrics.jsonl", text)


def _open_events(directory: Path, step: int) -> Any:
    """Return a TensorBoard writer for the steps after `step`."""
    with _torch_hidden():
        from tensorboardX import SummaryWriter
    return SummaryWriter(str(directory), purge_step=step + 1)


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
