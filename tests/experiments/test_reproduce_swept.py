"""Claims on CIFAR-10 whose runs other experiments make."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import processes

from alexnet_jax import command
from alexnet_jax.status import RunStatus, Status
from experiments import ablations
from experiments.relu_tanh_results import Result as RateResult
from experiments.reproduce import report, runs, swept, verdicts
from experiments.reproduce.claims import BY_NAME, RATES, choose_claims
from experiments.reproduce.runs import Budget, RunRow
from experiments.sweeps.rows import write_rows


def write_swept(output: Path) -> None:
    """Write rows of the experiments relu_tanh and ablations, and runs of relu_tanh.

    Among them are runs that are not the claim's: a faster one at another rate, a fourth seed, and
    one that stopped at another threshold. Of the claim's, one has finished after 1,800 seconds, and
    one was interrupted; the folders of the others are gone.
    """
    epochs = [("relu", 0.002, 0, 4.0), ("relu", 0.002, 1, 6.0), ("relu", 0.004, 0, 8.0)]
    epochs += [("tanh", 0.008, 0, 20.0), ("tanh", 0.008, 1, 22.0)]
    epochs += [("relu", 0.003, 0, 2.0), ("relu", 0.002, 3, 99.0)]
    rows = [RateResult(u, r, s, "done", threshold=0.25, epochs=e) for u, r, s, e in epochs]
    rows += [RateResult("tanh", 0.016, 0, "done", threshold=0.5, epochs=3.0)]
    write_rows(command.make_folder(output / "relu_tanh") / "relu_tanh.csv", rows)
    later = ("no_crops", "no_lrn")  # with a fourth seed
    errors = [("base", 0.20, 0.21), ("no_crops", 0.25, 0.19), ("no_lrn", 0.22, 0.22)]
    write_rows(
        command.make_folder(output / "ablations") / "ablations.csv",
        [
            ablations.Result(name, seed, "done", top1_center=center, top1_ten=ten)
            for seed in range(3)
            for name, center, ten in errors
        ]
        + [ablations.Result(name, 3, "done", top1_center=0.9, top1_ten=0.9) for name in later],
    )
    finished = ("relu-0.002-0", "relu-0.003-0", "relu-0.002-3", "tanh-0.016-0")
    for number, name in enumerate(finished):
        write_run(output / "relu_tanh" / "runs" / name, 0.5 + number)
    write_run(output / "relu_tanh" / "runs" / "tanh-0.008-0", 9.0, "interrupted")
    write_run(output / "ablations" / "runs" / "base-0", 0.5)


def write_run(workdir: Path, speed: float, status: Status = "finished") -> None:
    """Write what a run on a GPU leaves, of 900 images at so many images a second."""
    record = dict(step=1, epoch=1.0, split="train", loss=1.0, top1_error=0.5, top5_error=0.2)
    record |= dict(count=900, learning_rate=0.01, images_per_second=speed)
    end = RunStatus(status, 1, "", datetime.now(UTC).isoformat(), machine="a GPU")
    (command.make_folder(workdir) / "status.json").write_text(json.dumps(asdict(end)))
    (workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")


def test_finished_runs_of_other_experiments_are_in_the_table(tmp_path: Path) -> None:
    """Catches: interrupted runs that count, and finished ones with a rate, a seed or a threshold
    that is not the claim's; a table without the time, machine or date of the runs that another
    command has made, or with the machine that makes the table in place of theirs; a run that counts
    twice for a claim that takes two of its errors."""
    write_swept(tmp_path)
    (row,) = report.make_table([BY_NAME["relu_tanh"]], [], tmp_path)
    assert row.verdict == "1 of 10 runs done"
    assert (row.took, row.machine) == ("0.50 h", "a GPU")
    assert row.date == datetime.now(UTC).date().isoformat()
    (row,) = report.make_table([BY_NAME["alexnet_ten_views"]], [], tmp_path)
    assert row.took == "0.50 h"


def test_claims_of_other_experiments_are_measured_from_their_tables(tmp_path: Path) -> None:
    """Catches: slower rates, and runs that are not the claim's, among the values; tanh over ReLU
    upside down; fractions taken for percent; ten views of a model trained without crops."""
    assert report.measure_claim(BY_NAME["relu_tanh"], [], tmp_path) == verdicts.Outcome()
    write_swept(tmp_path)

    def measure(name: str) -> tuple[str, str]:
        found = report.measure_claim(BY_NAME[name], [], tmp_path)
        return found.here, found.verdict

    assert measure("relu_tanh") == ("4.2 times", "")  # two of three seeds
    assert measure("alexnet_no_lrn") == ("+1.00 points", verdicts.SAME_DIRECTION)
    assert measure("alexnet_ten_views") == ("-1.00 points", verdicts.OPPOSITE)
    assert measure("alexnet_no_crops") == ("+5.00 points", verdicts.SAME_DIRECTION)
    assert measure("alexnet_no_conv2") == ("", "")


def test_runs_that_have_ended_without_a_value_are_a_verdict(tmp_path: Path) -> None:
    """Catches: an experiment that is started again and again since a run diverged or did not reach
    the error; a verdict while a rate, or a seed, has not ended."""
    claim, folder = BY_NAME["relu_tanh"], command.make_folder(tmp_path / "relu_tanh")
    tanh = RATES["tanh"]
    rows = [RateResult("relu", r, 0, "done", 0.25, epochs=99 * r) for r in RATES["relu"]]
    rows += [RateResult("tanh", rate, 0, "done", 0.25) for rate in tanh[:2]]
    fastest = min(RATES["relu"])
    rows += [RateResult("relu", fastest, 1, "done", 0.25, epochs=3.0)]

    def verdict(*more: RateResult) -> str:
        write_rows(folder / "relu_tanh.csv", [*rows, *more])
        return report.measure_claim(claim, [], tmp_path).verdict

    last_rate = RateResult("tanh", tanh[2], 0, "diverged, see log", 0.25)
    last_seed = RateResult("relu", fastest, 2, "done", 0.25)
    assert verdict(last_seed) == verdict(last_rate) == ""
    assert verdict(last_seed, replace(last_rate, status="failed, see log")) == ""
    assert verdict(last_seed, last_rate) == "ReLU: not reached; tanh: not reached"
    assert swept.missing_experiments([claim], tmp_path) == []
    last_seed = replace(last_seed, epochs=2.0)
    assert verdict(last_seed, last_rate) == "tanh: not reached"

    ended = [ablations.Result("base", s, "done", top1_ten=0.2) for s in range(3)]
    ended += [ablations.Result("no_lrn", s, "done", top1_ten=0.2) for s in range(2)]
    ended += [ablations.Result("no_lrn", 2, "diverged, see log")]
    for count, expected in ((5, ""), (6, "no_lrn: diverged")):
        write_rows(command.make_folder(tmp_path / "ablations") / "ablations.csv", ended[:count])
        measured = report.measure_claim(BY_NAME["alexnet_no_lrn"], [], tmp_path)
        assert measured.verdict == expected

    diverged = RunRow("80sec", 0, "diverged, see log")
    assert report.measure_claim(BY_NAME["80sec"], [diverged], tmp_path).verdict == "diverged"
    failed = replace(diverged, status="failed, see log")
    assert report.measure_claim(BY_NAME["80sec"], [failed], tmp_path).verdict == ""


def test_other_experiments_are_run_until_there_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: an experiment that is complete run again; one that is incomplete left alone, or
    started without time for it; a failure that is not an exit status."""
    write_swept(tmp_path)
    ran: list[list[str]] = []

    def fail_after_the_first(words: list[str]) -> int:
        ran.append(words[1:])
        return len(ran) - 1

    monkeypatch.setattr(swept, "run_program", fail_after_the_first)
    claims = choose_claims(["relu_tanh", "alexnet_no_lrn", "alexnet_no_conv2"])

    def run(seconds: float | None) -> bool:
        budget = Budget(seconds, is_gpu=False, jobs=1)
        return swept.run_experiments(claims, "data", tmp_path, budget, ["--jobs=2"])

    assert not run(60.0)
    assert ran == []
    estimate = runs.format_seconds(3240 * BY_NAME["relu_tanh"].hours)  # without 1 of 10 runs
    assert capsys.readouterr().err.startswith(f"not started: relu_tanh, {estimate}\n")
    assert run(None)
    assert [arguments[1] for arguments in ran] == ["experiments.relu_tanh", "experiments.ablations"]
    assert "alexnet_no_conv2: failed, exit status 1" in capsys.readouterr().err
    assert {"--only=base,no_conv2", "--jobs=2", f"--output={tmp_path / 'ablations'}"} <= {*ran[1]}


def test_the_time_of_an_experiment_is_that_of_its_missing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: hours of all runs multiplied by the jobs that share them, so that a budget does
    not start the experiment; time of runs that are done; a time for a GPU."""
    claim = BY_NAME["relu_tanh"]
    assert claim.sweep is not None
    hours, ran = claim.sweep.hours, list[list[str]]()
    monkeypatch.setattr(swept, "run_program", lambda words: ran.append(words[1:]))

    def run(seconds: float) -> int:
        ran.clear()
        budget = Budget(seconds, is_gpu=False, jobs=2)
        swept.run_experiments([claim], "data", tmp_path, budget, ["--jobs=2"])
        return len(ran)

    budget = Budget(None, is_gpu=False, jobs=2)
    assert swept.list_experiments([claim], "data", tmp_path, budget) == [3600 * hours]
    assert (run(3500 * hours), run(3700 * hours)) == (0, 1)
    write_swept(tmp_path)  # one of ten runs is done
    assert swept.list_experiments([claim], "data", tmp_path, budget) == [3240 * hours]
    assert (run(3200 * hours), run(3500 * hours)) == (0, 1)
    assert budget.seconds_of_sweep(claim.sweep, 11) == 0
    assert Budget(None, is_gpu=True, jobs=1).seconds_of_sweep(claim.sweep, 0) is None
    assert "not started: relu_tanh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "runs"), [("relu_tanh", ["relu-0.002-0"]), ("alexnet_no_lrn", ["base-0", "no_lrn-0"])]
)
def test_commands_of_other_experiments_are_theirs(
    tmp_path: Path, name: str, runs: list[str]
) -> None:
    """Catches: a flag or a word that the other experiment does not have, or has no longer."""
    claim = BY_NAME[name]
    _, module, *arguments = swept.experiment_command(claim, "data", tmp_path)
    listed = processes.run(module.partition(".")[2], *arguments, "--list", package="experiments")
    assert listed.returncode == 0, listed.stderr
    assert {*runs} <= {line.split(":")[0] for line in listed.stdout.splitlines()}
