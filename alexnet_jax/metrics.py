"""What a run says: sums and counts, metrics.jsonl, TensorBoard, a progress bar or lines."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from tqdm import tqdm

T = TypeVar("T")


@dataclass
class Totals:
    """Sums over images, divided once at the end.

    Attributes:
        loss: sum of the cross-entropies, in nats.
        top1, top5: images whose label is not first, or not among the first five.
        count: images.
    """

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    count: float = 0.0

    def add(self, sums: dict[str, Any]) -> None:
        """Add the sums of a batch, as `sums` gives them."""
        self.loss += float(sums["loss"])
        self.top1 += float(sums["top1"])
        self.top5 += float(sums["top5"])
        self.count += float(sums["count"])

    def means(self) -> dict[str, Any]:
        """Mean loss, errors as fractions, and the count."""
        return {
            "loss": self.loss / self.count,
            "top1_error": self.top1 / self.count,
            "top5_error": self.top5 / self.count,
            "count": int(self.count),
        }


def sums(log_probabilities: Array, label: Array, mask: Array) -> dict[str, Array]:
    """The sums of a batch for `Totals`.

    The label's rank is the number of classes with a higher probability, and among equals of
    those with a lower number, as in `jax.lax.top_k`. With up to five classes the
    top-5 error is 0. A probability that is not a number is an error.

    Args:
        log_probabilities: (batch, classes); label: (batch,); mask: (batch,), False where an
            image only pads the batch.
    """
    own = jnp.take_along_axis(log_probabilities, label[:, None], axis=1)
    lower = jnp.arange(log_probabilities.shape[1]) < label[:, None]
    before = (log_probabilities > own) | ((log_probabilities == own) & lower)
    rank = jnp.where(jnp.isnan(own[:, 0]), jnp.iinfo(jnp.int32).max, before.sum(1))
    return {
        "loss": -jnp.where(mask, own[:, 0], 0).sum(),
        "top1": (mask & (rank >= 1)).sum(),
        "top5": (mask & (rank >= 5)).sum(),
        "count": mask.sum(),
    }


class Log:
    """Writes what happens to metrics.jsonl, to TensorBoard and to the terminal.

    On a terminal a progress bar shows the last training values; otherwise each one is a
    line. Both go to stderr, so that stdout can be piped.
    """

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        """Go on after `step` of `steps`; later records of an interrupted run are cut off."""
        self._path = directory / "metrics.jsonl"
        _cut_after(self._path, step)
        self._file = self._path.open("a")
        self._events = _events(directory, step)
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
        """The first step is done: the time left is counted from now."""
        self._bar.set_postfix_str("")
        self._bar.unpause()

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update()

    def record(self, values: dict[str, Any]) -> None:
        """Write one object of metrics.jsonl and say it."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        numbers = {k: v for k, v in values.items() if k not in ("step", "split", "epoch", "count")}
        for name, value in numbers.items():
            self._events.add_scalar(f"{values['split']}/{name}", value, values["step"])
        if self._terminal and values["split"] == "train":
            self._bar.set_postfix_str(
                f"loss {values['loss']:.3f}, error {values['top1_error']:.1%}, "
                f"{values['images_per_second']:.0f} images/s"
            )
        else:
            self.say(describe(values, self._bar.total))

    def say(self, text: str) -> None:
        """A line on stderr, above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Flush everything; the bar of an interrupted run vanishes."""
        self._bar.leave = self._bar.n == self._bar.total
        self._bar.close()
        self._events.close()
        self._file.close()


def _events(directory: Path, step: int) -> Any:
    """The writer for TensorBoard.

    Its module imports PyTorch where that is installed, which takes seconds and is for graphs
    alone; None in the place of a module keeps it from being found.
    """
    modules: dict[str, Any] = sys.modules
    loaded = modules.setdefault("torch", None)
    try:
        from tensorboardX import SummaryWriter
    finally:
        if loaded is None:
            del modules["torch"]
    return SummaryWriter(str(directory), purge_step=step + 1)


class NoLog:
    """A log that writes nothing, for the processes of a run that do not speak for all."""

    def compiled(self) -> None:
        """As `Log`'s."""

    def advance(self) -> None:
        """As `Log`'s."""

    def record(self, values: dict[str, Any]) -> None:
        """As `Log`'s."""

    def say(self, text: str) -> None:
        """As `Log`'s."""

    def close(self) -> None:
        """As `Log`'s."""


def describe(values: dict[str, Any], steps: int) -> str:
    """A record as a line to read."""
    text = (
        f"step {values['step']}/{steps}, epoch {values['epoch']:.1f}: {values['split']} "
        f"loss {values['loss']:.4f}, top-1 error {values['top1_error']:.2%}, "
        f"top-5 {values['top5_error']:.2%}"
    )
    if values["split"] == "train":
        return (
            f"{text}, rate {values['learning_rate']:.1e}, "
            f"{values['images_per_second']:.0f} images/s"
        )
    return f"{text} of {values['count']} images"


def append(directory: Path, record: dict[str, Any]) -> None:
    """Add a record to metrics.jsonl after training; a half-written last line gives way."""
    path = directory / "metrics.jsonl"
    _write(path, [*read(directory), record])


def read(directory: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, oldest first; a half-written last line is left out."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def progress(items: Iterable[T], total: int, name: str) -> Iterable[T]:
    """The items, with a bar on stderr that vanishes when done, if stderr is a terminal."""
    bar = not sys.stderr.isatty() or jax.process_index() > 0
    return tqdm(items, total=total, desc=name, unit="batch", disable=bar, leave=False)


def _cut_after(path: Path, step: int) -> None:
    _write(path, [record for record in read(path.parent) if record["step"] <= step])


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(temporary, path)


def finite(tree: Any) -> bool:
    """Whether every number of a state is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
