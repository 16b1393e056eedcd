"""The time to the first step is taken from the run's records."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.benchmark import cases, sample_benchmarks

RECORDS = """
import json, sys, time
path = sys.argv[1] + "/metrics.jsonl"
record = dict(step=1, epoch=0.1, loss=2.3, top1_error=0.9, top5_error=0.5, count=8)
print("step 1/2 is near", flush=True)
open(path, "w").write(json.dumps(dict(record, split="validation")) + "\\n")
time.sleep(0.3)
line = json.dumps(dict(record, split="train", learning_rate=0.1, images_per_second=9.0))
open(path, "a").write(line[:-1])
time.sleep(0.3)
open(path, "a").write("}\\n")
time.sleep(60)
"""


@pytest.fixture
def replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A program in place of the sample command."""

    @contextmanager
    def run(*_: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        with subprocess.Popen(
            [sys.executable, "-c", request.param, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            yield process, tmp_path

    monkeypatch.setattr(sample_benchmarks, "_sample_run", run)


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("replaced", [RECORDS], indirect=True)
def test_the_first_step_is_the_first_training_record() -> None:
    """Catches: a time taken from what the run prints, from a record of another split, or from
    half a line; a wait for the run's end."""
    assert 0.6 < sample_benchmarks._time_first_step("cache") < 30


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("replaced", ["print('no room')"], indirect=True)
def test_a_run_without_a_step_is_an_error() -> None:
    """Catches: a time for a run that failed; its output lost; a wait that does not end."""
    with pytest.raises(RuntimeError, match="before its first step:\nno room"):
        sample_benchmarks._time_first_step("cache")


def test_images_on_the_device_are_compared_with_those_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches: a ratio upside down; the first runs, which compile, among the others; the wall time
    for the CPU time, or that of this process; a run that failed counted as a fast one."""
    spent, runs = [0.0], list[str]()

    @contextmanager
    def run(_: str, *overrides: str) -> Iterator[tuple[SimpleNamespace, Path]]:
        runs.append(overrides[-1].removeprefix("--config.data.resident="))
        first = len(runs) <= 2
        spent[0] += 100.0 if first else {"on": 2.0, "off": 3.0}[runs[-1]]
        yield SimpleNamespace(communicate=lambda: ("ill", None), returncode=failed), Path()

    failed = 0
    monkeypatch.setattr(sample_benchmarks, "_sample_run", run)
    monkeypatch.setattr(sample_benchmarks, "_children_user_seconds", lambda: spent[0])
    result = sample_benchmarks.time_resident(2)
    assert runs == ["on", "off"] * 3
    assert (result["user_seconds"], result["user_reference_seconds"]) == (2.0, 3.0)
    assert result["user_ratio"] == result["user_ratio_high"] == 1.5
    assert result["seconds"] < 1
    assert "user time 2 s, images on the host 3 s, ratio 1.50 (1.50–1.50)" in result["summary"]
    failed = 2
    with pytest.raises(RuntimeError, match="the sample run failed:\nill"):
        sample_benchmarks.time_resident(1)


def test_slow_rates_keep_their_digits() -> None:
    """Catches: rates of a few images per second that are rounded to a whole number."""
    result = dict(
        name="vgg_train_step/torch_eager", images_per_second=1.1649, reference="eager, contiguous",
        reference_images_per_second=1661.4, ratio=0.8, ratio_low=0.7, ratio_high=0.9,
    )  # fmt: skip
    assert cases.format_result(result) == (
        "vgg_train_step/torch_eager: 1.16 images/s, reference (eager, contiguous) 1,661, "
        "ratio 0.80 (0.70–0.90)"
    )
