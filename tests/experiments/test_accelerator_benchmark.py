"""The benchmark of accelerators on a CPU: its cases, its budget, its processes, its peers."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import processes
from helpers.tiny_model import tiny_config
from torch import nn

from alexnet_jax.config import with_changes
from experiments.benchmark import synthetic_step
from experiments.benchmark.accelerator import (
    floors,
    measure,
    profiles,
    schedule,
    torch_peers,
)
from experiments.benchmark.accelerator.cases import (
    BY_NAME,
    CASES,
    MODELS,
    Case,
    make_config,
)
from experiments.benchmark.timing import OURS, Result

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_cases_are_complete() -> None:
    """Catches: two cases of one name, a peer before the case that it is compared with or without
    one, and a model that no case uses."""
    names = [case.name for case in CASES]
    assert len(BY_NAME) == len(CASES)
    assert {case.model for case in CASES} - {""} == MODELS.keys()
    for case in CASES:
        if case.form or case.kind not in (OURS, "device"):
            assert names.index(case.compared_with) < names.index(case.name)
    wanted = {(dtype, batch) for dtype in ("bfloat16", "float32") for batch in (128, 256, 1024)}
    ours = {(c.dtype, c.batch) for c in CASES if c.kind == OURS and c.model == "alexnet"}
    assert ours == wanted


@pytest.mark.parametrize("rehearsal", [False, True])
def test_configs_of_cases(rehearsal: bool) -> None:
    """Catches: a case whose config is not valid, or has another batch or type than its name."""
    for case in CASES[1:]:
        config = make_config(case, rehearsal=rehearsal)
        assert config.compute_dtype == case.dtype
        assert config.batch_size == (8 if rehearsal else case.batch)
        assert config.parallel.columns == case.devices
        assert config.model.num_classes in (10, 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, for `schedule`."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_budget(clock: list[float]) -> None:
    """Catches: a case begun without the time for it, a shorter one skipped after it, a limit
    beyond the budget, a reason that is not given, and a ratio upside down or of another case."""
    ours = Case(OURS, "alexnet", "bfloat16", 128, 60)
    peer = Case("torch_eager", "alexnet", "bfloat16", 128, 25)
    other = Case("torch_eager", "alexnet", "bfloat16", 256, 25)
    long, short = Case("profile", "alexnet", "bfloat16", 128, 60), Case("device", "", "", 0, 20)
    limits = []

    def run(case: Case, limit: float) -> Result:
        limits.append(limit)
        clock[0] += 30
        if case.kind == OURS:
            return {"seconds": 0.5, "batch_size": 128}
        return {"reference_seconds": 2.0, "batch_size": case.batch} if case.batch else {}

    cases = [ours, peer, other, long, short]
    first, second, third, skipped, last = schedule.run_in_budget(cases, run, 140, rehearsal=False)
    assert limits == [140, 75, 75, 50]
    assert [first["name"], last["name"]] == [ours.name, "device"]
    assert second["ratio"] == 4
    assert (second["images_per_second"], second["reference_images_per_second"]) == (256, 64)
    assert "ratio" not in third
    assert skipped["not_run"] == "takes about 60 s, 50 s of the budget are left"
    assert (
        schedule.format_accelerator_result(skipped) == f"{long.name}: not run: {skipped['not_run']}"
    )


def test_a_process_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """Catches: a limit that is not kept, and a process that goes on using the device."""
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log.txt"
    assert schedule.run_process(["-c", program], log, 3, dict(os.environ)) is None
    child = int(log.read_text())
    for _ in range(100):
        if (
            not Path(f"/proc/{child}/cmdline").exists()
            or not Path(f"/proc/{child}/cmdline").read_bytes()
        ):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the grandchild is still running")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise SystemExit('no room')", "exit status 1: no room (more in "),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9: without a message"),
    ],
)
def test_a_case_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, expected: str
) -> None:
    """Catches: a failure that ends the benchmark, one that is taken for a result, and an old
    result in its place."""
    run_process = schedule.run_process
    monkeypatch.setattr(
        schedule, "run_process", lambda _, *others: run_process(["-c", program], *others)
    )
    old = tmp_path / "device" / "result.json"
    old.parent.mkdir()
    old.write_text('{"device": "an old one"}')
    result = schedule.Worker("cpu", 1, tmp_path)(BY_NAME["device"], 60)
    assert result["failed"].startswith(expected)
    assert "device" not in result


def run_benchmark(*arguments: str) -> tuple[int, list[Result], str]:
    """Run the command; return its exit status, results and messages."""
    ran = processes.run("benchmark", *arguments, "--json", "--repeats=1", package="experiments")
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr


def test_the_rehearsal(tmp_path: Path) -> None:
    """Catches: a case whose process cannot start, a result that is not saved, an unknown peak that
    is taken for one, memory or versions that are not given, and a form that is not compared."""
    form = "alexnet/bfloat16/128/max_pool=reduce_window"
    only = f"device,alexnet/bfloat16/128,{form}"
    status, results, messages = run_benchmark(
        "--platform=cpu", f"--only={only}", f"--output={tmp_path}", "--budget=10m"
    )
    assert status == 0, (results, messages)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == results
    device, step, other = results
    assert other["name"] == form
    assert other["ratio"] == step["seconds"] / other["seconds"]
    assert f", ratio {other['ratio']:.2f}, " in schedule.format_accelerator_result(other)
    assert device["product_tflops"].keys() == {"bfloat16", "float32"}
    assert device["versions"]["jax"]
    assert step["batch_size"] == 8
    assert step["images_per_second"] == pytest.approx(8 / step["seconds"])
    assert step["first_step_seconds"] > step["seconds"]
    assert step["peak_mib"] > 50
    assert step["share_of_peak"] is step["share_of_floor"] is None
    assert "peak not known" in schedule.format_accelerator_result(step)


@pytest.mark.slow
def test_the_whole_rehearsal(tmp_path: Path) -> None:
    """Catches: a case that cannot be run, on a CPU at least, and one without a ratio."""
    status, results, messages = run_benchmark("--platform=cpu", f"--output={tmp_path}")
    assert status == 0, (results, messages)
    assert [result["name"] for result in results] == list(BY_NAME)
    for case, result in zip(CASES, results, strict=True):
        assert not {"failed", "not_run"} & result.keys(), result
        assert ("ratio" in result) == (case.kind.startswith("torch") or bool(case.form))


def test_steps_of_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: the steps of all seeds counted as one, or those of one seed for all."""
    timed = {"seconds": 1.2, "seconds_low": 0.6, "seconds_high": 2.4, "clocks": []}
    monkeypatch.setattr(measure, "time_steps", lambda *_: timed)
    config = with_changes(tiny_config(tmp_path), {"model.num_classes": 10})
    result = measure.measure_resident_steps(config, 1, length=2, images=20, seeds=3)
    assert result["seconds"] == pytest.approx(0.2)
    assert result["steps_per_second"] == pytest.approx(5)
    assert result["images_per_second"] == pytest.approx(5 * config.batch_size)


def test_a_missing_platform(tmp_path: Path) -> None:
    """Catches: every case failing in turn where there is no GPU."""
    status, results, messages = run_benchmark("--platform=gpu", f"--output={tmp_path}")
    assert status == 2
    assert not results
    assert "--platform=gpu: JAX finds only cpu" in messages
    assert messages.count("\n") == 1


def test_flags_of_the_platform() -> None:
    """Catches: a flag that is ignored without --platform."""
    status, _, messages = run_benchmark("--budget=8m")
    assert status == 2
    assert "--budget is for --platform, which is not given" in messages


def test_the_benchmark_counts_all_devices(tmp_path: Path) -> None:
    """Catches: a rate per device, a peak of one device for two, and steps counted as one."""
    changes = {"model.num_classes": 10, "parallel.columns": 2}
    config = with_changes(tiny_config(tmp_path), changes)
    started = time.perf_counter()
    result = measure.measure_step(config, 1, started, steps=2, peak=0.5)
    rate = config.batch_size / result["seconds"]
    assert result["images_per_second"] == rate
    assert result["tflops"] == pytest.approx(rate * floors.count_step_operations(config) / 1e12)
    assert result["peak_tflops"] == 1
    assert result["share_of_peak"] == pytest.approx(result["tflops"])
    line = schedule.format_accelerator_result({"name": "small", **result})
    assert f"{result['share_of_peak']:.1%} of the peak" in line


def test_steps_of_a_dispatch(tmp_path: Path) -> None:
    """Catches: the time of a dispatch for that of a step, and a dispatch of another length."""
    config = with_changes(tiny_config(tmp_path), {"model.num_classes": 10})
    result = measure.measure_resident_steps(config, 1, length=3, images=20)
    assert result["steps_per_dispatch"] == 3
    assert result["images_per_second"] == pytest.approx(8 * result["steps_per_second"])
    assert result["steps_per_second"] == pytest.approx(1 / result["seconds"])
    assert "3 steps in a dispatch" in schedule.format_accelerator_result(
        {"name": "small", **result}
    )
    steps = synthetic_step.ResidentTrainSteps(config, 3, 20)
    steps.dispatch()
    steps.dispatch()
    assert steps._state.step == 6


def test_a_profile_names_layers(tmp_path: Path) -> None:
    """Catches: operations without their layers, times of all steps for those of one, and a file
    with other rows than the sums."""
    config = with_changes(tiny_config(tmp_path), {"model.num_classes": 10})
    result = measure.measure_profile(config, tmp_path)
    layers = result["layers"]
    assert {"conv1 forward", "conv2 backward", "fc6 backward", profiles.REST} <= layers.keys()
    assert result["microseconds"] == pytest.approx(sum(layers.values()))
    rows = (tmp_path / "profile.csv").read_text().splitlines()
    assert rows[0] == "operation,kernel,layer,direction,calls,microseconds"
    assert {float(row.split(",")[4]) for row in rows[1:]} >= {1.0}
    assert "µs of a step: " in schedule.format_accelerator_result({"name": "profile", **result})


def test_layers_of_scopes() -> None:
    """Catches: a layer taken for one whose name it begins with, an op within a block taken for the
    block's, and a gradient taken for the forward pass."""
    layers = ["conv1", "conv10", "conv2_1", "conv2_1/conv1"]
    text = (
        '  %fusion.3 = f32[8]{0} fusion(%p), metadata={op_name="jit(f)/conv10/add" line=3}\n'
        '  ROOT %dot.1 = f32[8]{0} dot(%p), metadata={op_name="jit(f)/transpose(jvp(M))/conv1/x"}\n'
        "  %copy = f32[8]{0} copy(%p)\n"
    )
    scopes = profiles.parse_scopes(text)
    assert scopes.keys() == {"fusion.3", "dot.1"}
    assert profiles.find_layer(scopes["fusion.3"], layers) == ("conv10", "forward")
    assert profiles.find_layer(scopes["dot.1"], layers) == ("conv1", "backward")
    inner = "jit(f)/jvp(M)/conv2_1/conv1/mul"
    assert profiles.find_layer(inner, layers) == ("conv2_1/conv1", "forward")
    assert profiles.find_layer("jit(f)/mul", layers) == (profiles.REST, "")


def test_the_shifted_lrn_is_pytorchs() -> None:
    """Catches: a window off by one channel, and an alpha divided once too often."""
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 30, (2, 9, 4, 3)).astype(np.float32))
    for beta in (0.75, 0.6):
        lrn = nn.LocalResponseNorm(5, 1e-2, beta, 2.0)
        torch.testing.assert_close(torch_peers.ShiftedLRN(lrn)(x), lrn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["torch_eager", "torch_compile_shifted_lrn"])
def test_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Catches: a peer without the mode or the normalization of its name, or in another type."""
    compiled = []

    def compile_nothing(function: object, mode: str | None) -> object:
        compiled.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    types = set()
    forward = nn.Conv2d.forward

    def seen(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        types.add((out.dtype, out.is_contiguous(memory_format=torch.channels_last)))
        return out

    monkeypatch.setattr(nn.Conv2d, "forward", seen)
    changes = {"model.num_classes": 10, "compute_dtype": "bfloat16"}
    config = with_changes(tiny_config(tmp_path), changes)
    with torch.random.fork_rng():
        result = torch_peers.measure_peer(config, kind, "cpu", 1, time.perf_counter(), steps=1)
    assert types == {(torch.bfloat16, True)}
    assert compiled == ([] if kind == "torch_eager" else ["reduce-overhead"])
    assert kind in result["reference"]
    assert result["reference_seconds"] > 0


def test_the_peer_with_shifted_lrn_has_no_other() -> None:
    """Catches: a peer that is compiled with PyTorch's own normalization under another name."""
    model = nn.Sequential(nn.LocalResponseNorm(5), nn.Sequential(nn.LocalResponseNorm(3)))
    torch_peers.replace_lrn(model)
    assert [type(one) for one in model.modules()].count(torch_peers.ShiftedLRN) == 2
    with pytest.raises(ValueError, match=r"without nn\.LocalResponseNorm"):
        torch_peers.replace_lrn(model)
