"""The claims on CIFAR-10: their runs, the table and the command."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from absl import flags
from helpers import ROOT, in_process, processes
from helpers.image_sets import write_cifar10_binary

from alexnet_jax import command
from alexnet_jax.config import validated
from alexnet_jax.data.sources import cifar10_binary
from alexnet_jax.errors import InputError
from alexnet_jax.fields import replace as replace_fields
from alexnet_jax.machine import describe_machine
from alexnet_jax.schedules import total_steps
from alexnet_jax.status import write_status
from experiments.reproduce import report, runs, verdicts
from experiments.reproduce.__main__ import check_data, main
from experiments.reproduce.claim import Claim, TrainedGroup, Training
from experiments.reproduce.claims import BY_NAME, CLAIMS, EIGHTEEN, choose_claims
from experiments.reproduce.runs import Budget, Plan, RunRow
from experiments.reproduce.verdicts import Close
from experiments.sweeps import sweep
from experiments.sweeps.rows import read_rows


def test_claims_are_chosen_by_name() -> None:
    """Catches: a misspelled name that runs everything, or nothing."""
    assert [claim.name for claim in choose_claims(["lrn", "80sec"])] == ["80sec", "lrn"]
    assert len(choose_claims([])) == len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    with pytest.raises(InputError, match=r"--claims=80sec,x: x is none of 80sec, 18pct"):
        choose_claims(["80sec", "x"])


def test_every_training_has_a_valid_config_and_a_name_of_its_own(tmp_path: Path) -> None:
    """Catches: two configs that share a workdir; a field that does not exist; a claim without a
    criterion that is not called shortened."""
    trainings: dict[str, Training] = {}
    for claim in CLAIMS:
        assert claim.published or "shortened" in claim.paper
        assert bool(claim.published) == bool(claim.rule.criterion)
        for group in claim.trained:
            assert trainings.setdefault(group.training.name, group.training) == group.training
    planned = runs.plan_runs(CLAIMS, "data", tmp_path)
    assert {one.training.name for one in planned} == {*trainings}
    assert len({one.run.workdir for one in planned}) == len(planned)
    for one in planned:
        assert one.config.data.name == "cifar10_binary"
        assert one.config.seed == one.run.key[1]


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("80sec-0", "configs/cifar.py:80sec", {}),
        (
            "18pct_quarter-0",
            "configs/cifar.py:18pct",
            {"epochs": 35, "schedule.drop_epochs": (31, 34)},
        ),
    ],
)
def test_runs_made_by_hand_have_the_same_config(
    tmp_path: Path, name: str, file: str, changes: dict[str, Any]
) -> None:
    """Catches: a field that is set for runs of this command only, so that others do not count."""
    (one,) = (p for p in runs.plan_runs(CLAIMS, "data", tmp_path) if p.run.name == name)
    by_hand = replace_fields(command.load_config(file), {**changes, "data.dir": "data"})
    assert one.config == validated(by_hand)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("resnet20", 64_000), ("resnet20_tenth", 6_400), ("18pct", 55_300), ("18pct_quarter", 13_825)],
)
def test_schedules_have_the_published_number_of_steps(
    tmp_path: Path, name: str, steps: int
) -> None:
    """Catches: images held out of the published training set; a shortened schedule of another
    length."""
    (one,) = (p for p in runs.plan_runs(CLAIMS, "data", tmp_path) if p.run.name == f"{name}-0")
    assert one.config.data.validation_share == 0
    assert total_steps(one.config, 50_000) == steps


TINY_FIELDS = (
    ("batch_size", 8),
    ("epochs", 2),
    ("schedule.drop_epochs", (2,)),
    ("data.part_images", 20),
    ("log_every", 3),
    ("checkpoint_every", 5),
)
TINY = Training("80sec", "configs/cifar.py:80sec", 0.01, TINY_FIELDS)
TINY_CLAIM = Claim(
    "80sec", "paper", "test error", "90 %", Close(90, 50.0), (TrainedGroup("", TINY, "ten_error"),)
)
NEVER = replace(TINY_CLAIM, name="never", groups=(TrainedGroup("", replace(TINY, name="x"), ""),))


class Executor:
    """Runs every job at once, in this process."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, words: Sequence[str], name: str) -> SimpleNamespace:
        _, _, module, *arguments = words
        self.started.append(next(w for w in arguments if "--workdir" in w).rpartition("/")[2])
        ran = in_process.run_here(module.removeprefix("alexnet_jax."), *arguments)
        error = OSError(ran.stderr) if ran.returncode else None
        paths = SimpleNamespace(stderr=f"{ran.stderr}")
        return SimpleNamespace(done=lambda: True, exception=lambda: error, paths=paths)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a folder with CIFAR-10's files of 20 images each."""
    monkeypatch.setattr(cifar10_binary, "IMAGES_PER_FILE", 20)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_cifar10_binary(tmp_path / "cifar", 20)
    return str(tmp_path / "cifar")


def run_tiny(output: Path, data_dir: str) -> tuple[list[str], str]:
    """Run the tiny claim; return the runs that were started, and the report."""

    def write(rows: list[RunRow]) -> str:
        return report.write_report([TINY_CLAIM, NEVER], output, rows)

    budget = Budget(None, is_gpu=False, jobs=1)
    plan = Plan(runs.plan_runs([TINY_CLAIM], data_dir, output), budget, seeds_together=False)
    made = runs.make_runs(plan, output, 1, write)
    executor = Executor()
    made.run_waiting(cast(Any, executor))
    return executor.started, write(made.results)


def read_table(output: Path) -> list[dict[str, str]]:
    with (output / "reproduce.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.usefixtures("quick_to_compile")
def test_a_claim_from_end_to_end(tmp_path: Path, data_dir: str) -> None:
    """Catches: a finished run that is started again, or that counts only if this command has made
    it; one of another schedule or another end that counts; a table without its machine, date or
    command; a page with the folders of this machine, or without the cells of a row."""
    output = tmp_path / "out"
    started, text = run_tiny(output, data_dir)
    assert started == ["80sec-0"]
    first, never = read_table(output)
    assert first["verdict"] == verdicts.REPRODUCED
    assert first["machine"] == describe_machine()
    assert re.fullmatch(r"\d\.\d\d h", first["took"])
    assert first["date"].startswith("20")
    assert "--config=configs/cifar.py:80sec" in first["command"]
    assert f"| {first['here']}; {first['spread']} | {verdicts.REPRODUCED} |" in text
    assert (never["here"], never["verdict"], never["machine"]) == (report.NOT_RUN, "", "")
    page = (output / "reproduce.html").read_text()
    assert page.count("<img") == 2
    assert f"<td>{first['here']}; {first['spread']}</td>" in page
    assert f"{first['took']}; {describe_machine()}; {first['date']}</td></tr>" in page
    assert str(tmp_path) not in page + text + str(first)
    assert run_tiny(output, data_dir) == ([], text)

    (output / "runs.csv").unlink()  # as for a run made by hand
    assert run_tiny(output, data_dir) == ([], text)
    (output / "runs.csv").unlink(missing_ok=True)
    for field, value in (("epochs", 3), ("stop_error", 0.5), ("learning_rate", 0.5)):
        changed = replace(TINY, fields=(*TINY_FIELDS, (field, value)))
        claim = replace(TINY_CLAIM, groups=(TrainedGroup("", changed, "ten_error"),))
        planned = runs.plan_runs([claim], data_dir, output)
        with pytest.raises(InputError, match=f"made with .*{field}"):
            runs.add_finished([], planned)


@pytest.mark.usefixtures("quick_to_compile")
def test_an_interrupted_run_shows_its_step_and_is_continued(tmp_path: Path, data_dir: str) -> None:
    """Catches: a run that began elsewhere counted as done, or started anew; a table that says "not
    run" of it."""
    output = tmp_path / "out"
    (one,) = runs.plan_runs([TINY_CLAIM], data_dir, output)
    config = replace_fields(one.config, {"max_steps": 10})
    assert in_process.train_here(config, one.run.workdir) == 0
    write_status(one.run.workdir, "interrupted", "stopped by SIGTERM")
    assert runs.add_finished([], [one]) == []
    assert "at step 10" in str(runs.read_progress(one.run.workdir))
    started, _ = run_tiny(output, data_dir)
    assert started == ["80sec-0"]
    steps = {r["step"] for r in processes.records(one.run.workdir)}
    assert max(steps) == 2 * 5 * 3


def test_the_committed_table_is_that_of_the_documentation(tmp_path: Path) -> None:
    """Catches: a result in the file and not in the documentation, or the other way round; claims,
    criteria or commands that were changed after the runs."""
    table = read_rows(ROOT / "experiments" / "results" / "reproduce.csv", report.TableRow)
    expected = report.make_table(CLAIMS, [], tmp_path)  # without results
    names = ("claim", "paper", "statement", "published", "criterion", "cpu", "command")
    for row, claimed in zip(table, expected, strict=True):
        assert [getattr(row, n) for n in names] == [getattr(claimed, n) for n in names]
    readme = (ROOT / "experiments" / "README.md").read_text()
    assert report.format_markdown(table) in readme
    lines = (ROOT / "docs" / "cifar.md").read_text().splitlines()
    for row in table:
        of = [line for line in lines if line.startswith(f"| `{row.claim}`")]
        assert all(row.here == report.NOT_RUN or row.here in line for line in of)


def test_data_that_is_missing_is_one_message(tmp_path: Path, data_dir: str) -> None:
    """Catches: runs that each fail for want of data; the folder above taken for the data."""
    assert check_data(data_dir) == data_dir
    with pytest.raises(InputError, match="--data_dir is missing; expected the folder"):
        check_data(None)
    with pytest.raises(InputError, match=r"lacks data_batch_1\.bin"):
        check_data(str(tmp_path))
    with pytest.raises(InputError, match=r"--data_dir=.*/nowhere is not a folder; expected that"):
        check_data(str(tmp_path / "nowhere"))
    Path(data_dir).rename(tmp_path / cifar10_binary.FOLDER)
    with pytest.raises(InputError, match="has the folder of the files; give"):
        check_data(str(tmp_path))


def test_a_dry_run_writes_nothing(
    tmp_path: Path,
    data_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches: a folder, or a table of runs made by hand, that --dry_run leaves behind; seeds
    together on a CPU, whose runs would all be refused; the time of another experiment, which is of
    all its jobs, divided by their number; a list that does not say that it exceeds the budget."""
    output = tmp_path / "out"
    given = dict(claims=["80sec", "18pct"], list=False, budget=None, platform="cpu", jobs=1)
    given |= dict(dry_run=True, data_dir=data_dir, output=str(output), seeds_together=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given | dict(seeds_together=True)))
    with pytest.raises(InputError, match=r"--seeds_together .* since JAX_PLATFORMS=cpu"):
        main([])
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given))
    monkeypatch.setattr(runs, "add_finished", lambda *_: [RunRow("80sec", 0, "done")])
    assert main([]) == 0
    assert not output.exists()
    printed = capsys.readouterr()
    assert printed.out.startswith("python -m alexnet_jax.main --config=configs/cifar.py:18pct ")
    assert printed.err == f"1 commands: about {EIGHTEEN.hours:g} h\n"
    given |= dict(claims=["18pct", "relu_tanh"], jobs=2)
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given))
    assert main([]) == 0
    hours = EIGHTEEN.hours + BY_NAME["relu_tanh"].hours
    assert capsys.readouterr().err == f"2 commands: about {hours:.2g} h\n"
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**given | dict(budget="5h")))
    assert main([]) == 0
    together = "each fits into the budget, but not all of them together"
    assert capsys.readouterr().err == f"2 commands: about {hours:.2g} h; {together}\n"


class Flags(SimpleNamespace):
    """Flags of the command, none of which was given."""

    def __getitem__(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(present=False)


def test_a_run_that_fails_again_is_counted(
    tmp_path: Path,
    data_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches: a failure that is neither printed nor an exit status, since its row is equal to
    that of the command before; a failed run that was not started again and is counted."""
    given = dict(claims=["80sec"], list=False, budget=None, platform="cpu", jobs=1, dry_run=False)
    given |= dict(data_dir=data_dir, output=str(tmp_path / "out"), seeds_together=False)

    def end_at_once(made: Any, _: object) -> None:
        for run in made.waiting():
            made._add_row(run, "done", 1.0)

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sweep.Runs, "run_waiting", end_at_once)
    monkeypatch.setattr(sweep, "make_executor", lambda: None)
    monkeypatch.setattr(flags, "FLAGS", Flags(**given))
    for _ in range(2):
        assert main([]) == 1
        printed = capsys.readouterr().err
        assert "\n80sec-0: failed, no final evaluation\n" in printed
        assert "not started" not in printed
    monkeypatch.setattr(flags, "FLAGS", Flags(**given | dict(budget="1m")))
    assert main([]) == 0
    assert capsys.readouterr().err == "not started: 80sec-0, about 0.4 h\n"


def test_the_command_lists_claims_and_refuses_others(tmp_path: Path) -> None:
    """Catches: --list that needs data or a folder; a message with a traceback."""
    listed = processes.run("reproduce", "--list", "--claims=80sec,lrn", package="experiments")
    assert listed.returncode == 0, listed.stderr
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == ["80sec", "lrn"]
    assert "Published: 26 %; reproduced if within 1 point. Two cores: 0.4 h" in listed.stdout
    arguments = (f"--output={tmp_path / 'out'}", f"--data_dir={tmp_path}")
    refused = processes.run("reproduce", *arguments, package="experiments")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
