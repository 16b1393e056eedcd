"""Run one case of the benchmark in this process, which `schedule` starts with a JSON object.

    python -m experiments.benchmark.accelerator.worker '{"case": …, "platform": …, …}'

The result is written to result.json in the folder of the case. A case that this machine cannot run
writes the reason in its place.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # before the libraries are loaded, which takes seconds

from alexnet_jax.errors import InputError  # noqa: E402
from alexnet_jax.extras import check_installed  # noqa: E402
from experiments.benchmark.accelerator.cases import (  # noqa: E402
    BY_NAME,
    PEERS,
    Case,
    make_config,
)
from experiments.benchmark.timing import OURS, Result  # noqa: E402

RESULT = "result.json"
NO_PLATFORM = "no_platform"  # the reason concerns all cases
REHEARSAL_STEPS = 2


def main(request: dict[str, Any]) -> None:
    """Run a case and write its result.

    Args:
        request: case (its name), platform, repeats, folder, and peak_tflops, which may be None.
    """
    case, platform = BY_NAME[request["case"]], request["platform"]
    result: Result
    try:
        if case.kind in PEERS:
            result = _run_peer(case, platform, request["repeats"])
        else:
            result = _run_ours(case, platform, request)
    except NoPlatformError as error:
        result = {NO_PLATFORM: str(error)}
    except InputError as error:
        result = {"not_run": str(error)}
    Path(request["folder"], RESULT).write_text(json.dumps(result))


class NoPlatformError(Exception):
    """JAX or PyTorch finds no device of the platform."""


def _run_ours(case: Case, platform: str, request: dict[str, Any]) -> Result:
    """Run a case of this program."""
    from experiments.benchmark.accelerator import forms, measure

    rehearsal, repeats = platform == "cpu", request["repeats"]
    select_platform(platform, case.devices)
    if case.kind == "device":
        return measure.measure_device(repeats, rehearsal=rehearsal)
    config = make_config(case, rehearsal=rehearsal)
    if case.kind == "profile":
        return measure.measure_profile(config, Path(request["folder"]))
    if case.kind in ("resident", "seeds"):
        small = dict(length=2, images=64) if rehearsal else {}
        seeds = measure.SEEDS if case.kind == "seeds" else 1
        return measure.measure_resident_steps(config, repeats, seeds=seeds, **small)
    assert case.kind == OURS
    steps = REHEARSAL_STEPS if rehearsal else measure.STEPS
    peak = request["peak_tflops"]
    with forms.use_form(case.form):
        return measure.measure_step(config, repeats, STARTED, steps=steps, peak=peak)


def _run_peer(case: Case, platform: str, repeats: int) -> Result:
    """Run a case of PyTorch."""
    if platform == "tpu":
        raise InputError("PyTorch's step is compared on GPUs only")
    check_installed("test", "a case with PyTorch (--only names others)", "torch")
    import torch

    if platform == "gpu" and not torch.cuda.is_available():
        raise InputError(f"PyTorch {torch.__version__} finds no GPU")
    from experiments.benchmark.accelerator import measure, torch_peers

    rehearsal = platform == "cpu"
    return torch_peers.measure_peer(
        make_config(case, rehearsal=rehearsal),
        case.kind,
        "cpu" if rehearsal else "cuda",
        repeats,
        STARTED,
        steps=REHEARSAL_STEPS if rehearsal else measure.STEPS,
    )


def select_platform(platform: str, devices: int = 1) -> None:
    """Make JAX compute on a platform; on a CPU simulate several devices.

    Raises:
        NoPlatformError: the machine has no such device.
    """
    import jax

    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    elif (backend := jax.default_backend()) != platform:
        package = {"gpu": "cuda13", "tpu": "tpu"}[platform]
        raise NoPlatformError(
            f"--platform={platform}: JAX finds only {backend}; on a machine "
            f'that has one, pip install "jax[{package}]=={jax.__version__}"'
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
