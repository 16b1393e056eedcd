"""One run by several real processes, which stop, die, and come back in other numbers."""

import json
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set
from helpers.in_process import own_flags
from helpers.runs import last_recorded_step, newest_state
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import command, distributed, sharding
from alexnet_jax.config import ParallelConfig
from alexnet_jax.errors import DivergedError, InputError

Ended = list[subprocess.CompletedProcess[str]]
LIMIT = 2 * distributed.HEARTBEAT_SECONDS  # that the others may take to end after a death


@dataclass
class Runs:
    """The same run in one process, and in 4, 2, 2, 1 and 4 of them."""

    config: Path
    whole: Path
    broken: Path
    ended: dict[str, Ended] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)  # the newest checkpoint after the end
    seconds: dict[str, float] = field(default_factory=dict)  # from a signal to the last end

    def arguments(
        self,
        workdir: Path,
        columns: int = 1,
        data: int = 1,
        scheme: str = "columns",
        resident: str = "off",
    ) -> list[str]:
        """Of main, on a layout, with the images on the host or on the devices."""
        layout = dict(columns=columns, data=data, scheme=scheme)
        fields = [f"--config.parallel.{name}={value}" for name, value in layout.items()]
        fields.append(f"--config.data.resident={resident}")
        return [f"--config={self.config}", f"--workdir={workdir}", *fields]

    def stop(
        self,
        name: str,
        which: int,
        number: signal.Signals,
        columns: int,
        data: int,
        scheme: str = "columns",
        resident: str = "off",
    ) -> None:
        """Start the broken run on a layout, and signal one process in the middle of training."""
        arguments = self.arguments(self.broken, columns, data, scheme, resident)
        count = columns * data
        started = (
            processes.start_several("main", count, *arguments, slurm=name == "the first killed")
            if count > 1
            else [processes.start("main", *arguments)]
        )
        # After the first checkpoint, so that there is something to lose.
        goal = max(10, last_recorded_step(self.broken)) + random.Random(name).randint(2, 9)
        try:
            processes.wait_for(started[0], lambda: last_recorded_step(self.broken) >= goal)
            begin = time.monotonic()
            started[which].send_signal(number)
            self.ended[name] = [processes.end(process) for process in started]
        finally:
            for process in started:
                process.kill()
        self.seconds[name] = time.monotonic() - begin
        whole = (self.broken / "checkpoints").glob("step_*/_CHECKPOINT_METADATA")
        self.saved[name] = max(int(path.parent.name.removeprefix("step_")) for path in whole)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Each part goes on where the one before ended; one is started as by SLURM's srun.

    The first and the last part are one weird trick: their convolutions share the batch; they are
    one program, so that the last one need not compile it. In two parts each process has all images
    on its device.
    """
    runs = new_runs(tmp_path_factory.mktemp("distributed"))
    with processes.compiled_quickly():
        run_all(runs)
    return runs


def new_runs(folder: Path) -> Runs:
    """Write images and a config for runs that have not begun."""
    write_idx_set(folder / "data", train=120, test=20)
    config = processes.write_config(folder, folder / "data")
    return Runs(config, folder / "whole", folder / "broken")


def run_all(runs: Runs) -> None:
    """Run the whole run, and the parts of the broken one."""
    runs.ended["whole"] = [processes.run("main", *runs.arguments(runs.whole))]
    scheme = "one_weird_trick"
    runs.stop("a worker killed", 3, signal.SIGKILL, columns=2, data=2, scheme=scheme)
    runs.stop("one terminated", 1, signal.SIGTERM, columns=2, data=1, resident="on")
    runs.stop("the first killed", 0, signal.SIGKILL, columns=1, data=2, resident="on")
    runs.stop("alone", 0, signal.SIGTERM, columns=1, data=1)
    last = runs.arguments(runs.broken, columns=2, data=2, scheme=scheme)
    ended = [processes.end(p) for p in processes.start_several("main", 4, *last)]
    runs.ended["finished"] = ended


def test_the_same_losses_as_one_process(runs: Runs) -> None:
    """Catches: rows read twice or by the wrong process, masks or crops drawn by local row, a
    gradient averaged over some processes, records written by several processes, a batch lost
    or repeated where the number of processes changes. Sums are taken in another order."""
    for ended in (*runs.ended["whole"], *runs.ended["finished"]):
        assert ended.returncode == 0, ended.stderr
    expected, found = processes.records(runs.whole), processes.records(runs.broken)
    assert [(r["step"], r["split"]) for r in found] == [(r["step"], r["split"]) for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-4)
        assert one == pytest.approx(other)


def test_the_same_parameters_as_one_process(runs: Runs) -> None:
    """Catches: a part of the state that is not saved, or read into the wrong column."""
    (step, state), (again, expected) = newest_state(runs.broken), newest_state(runs.whole)
    assert step == again == 60
    for one, reference in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "killed"), [("a worker killed", 3), ("the first killed", 0)])
def test_a_death_ends_the_others(runs: Runs, name: str, killed: int) -> None:
    """Catches: processes that wait for a dead one for ever, or end in silence or as if done.

    Others notice a death by a failed exchange or, on a slow machine, by its silence. Where the
    first one dies, JAX's own message may come before ours.
    """
    assert runs.seconds[name] < LIMIT
    for i, ended in enumerate(runs.ended[name]):
        if i == killed:
            assert ended.returncode == -signal.SIGKILL
        else:
            assert ended.returncode in (1, -signal.SIGABRT), ended.stderr
            said = ("start all processes again", "another task died")
            assert any(text in ended.stderr for text in said), ended.stderr


def test_a_signal_to_one_stops_all_after_the_same_step(runs: Runs) -> None:
    """Catches: processes that stop after different steps, and so hang, or that do not save."""
    first, second = runs.ended["one terminated"]
    assert (first.returncode, second.returncode) == (143, 143), first.stderr + second.stderr
    stopped = int(first.stderr.split("Stopped after step ")[1].split(";")[0])
    assert f"after step {stopped} of 60" in runs.ended["the first killed"][0].stderr
    assert "Stopped after" not in second.stderr  # one speaks for all


def test_nothing_saved_is_lost(runs: Runs) -> None:
    """Catches: a checkpoint damaged by a death, or a restart before the newest one."""
    for ended in (e for part in runs.ended.values() for e in part):
        assert "damaged" not in ended.stderr
    names = [*runs.saved, "finished"]
    for stopped, following in pairwise(names):
        output = runs.ended[following][0].stderr
        assert f"after step {runs.saved[stopped]} of 60" in output, (stopped, following)


@pytest.mark.parametrize("what", ["config", "newest checkpoint"])
def test_processes_must_agree(tmp_path: Path, what: str) -> None:
    """Catches: two commands that differ, and so train two models or wait for each other for ever;
    a process that does not see the checkpoint from which the others continue.

    The rate decides nothing about shapes, so that nothing else notices. Only the first process
    sees the workdir with a checkpoint, whose content is not read before.
    """
    workdir = tmp_path / "run"
    each = ["--config.learning_rate=0.01", "--config.learning_rate=0.02"]
    if what == "newest checkpoint":
        (workdir / "checkpoints" / "step_10").mkdir(parents=True)
        each = [f"--workdir={path}" for path in (workdir, tmp_path / "elsewhere")]
    arguments = new_runs(tmp_path).arguments(workdir, columns=2)
    started = processes.start_several("main", 2, *arguments, each=each)
    for i, ended in enumerate([processes.end(process) for process in started]):
        assert ended.returncode == 2, ended.stderr
        assert f"process {i} of 2: the {what} of the processes 1 is not that of" in ended.stderr
    assert workdir.exists() == (what == "newest checkpoint")


def test_one_process_evaluates_what_four_trained(runs: Runs) -> None:
    """Catches: a checkpoint that only as many processes as saved it can read."""
    ended = processes.run("evaluate", f"--workdir={runs.broken}", "--views=ten", "--json")
    assert ended.returncode == 0, ended.stderr
    (saved,) = [r for r in processes.records(runs.broken) if r.get("views") == "ten"]
    result = json.loads(ended.stdout)
    for name in ("loss", "top1_error", "top5_error", "count"):
        assert result[name] == pytest.approx(saved[name], rel=1e-5)
    output = runs.ended["finished"]
    assert "ten views" in output[0].stdout
    assert [other.stdout for other in output[1:]] == ["", "", ""]


@pytest.mark.parametrize("axes", [("data",), ("data", "column")])
def test_rows_of_one_process(axes: tuple[str, ...]) -> None:
    """Catches: rows held by two columns counted twice, or out of order."""
    mesh = sharding.make_mesh(ParallelConfig(data=2, columns=2))
    rows = sharding.local_rows(8, NamedSharding(mesh, P(axes)))
    np.testing.assert_array_equal(rows, np.arange(8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(num_processes=2), r"--num_processes=2 .*: give all three, or --distributed"),
        (
            dict(coordinator_address="host", num_processes=2, process_id=0),
            r"--coordinator_address=host; expected HOST:PORT",
        ),
        (
            dict(coordinator_address="no.such.host.invalid:1", num_processes=2, process_id=1),
            r"--coordinator_address=no.such.host.invalid:1: no such host",
        ),
        (
            dict(coordinator_address="host:1", num_processes=2, process_id=2),
            r"--process_id=2; expected 0 to 1",
        ),
        (
            dict(distributed=True, coordinator_address="host"),
            r"--coordinator_address=host; expected HOST:PORT",
        ),
    ],
)
def test_wrong_flags(given: dict[str, Any], message: str) -> None:
    """Catches: flags that do not belong together and yet start something."""
    with own_flags():
        command.define_processes()
        absl_flags.FLAGS.mark_as_parsed()
        with (
            flagsaver.flagsaver(**given),
            pytest.raises(InputError, match=message),
            distributed.distributed_runtime(),
        ):
            pass


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (InputError("wrong"), 2),
        (DivergedError("not finite"), 3),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a bug"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_statuses_of_one_of_several(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int
) -> None:
    """Catches: a divergence that exits like wrong input or like a bug where several processes
    train, so that a sweep would try it again."""
    left: list[int] = []

    def fail() -> None:
        raise raised

    monkeypatch.setattr(distributed, "_join", lambda: True)
    monkeypatch.setattr(distributed, "_leave", left.append)
    with distributed.distributed_runtime():
        fail()
    assert left == [status]


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    """Run Python source in a new process to its end."""
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )


def test_stdout_is_for_results() -> None:
    """Catches: lines of native libraries among the results, results that go to stderr, a last line
    without its end that is lost, and a stdout that is not restored."""
    program = (
        "import os, sys\n"
        "from alexnet_jax.distributed import _stdout_for_results\n"
        "before = sys.stdout\n"
        "print('first')\n"
        "with _stdout_for_results():\n"
        "    print('result')\n"
        "    os.write(1, b'native\\n')\n"
        "    print('unfinished', end='; ')\n"
        "assert sys.stdout is before\n"
        "print('after', flush=True)\n"
        "os.write(1, b'native after\\n')\n"
    )
    ended = run_program(program)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "first\nresult\nunfinished; after\nnative after\n"
    assert ended.stderr == "native\n"


def test_a_taken_port_is_reported() -> None:
    """Catches: JAX's crash where process 0 cannot listen."""
    with own_flags(), socket.socket() as other:
        command.define_processes()
        absl_flags.FLAGS.mark_as_parsed()
        other.bind(("", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        with (
            flagsaver.flagsaver(coordinator_address=address, num_processes=2, process_id=0),
            pytest.raises(InputError, match=r"cannot listen there .*in use.*another port"),
            distributed.distributed_runtime(),
        ):
            pass


def test_an_address_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: every process waiting for process 0, where only JAX detects which one that is."""
    given: list[object] = []

    def initialize(*arguments: object, **_: object) -> None:
        given.extend(arguments)
        raise ValueError

    def create_connection(*_: object, **__: object) -> None:
        raise AssertionError("waits for process 0")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    address = f"127.0.0.1:{processes.free_port()}"
    with own_flags():
        command.define_processes()
        absl_flags.FLAGS.mark_as_parsed()
        with (
            flagsaver.flagsaver(distributed=True, coordinator_address=address),
            pytest.raises(InputError, match="finds no other processes"),
            distributed.distributed_runtime(),
        ):
            pass
    assert given == [address, None, None]


def test_the_others_never_come() -> None:
    """Catches: process 0 aborted by JAX, with a stack of C++, where the others do not start."""
    program = (
        "from absl import flags\n"
        "from alexnet_jax import command, distributed\n"
        "command.define_processes()\n"
        "flags.FLAGS(['program', '--process_id=0', '--num_processes=2',\n"
        f"    '--coordinator_address=127.0.0.1:{processes.free_port()}'])\n"
        "distributed.START_SECONDS = 1\n"
        "with distributed.distributed_runtime():\n"
        "    pass\n"
    )
    ended = run_program(program)
    assert ended.returncode == 2, ended.stderr
    _, message = ended.stderr.splitlines()
    assert "after 1 s not all other processes have connected" in message


def test_no_processes_to_be_found(runs: Runs) -> None:
    """Catches: a traceback of JAX's, or a wait for processes that cannot come."""
    ended = processes.run("main", *runs.arguments(runs.broken), "--distributed")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "--distributed finds no other processes" in ended.stderr


def test_all_devices_must_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a mesh without the devices of some process, which would wait for ever."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"makes 2 devices; the 2 processes have 4, and all must"):
        sharding.make_mesh(ParallelConfig(data=1, columns=2))
