"""The progress of a training on stderr: of one run, or of several that are trained together."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

from alexnet_jax.records import Record

T = TypeVar("T")


class TrainingBar:
    """A progress bar on a terminal with the latest training metrics; otherwise lines of records.

    Both are written to stderr, so that stdout can be piped.
    """

    def __init__(self, step: int, steps: int, *, hidden: bool = False) -> None:
        """Begin after `step` of `steps`; show nothing if `hidden`, in all processes but one."""
        self._terminal, self._hidden = sys.stderr.isatty() and not hidden, hidden
        self._latest: dict[str, Record] = {}  # of training, by name of the run
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

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        self._bar.update(step - self._bar.n)

    def show(self, record: Record, run: str = "") -> None:
        """Show a record, that of training in the bar.

        Args:
            record: the record.
            run: name of the run among several; "" for a single one.
        """
        if self._terminal and record["split"] == "train":
            self._latest[run] = record
            self._bar.set_postfix_str(format_latest([*self._latest.values()]))
        else:
            self.write_line(format_record(record, self._bar.total), run)

    def forget(self, run: str) -> None:
        """Leave out the metrics of a run that has ended before the others."""
        if self._latest.pop(run, None) is not None and self._latest:
            self._bar.set_postfix_str(format_latest([*self._latest.values()]))

    def write_line(self, text: str, run: str = "") -> None:
        """Print a line on stderr, above the bar, after the name of the run if it has one."""
        if not self._hidden:
            self._bar.write(f"{run}: {text}" if run else text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar of an interrupted training, and leave that of a complete one."""
        self._bar.leave = self._bar.n == self._bar.total
        self._bar.close()


def format_latest(records: Sequence[Record]) -> str:
    """Return the latest training metrics of runs as text, with the range of several.

    The speed is that of all runs together.
    """
    losses = [record["loss"] for record in records]
    errors = [record["top1_error"] for record in records]
    loss, error = f"{min(losses):.3f}", f"{min(errors):.1%}"
    if len(records) > 1:
        loss, error = f"{loss} to {max(losses):.3f}", f"{error} to {max(errors):.1%}"
    speed = sum(record["images_per_second"] for record in records)
    return f"loss {loss}, error {error}, {speed:.0f} images/s"


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


def progress_bar(items: Iterable[T], total: int, name: str, unit: str = "batch") -> Iterable[T]:
    """Return the items, with a temporary progress bar if stderr is a terminal."""
    import jax  # not at the top, since programs that only read records do not need it

    hidden = not sys.stderr.isatty() or jax.process_index() > 0
    bar: Iterable[T] = tqdm(items, total=total, desc=name, unit=unit, disable=hidden, leave=False)
    return bar
