"""The training error of a run: its curve, its last epoch, and when it reaches a threshold."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.records import Record


def select_records(records: Sequence[Record], split: str) -> list[Record]:
    """Return the records of a split while training."""
    return [r for r in records if r["split"] == split and "views" not in r]


def average_last_epoch(train: Sequence[Record]) -> float:
    """Return the training error averaged over the records that begin in the last epoch, or later.

    It is one number of whole records, where `compute_training_error` returns a curve whose epochs
    need not begin or end at a record.

    A record counts by its images. Of a run of less than an epoch, or with a record an epoch, it is
    that of the last record.
    """
    begins = [0.0, *(r["epoch"] or 0.0 for r in train[:-1])]
    end = train[-1]["epoch"] or 0.0
    last = [r for r, begin in zip(train, begins, strict=True) if begin >= end - 1 - 1e-6]
    last = last or [train[-1]]
    return sum(r["top1_error"] * r["count"] for r in last) / sum(r["count"] for r in last)


def compute_training_error(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs, and for each the error averaged over the epoch centered at it.

    Args:
        records: of metrics.jsonl; a training record has the errors since the one before.

    Returns:
        Both (points,), from half an epoch after the start to half an epoch before the end;
        empty for less than an epoch.
    """
    train = [record for record in records if record["split"] == "train"]
    ends = np.array([0.0, *(record["epoch"] for record in train)])
    errors = np.array([record["top1_error"] for record in train])
    wrong = np.array([0.0, *np.cumsum(errors * np.diff(ends))])  # since the start, in epochs
    last = ends[-1] - 0.5  # the last epoch may have no record at its middle
    at = ends[(ends >= 0.5) & (ends < last - 1e-6)]
    at = np.append(at, last) if last >= 0.5 else at
    return at, np.interp(at + 0.5, ends, wrong) - np.interp(at - 0.5, ends, wrong)


def find_crossing(threshold: float, epochs: np.ndarray, errors: np.ndarray) -> float | None:
    """Return the epoch at which a curve first reaches the threshold, interpolating linearly.

    That is the first point where it is below already; None for a curve that never reaches it.
    """
    below = np.flatnonzero(errors <= threshold)
    if not below.size:
        return None
    after = below[0]
    if not after:
        return float(epochs[0])
    pair = [after, after - 1]  # np.interp needs ascending abscissas
    return float(np.interp(threshold, errors[pair], epochs[pair]))
