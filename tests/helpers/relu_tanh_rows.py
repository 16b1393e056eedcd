"""Rows, records and settings of figure 1 for its tests."""

from pathlib import Path
from typing import Any

from alexnet_jax.config import validated
from alexnet_jax.records import Record
from configs.alexnet import get_config
from experiments.relu_tanh_results import Result
from experiments.sweeps.run import Base

RATES = (0.01, 0.05, 0.2)


def records(errors: list[float], every: float = 0.25) -> list[Record]:
    """Return training records `every` epochs apart, with one of validation to be ignored."""
    found = [
        Record(split="train", epoch=every * n, top1_error=error)
        for n, error in enumerate(errors, start=1)
    ]
    found.insert(2, Record(split="validation", epoch=0.5, top1_error=0.0))
    return found


def row(units: str, rate: float, epochs: float | None, seed: int = 0, **more: Any) -> Result:
    return Result(units, rate, seed, **{"status": "done", "threshold": 0.1, "epochs": epochs,
                                        "last_error": 0.05, "seconds": 9.0, **more})  # fmt: skip


def grid() -> list[Result]:
    """ReLU is fastest in the midst of the rates; tanh at the lowest."""
    return [
        *(row("relu", 0.01, 6.0), row("relu", 0.05, 2.0)),
        row("relu", 0.2, None, status="diverged, see x"),
        *(row("tanh", 0.01, 4.0), row("tanh", 0.05, 5.0), row("tanh", 0.2, None, last_error=0.5)),
    ]


def base(**overrides: Any) -> Base:
    config = validated(get_config("sample"))
    return Base("configs/alexnet.py:sample", overrides, config, Path("out"))
