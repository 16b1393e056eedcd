"""What `smoke` checks on a machine, each in a process of its own.

    python -m experiments.benchmark.accelerator.smoke_checks NAME PLATFORM FOLDER

The last line of the output is the result, or why the check failed.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import Config, with_changes
from configs import googlenet, resnet, vgg, zfnet
from experiments.benchmark.accelerator import smoke_config
from experiments.benchmark.accelerator.schedule import make_environment
from experiments.benchmark.accelerator.worker import NoPlatformError, select_platform

FAMILIES: dict[str, Callable[[], Config]] = {
    "alexnet": smoke_config.get_config,
    "zfnet": lambda: zfnet.get_config("sample"),
    "vgg": lambda: vgg.get_config("sample"),
    "googlenet": lambda: with_changes(googlenet.get_config("sample"), {"model.width": 0.05}),
    "resnet": lambda: with_changes(resnet.get_config("cifar20,sample"), {"model.width": 4}),
}
BATCH = 8
# Largest error of a convolution in bfloat16 and of its gradients, relative to their norms. A result
# is rounded to 8 bits, which is an error of at most 2^-8 of each number.
CONVOLUTION_TOLERANCE = 2**-8
# Largest relative difference of the mean loss of PRECISION_STEPS steps in bfloat16 and in float32.
PRECISION_TOLERANCE, PRECISION_STEPS = 0.02, 20
POLL_SECONDS = 0.002
NO_PLATFORM_STATUS = 2


class CheckFailed(Exception):
    """What a check found wrong."""


def check_device(_: str, __: Path) -> str:
    """Return what the device is and the versions of the packages."""
    from experiments.benchmark.accelerator import measure

    found = measure.describe_device()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['devices']} × {found['device']}, driver {found['driver']}; {versions}"


def check_convolution(_: str, __: Path) -> str:
    """Compare a convolution in bfloat16 and its two gradients with NumPy in float64."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax.layers.conv import convolve

    draw = np.random.default_rng(0).normal
    x, kernel, gradient = (
        np.asarray(draw(0, 1, shape), jnp.bfloat16)
        for shape in ((16, 13, 13, 32), (3, 3, 32, 64), (16, 13, 13, 64))
    )

    @jax.jit
    def results(x: Any, kernel: Any, gradient: Any) -> Any:
        outputs, pull_back = jax.vjp(lambda x, kernel: convolve(x, kernel, 1, (1, 1)), x, kernel)
        return outputs, *pull_back(gradient)

    found = results(x, kernel, gradient)
    expected = _convolve_by_offsets(*(array.astype(np.float64) for array in (x, kernel, gradient)))
    errors = [
        np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)
        for a, b in zip(found, expected, strict=True)
    ]
    names = ("outputs", "gradient of inputs", "gradient of kernels")
    listed = ", ".join(f"{name} {error:.2%}" for name, error in zip(names, errors, strict=True))
    if not max(errors) <= CONVOLUTION_TOLERANCE:
        raise CheckFailed(f"errors {listed}; at most {CONVOLUTION_TOLERANCE:.2%} is expected")
    return f"errors {listed}"


def _convolve_by_offsets(
    x: np.ndarray, kernel: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a 3×3 convolution with a padding of 1 in NumPy, and the gradients of x and kernel."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    outputs, kernel_gradient = np.zeros(gradient.shape), np.zeros(kernel.shape)
    padded_gradient = np.zeros(padded.shape)
    for i, j in np.ndindex(3, 3):
        window = np.s_[:, i : i + height, j : j + width]
        outputs += padded[window] @ kernel[i, j]
        kernel_gradient[i, j] = np.einsum("bhwc,bhwo->co", padded[window], gradient)
        padded_gradient[window] += gradient @ kernel[i, j].T
    return outputs, padded_gradient[:, 1:-1, 1:-1], kernel_gradient


def _check_family(family: str) -> str:
    """Take two steps of a family's small model and look at the loss."""
    losses = compute_losses(FAMILIES[family](), 2)
    if not np.isfinite(losses).all():
        raise CheckFailed(f"the losses of two steps are {losses}")
    if losses[0] == losses[1]:
        raise CheckFailed(f"the loss stays at {losses[0]} after a step")
    return f"losses {losses[0]:.4f}, {losses[1]:.4f}"


def check_precision(_: str, __: Path) -> str:
    """Compare the losses of the same steps in bfloat16 and in float32."""
    wide, narrow = (
        compute_losses(with_changes(smoke_config.get_config(), {"compute_dtype": dtype}))
        for dtype in ("float32", "bfloat16")
    )
    difference = abs(np.mean(narrow) / np.mean(wide) - 1)
    text = f"mean losses {np.mean(wide):.4f} and {np.mean(narrow):.4f}, {difference:.2%} apart"
    if not difference <= PRECISION_TOLERANCE:
        raise CheckFailed(f"{text}; at most {PRECISION_TOLERANCE:.0%} is expected")
    return text


def compute_losses(config: Config, steps: int = PRECISION_STEPS) -> list[float]:
    """Return the losses of the first steps of a config, all on the same few random images."""
    from experiments.benchmark.synthetic_step import SyntheticTrainStep

    step = SyntheticTrainStep(with_changes(config, {"model.num_classes": 10, "batch_size": BATCH}))
    losses = []
    for _ in range(steps):
        step()
        losses.append(step.loss())
    return losses


def check_runs(platform: str, folder: Path) -> str:
    """Compare three runs of the same command, of which one is killed and continued.

    The runs have XLA's flag for deterministic operations.
    """
    first, second, killed = (folder / name for name in ("first", "second", "killed"))
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(run_whole, platform, workdir) for workdir in (first, second)]
        step = run_killed(platform, killed)
        for other in others:
            other.result()
    expected = _read_checksums(first)
    for workdir, what in ((second, "repeated"), (killed, f"killed at step {step} and continued")):
        if wrong := [k for k, value in _read_checksums(workdir).items() if expected[k] != value]:
            raise CheckFailed(f"a run that was {what} has other {', '.join(wrong)}")
    return f"{len(expected)} arrays are the same after repeating, and after a kill at step {step}"


def run_whole(platform: str, workdir: Path) -> None:
    """Run the command to its end.

    Raises:
        CheckFailed: it failed.
    """
    process = _start_run(platform, workdir)
    output, _ = process.communicate()
    if process.returncode:
        lines = output.strip().splitlines() or ["without a message"]
        raise CheckFailed(f"{workdir.name} run, exit status {process.returncode}: {lines[-1]}")


def run_killed(platform: str, workdir: Path) -> int:
    """Kill the command after its first checkpoint, continue it, and return the checkpoint's step.

    Raises:
        CheckFailed: there was no checkpoint, or the run was over before the kill.
    """
    process = _start_run(platform, workdir)
    while process.poll() is None and not list((workdir / "checkpoints").glob("step_*[0-9]")):
        time.sleep(POLL_SECONDS)
    process.kill()
    output, _ = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise CheckFailed(f"the run to be killed ended by itself: {output.strip()[-500:]}")
    step = _find_newest(workdir)
    if step >= smoke_config.get_config().max_steps:
        raise CheckFailed("the run to be killed had already saved its last step")
    run_whole(platform, workdir)
    return step


def _start_run(platform: str, workdir: Path) -> subprocess.Popen[str]:
    """Start the command on a platform, in the group of this process, so that they end together."""
    flags = ["--xla_gpu_deterministic_ops=true"] if platform == "gpu" else []
    environment = make_environment(*flags, on_cpu=platform == "cpu")
    if platform != "cpu":
        environment.pop("JAX_PLATFORMS", None)  # this process leaves the device to the command
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "alexnet_jax.main", f"--config={smoke_config.__file__}"),
            f"--workdir={workdir}",
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _find_newest(workdir: Path) -> int:
    """Return the step of a run's newest checkpoint."""
    from alexnet_jax.checkpoint import Checkpoints

    with Checkpoints(workdir) as checkpoints:
        return checkpoints.steps()[-1]


def _read_checksums(workdir: Path) -> dict[str, int]:
    """Return the checksums of the arrays in a run's newest checkpoint."""
    from alexnet_jax.checkpoint import Checkpoints

    with Checkpoints(workdir) as checkpoints:
        sums: dict[str, int] = checkpoints.metadata(checkpoints.steps()[-1])["checksums"]
    return sums


# Function from (platform, folder) to what a check found.
CHECKS: dict[str, Callable[[str, Path], str]] = {
    "device": check_device,
    "convolution": check_convolution,
    **{
        f"step/{family}": lambda _, __, family=family: _check_family(family)  # type: ignore[misc]
        for family in FAMILIES
    },
    "precision": check_precision,
    "runs": check_runs,
}
WITHOUT_DEVICE = ("runs",)  # their process leaves the device to those that it starts


def main(name: str, platform: str, folder: str) -> int:
    """Run a check; print its result, or why it failed."""
    try:
        select_platform("cpu" if name in WITHOUT_DEVICE else platform)
        print(CHECKS[name](platform, Path(folder)))
    except NoPlatformError as error:
        print(error)
        return NO_PLATFORM_STATUS
    except CheckFailed as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
